//! `tenantry dev`: a whole fleet on this machine, from the installed Postgres programs.
//!
//! The same parts as in production, each a process of its own, so that what is tried here (killing one, stopping one,
//! looking at its log) behaves as it will there. It is not for production: one machine, one password a server, no TLS.

pub(crate) mod env_file;
mod host;
mod layout;
mod leftovers;
mod parts;
mod plan;
pub(crate) mod ports;
pub(crate) mod postgres;
mod supervisor;

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::host::Host;
pub(crate) use self::host::own_program;
use self::layout::Layout;
pub(crate) use self::layout::write_private;
use self::parts::{Fleet, Parts};

/// Run a whole fleet on this machine, until it is stopped
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  tenantry dev --dir /tmp/fleet
  . /tmp/fleet/env && tenantry tenant create acme --wait && tenantry psql acme

It prints `ready` when all of it serves. SIGINT or SIGTERM stops it in order, a second one at once. Run again on the
same directory, it comes back with its data.")]
pub(crate) struct DevArgs {
    /// Directory that holds all of it; made if it is not there
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Postgres servers beside the catalog's; the last one is dedicated [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) servers: Option<u16>,
    /// Where the router listens [default: 6432]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) router_port: Option<u16>,
    /// Where the control plane listens [default: 7432]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) api_port: Option<u16>,
    /// Where the router answers Prometheus [default: the first free one after the API's]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) metrics_port: Option<u16>,
    /// Folder of the Postgres programs [default: $TENANTRY_PG_BIN, or the newest that is installed]
    #[arg(long, value_name = "DIR")]
    pub(crate) pg_bin: Option<PathBuf>,
    /// Folder of one server's programs instead, such as a newer version's; may be given for several, and at each start
    #[arg(long, value_name = "SERVER=DIR", value_parser = server_pg_bin)]
    pub(crate) server_pg_bin: Vec<(String, PathBuf)>,
    /// Prepared databases that each shared server keeps
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) stock: u32,
    /// Where the catalog's server listens; the others follow [default: 7500]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) base_port: Option<u16>,
}

fn server_pg_bin(given: &str) -> Result<(String, PathBuf), &'static str> {
    match given.split_once('=') {
        Some((server, bin)) if !server.is_empty() && !bin.is_empty() => Ok((server.to_owned(), bin.into())),
        _ => Err("name a server and a folder, as in pg-3=/usr/lib/postgresql/18/bin"),
    }
}

pub(crate) async fn run(args: DevArgs) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let host = Host::find(args.pg_bin.as_deref(), &args.server_pg_bin)?;
    let layout = Layout::open(&args.dir)?;
    let lock = leftovers::lock(&layout)?;
    tokio::select! {
        outcome = leftovers::clear(&layout) => outcome?,
        () = stop.recv() => return Ok(()),
    }
    let settings = plan::settle(&args, layout.settings()?)?;
    plan::check_servers(&settings, &args.server_pg_bin)?;
    plan::check_ports(&settings)?;
    let plan = plan::Plan { stock: args.stock, ..plan::plan(&layout, settings)? };
    let fleet = Fleet { host: &host, layout: &layout, plan: &plan };
    let mut parts = Parts::default();
    let outcome = tokio::select! {
        outcome = serve(&fleet, &mut parts) => outcome,
        () = stop.recv() => Ok(()),
    };
    eprintln!("stopping");
    let (hurry, hurried) = watch::channel(false);
    let stopping = parts.stop(&hurried);
    tokio::pin!(stopping);
    tokio::select! {
        () = &mut stopping => {}
        () = stop.recv() => {
            eprintln!("stopping at once");
            hurry.send_replace(true);
            stopping.await;
        }
    }
    drop(lock);
    outcome
}

/// Starts the fleet, says that it is ready, and stays; ends only when it can't be started.
async fn serve(fleet: &Fleet<'_>, parts: &mut Parts) -> anyhow::Result<()> {
    fleet.start(parts).await?;
    // Not before: a first start that came to nothing binds nobody to its flags.
    fleet.layout.remember(&fleet.plan.settings)?;
    fleet.write_env()?;
    let settings = fleet.plan.settings;
    eprintln!(
        "router 127.0.0.1:{}, API http://127.0.0.1:{}; to use them: . {}",
        settings.router_port,
        settings.api_port,
        fleet.layout.path("env").display()
    );
    crate::cli::output::line("ready")?;
    std::future::pending().await
}

/// SIGINT, SIGTERM and the terminal's end.
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    /// For who has nothing to reload.
    hangup: Option<Signal>,
}

impl StopSignals {
    pub(crate) fn listen() -> std::io::Result<Self> {
        Ok(Self { hangup: Some(signal(SignalKind::hangup())?), ..Self::listen_but_to_hangup()? })
    }

    /// For who takes SIGHUP for something else.
    pub(crate) fn listen_but_to_hangup() -> std::io::Result<Self> {
        let [interrupt, terminate] = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        Ok(Self { interrupt, terminate, hangup: None })
    }

    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hung_up => {}
        }
    }
}
