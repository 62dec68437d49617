//! One `dev` a directory, and nothing left of the last one.
//!
//! A `dev` that was killed leaves processes that are ending, or, where the kernel did not tell them, still running. They
//! are found by what they work on, never by a number in a file alone: numbers are given to other processes.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use super::layout::Layout;
use crate::cli::failure::{Exit, Failure};

/// How long leftovers are given to end, per signal.
const PATIENCE: [(Signal, Duration); 3] = [
    (Signal::INT, Duration::from_secs(20)),
    (Signal::QUIT, Duration::from_secs(5)),
    (Signal::KILL, Duration::from_secs(5)),
];
const POLL: Duration = Duration::from_millis(50);

/// Takes the directory for this process; it is free again when the file is closed, however we end.
pub(crate) fn lock(layout: &Layout) -> anyhow::Result<File> {
    let path = layout.path("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another tenantry dev runs on {}", layout.root().display());
            Err(Failure::new(Exit::Failed, message).hint("stop it, or give another --dir").into())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("locking {}", path.display())),
    }
}

/// A process that was found.
#[derive(Debug)]
struct Found {
    pid: Pid,
    is_postgres: bool,
}

/// Stops what a killed `dev` left on this directory, and clears what would be in the way of a start.
pub(crate) async fn clear(layout: &Layout) -> anyhow::Result<()> {
    let mut told = false;
    for (signal, patience) in PATIENCE {
        let begun = Instant::now();
        let mut signalled = false;
        loop {
            let found = find(layout.root());
            if found.is_empty() {
                return remove_stale_pids(layout);
            }
            if !told {
                eprintln!("stopping {} processes that the last tenantry dev left", found.len());
                told = true;
            }
            if !signalled {
                for process in &found {
                    // A router or control plane has nothing that a kill could harm.
                    let signal = if process.is_postgres { signal } else { Signal::KILL };
                    let _ = kill_process(process.pid, signal);
                }
                signalled = true;
            }
            if begun.elapsed() > patience {
                break;
            }
            tokio::time::sleep(POLL).await;
        }
    }
    Err(Failure::failed(format!(
        "processes of the last tenantry dev on {} do not stop",
        layout.root().display()
    ))
    .hint(format!("look for them with: pgrep -af {}", layout.root().display()))
    .into())
}

/// With no server running, a `postmaster.pid` is a lie; and its number may be another server's by now, which would make
/// Postgres refuse to start.
fn remove_stale_pids(layout: &Layout) -> anyhow::Result<()> {
    for entry in fs::read_dir(layout.root())?.flatten() {
        let path = entry.path().join("data").join("postmaster.pid");
        match fs::remove_file(&path) {
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(error).with_context(|| format!("removing {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn find(root: &Path) -> Vec<Found> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            let is_postgres = works_in(&entry.path(), root);
            (is_postgres || is_own(&entry.path(), root)).then_some(Found { pid, is_postgres })
        })
        .collect()
}

/// Whether a process is a Postgres server, or a child of one, on data below this directory: they work there.
fn works_in(process: &Path, root: &Path) -> bool {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    let place = fs::read_link(process.join("cwd")).unwrap_or_default();
    name.trim() == "postgres" && place.starts_with(root) && place.ends_with("data")
}

/// Whether a process is a router or control plane that was started with a file of this directory.
fn is_own(process: &Path, root: &Path) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let args: Vec<PathBuf> =
        line.split(|b| *b == 0).map(|arg| PathBuf::from(String::from_utf8_lossy(arg).into_owned())).collect();
    ["router", "control"].iter().any(|role| {
        args.windows(3).any(|args| {
            args[0].as_os_str() == *role
                && args[1].as_os_str() == "--config"
                && args[2] == root.join(format!("{role}.toml"))
        })
    })
}
