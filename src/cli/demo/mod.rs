//! `tenantry demo`: the main job, start to end, on a fleet of its own, and proof that nothing was lost.
//!
//! It uses the fleet as anybody would: `tenantry dev` for the servers, the API for tenants, migrations and the move, the
//! router for the load. What was acknowledged to a client is then looked up on the servers themselves. Nothing outlives
//! it: the fleet is a child that is stopped however the demo ends, and that stops by itself should the demo be killed.

mod check;
mod fleet;
mod load;
mod report;
mod setup;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};

use self::fleet::{Fleet, Home};
use self::load::Load;
use self::report::Report;
use crate::cli::dev::StopSignals;
use crate::cli::failure::Failure;
use crate::cli::moves;
use crate::cli::output::Format;
use crate::cli::wait::text;

/// How long clients run before the move begins, and after it.
const AROUND_THE_MOVE: Duration = Duration::from_secs(2);
const MOVE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the comparison after the move may take; it does not hold up the demo for longer.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// Provision, migrate, load and move tenants on a fleet of its own, and check that nothing was lost
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tenantry demo --tenants 40 -o json

It exits 0 only if nothing was lost and no client saw an error.")]
pub(crate) struct DemoArgs {
    /// Directory for the fleet, kept at the end [default: a temporary one that is removed]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// How many tenants to make
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    tenants: u32,
    /// Folder of the Postgres programs [default: $TENANTRY_PG_BIN, or the newest that is installed]
    #[arg(long, value_name = "DIR")]
    pg_bin: Option<PathBuf>,
    /// What to print: a table for people, or JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let home = Home::new(args.dir.clone())?;
    let mut fleet = Fleet::start(&home, args.pg_bin.as_deref())?;
    let outcome = tokio::select! {
        outcome = drive(&mut fleet, args.tenants) => outcome,
        () = stop.recv() => Err(Failure::failed("interrupted").into()),
    };
    eprintln!("stopping the fleet");
    fleet.stop().await;
    home.remove();
    let report = outcome?;
    report.print(args.output)?;
    report.judge()
}

async fn drive(fleet: &mut Fleet, tenants: u32) -> anyhow::Result<Report> {
    eprintln!("starting a fleet of three servers");
    let site = std::sync::Arc::new(fleet.ready().await?);
    let tenants = setup::provision(&site, tenants).await?;
    setup::migrate(&site).await?;
    setup::fill(&site, &tenants).await?;
    let load = Load::start(&site, &tenants);
    tokio::time::sleep(AROUND_THE_MOVE).await;
    let heaviest = &tenants[0];
    let (from, to) = (setup::server_of(&site, &heaviest.id).await?, setup::dedicated(&site).await?);
    eprintln!("moving {} from {from} to {to} under load", heaviest.id);
    let body = json!({ "tenant": heaviest.id, "to": to });
    let started = site.api.post(&["v1", "moves"], &body).await?;
    let id = started["id"].as_i64().ok_or_else(|| Failure::failed("the move has no number"))?;
    let moved = moves::wait_until(&site.api, id, MOVE_TIMEOUT, &|state| state != "running").await?;
    if !matches!(text(&moved, "state"), "switched" | "completed") {
        let message = format!("the move is {}: {}", text(&moved, "state"), text(&moved, "error"));
        return Err(Failure::failed(message).into());
    }
    tokio::time::sleep(AROUND_THE_MOVE).await;
    let tallies = load.stop().await;
    let moved = verified(&site, id).await?;
    eprintln!("looking up every acknowledged write on the servers");
    let mut report = Report::new(&moved, &tallies);
    for tally in &tallies {
        report.add(check::tenant(&site, tally).await?);
    }
    report.old_database_gone = Some(check::is_gone(&site, &from, &heaviest.id).await?);
    Ok(report)
}

/// The move once its rows have been compared, or as it is when that takes long.
async fn verified(site: &fleet::Site, id: i64) -> anyhow::Result<Value> {
    let deadline = tokio::time::Instant::now() + VERIFY_TIMEOUT;
    loop {
        let moved = site.api.get(&["v1", "moves", &id.to_string()]).await?;
        if !moved["verified"].is_null() || tokio::time::Instant::now() > deadline {
            return Ok(moved);
        }
        tokio::time::sleep(POLL).await;
    }
}
