//! Clusters that are made once and copied for each fleet: initdb for four of them costs ten times the processor time that
//! copying them does.
//!
//! It is `dev` that makes them, as for any fleet; only that its `postgres` is a program that starts nothing, so that they stay
//! as they were made. Each has another identifier, as the servers of one fleet must.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{fs, io};

use rustix::process::Signal;

use super::fleet::{Fleet, SERVERS};
use super::place::{Place, leftovers};
use super::programs::find;
use super::wait::until_blocking;
use super::{block_on, lock, signal};

/// A fleet that never served, and was killed.
static MADE: Mutex<Option<Arc<Fleet>>> = Mutex::new(None);

/// Copies them into a fleet's directory, with their passwords.
pub(super) fn copy(into: &Path) -> Result<(), String> {
    let made = made()?;
    let names = names().chain(["secrets".to_owned()]);
    let mut copy = Command::new("cp");
    copy.arg("-a").args(names.map(|name| made.path().join(name))).arg(into);
    match copy.status() {
        Ok(status) if status.success() => Ok(()),
        outcome => Err(format!("copying clusters: {outcome:?}")),
    }
}

/// Removes them, if any were made.
pub(super) fn remove() {
    if let Some(made) = lock(&MADE).take() {
        made.remove();
    }
}

/// Whoever comes after one that failed tries again.
fn made() -> Result<Arc<Fleet>, String> {
    let mut made = lock(&MADE);
    let fleet = match made.take() {
        Some(fleet) => fleet,
        None => Arc::new(make()?),
    };
    Ok(made.insert(fleet).clone())
}

fn names() -> impl Iterator<Item = String> {
    (1..=SERVERS).map(|number| format!("pg-{number}")).chain(["catalog".to_owned()])
}

fn make() -> Result<Fleet, String> {
    let place = Place::make()?;
    let bin = place.path().join("bin");
    programs(&bin).map_err(|error| format!("{}: {error}", bin.display()))?;
    let fleet = Fleet::launched(place, &["--pg-bin".as_ref(), bin.as_os_str()])?;
    let is_made = |name: String| fleet.path().join(name).join("data/tenantry.conf").exists();
    until_blocking("clusters to be made", || match fleet.started() {
        None => names().all(is_made).then_some(Ok(())),
        ended => ended,
    })??;
    until_blocking("what made them to end", || {
        let left = leftovers(fleet.path());
        left.keys().for_each(|pid| signal(*pid, Signal::KILL));
        left.is_empty().then_some(())
    })?;
    block_on(fleet.kill());
    Ok(fleet)
}

/// Postgres's programs, but for the server itself.
fn programs(bin: &Path) -> io::Result<()> {
    fs::create_dir(bin)?;
    let real = find("postgres").canonicalize()?;
    for entry in fs::read_dir(real.parent().unwrap_or(&real))? {
        let program = entry?.path();
        let run = format!("exec '{}' \"$@\"", program.display());
        // Started where it is: what it needs is found from there. The stand-in's place is its cluster's directory, where it is
        // found when all of it is to end.
        let text = match program == real {
            true => format!("case $1 in -V | --version) {run} ;; *) cd \"$2\" && exec sleep 600 ;; esac"),
            false => run,
        };
        let script = bin.join(program.file_name().unwrap_or_default());
        fs::write(&script, format!("#!/bin/sh\n{text}\n"))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
