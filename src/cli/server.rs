//! `tenantry server`: the Postgres servers that tenants live on.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use shard_map::ServerName;

use crate::cli::api::{Api, Connection};
use crate::cli::confirm::confirm;
use crate::cli::output::Format;
use crate::cli::wait::Progress;
use crate::cli::{draining, output, upgrade_plan, values};

/// Postgres servers that tenants live on
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry server list -o json")]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: ServerCommand,
}

#[derive(Debug, Subcommand)]
enum ServerCommand {
    /// Check a server, arm it (registry, roles, settings) and add it to the shard map
    #[command(
        after_help = "Example:\n  tenantry server add eu-1 --url postgres://postgres@db1:5432/postgres --label region=eu"
    )]
    Add(Add),
    /// All servers, with how many tenants each has
    #[command(after_help = "Example:\n  tenantry server list")]
    List,
    /// One server, as it is just now
    #[command(after_help = "Example:\n  tenantry server show pg-1")]
    Show {
        /// The server
        name: ServerName,
    },
    /// Empty it: it takes no new tenants, and those that are there are moved away, a few at a time. Said again, it tries those
    /// anew that were set aside
    #[command(after_help = "Example:\n  tenantry server drain pg-1 --wait")]
    Drain(Drain),
    /// Plan how it is emptied onto servers of newer versions of Postgres: in waves, each move with its command. Changes nothing;
    /// fails with 4 when no newer server can take a tenant
    #[command(after_help = "Example:\n  tenantry server upgrade-plan pg-1")]
    UpgradePlan {
        /// The server
        name: ServerName,
    },
    /// Point it to its standby, which was promoted: all of its tenants are served there from then on. The old server, if it
    /// still takes writes, is fenced, and if it comes back later, too
    #[command(
        after_help = "Example:\n  tenantry server failover pg-1 --to postgres://db1-b:5432/postgres --dry-run"
    )]
    Failover(Failover),
    /// Take it off the shard map; nothing on it is touched
    #[command(after_help = "Example:\n  tenantry server remove pg-1 --yes")]
    Remove {
        /// The server
        name: ServerName,
        /// It is lost for good: its tenants leave the map with it. Refused while anything answers at its address
        #[arg(long)]
        lost: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Failover {
    /// The server
    name: ServerName,
    /// The promoted standby; only host and port of it count
    #[arg(long, value_name = "URL")]
    to: String,
    /// Only look, and name the tenants that differ there from the catalog
    #[arg(long)]
    dry_run: bool,
    /// Do it although tenants differ there from the catalog
    #[arg(long)]
    accept_differences: bool,
    /// Open it again if an earlier failover closed it: it is the last copy, and what was written since is lost
    #[arg(long)]
    reopen: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Drain {
    /// The server
    name: ServerName,
    /// Let it keep what it has, and take new tenants again; moves under way end
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Return when it is empty, or nothing that is left can be moved now
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = values::duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct Add {
    /// Its name in the shard map
    name: ServerName,
    /// How the control plane reaches it as a superuser, once; better given in the environment, as it has a password. With several
    /// hosts, it is where the one is that takes writes, and when another one is promoted, that is followed
    #[arg(long, env = "TENANTRY_SERVER_URL", hide_env_values = true)]
    url: String,
    /// What it is for [default: shared]
    #[arg(long, value_enum)]
    class: Option<Class>,
    /// Server connections that all routers together may open there [default: what the server allows, less a reserve]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_connections: Option<u32>,
    /// A label for placement; may be given more than once
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::label)]
    labels: Vec<(String, String)>,
}

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Class {
    /// Takes any tenant
    Shared,
    /// Takes only tenants placed on it by name or class
    Dedicated,
}

impl Class {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

pub(crate) async fn run(args: ServerArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        ServerCommand::Add(add) => {
            let mut body = json!({ "name": add.name, "url": add.url });
            if let Some(class) = add.class {
                body["class"] = class.as_str().into();
            }
            if !add.labels.is_empty() {
                body["labels"] = values::labels(&add.labels)?;
            }
            if let Some(max_connections) = add.max_connections {
                body["max_connections"] = max_connections.into();
            }
            output::object(format, &api.post(&["v1", "servers"], &body).await?)?;
        }
        ServerCommand::List => {
            let servers = api.list(&["v1", "servers"], &[]).await?;
            let columns = [
                ("NAME", "name"),
                ("HOST", "host"),
                ("PORT", "port"),
                ("CLASS", "class"),
                ("STATE", "state"),
                ("TENANTS", "tenants"),
                ("MAX CONNECTIONS", "max_connections"),
                ("LABELS", "labels"),
            ];
            output::list(format, &servers, &columns)?;
        }
        ServerCommand::Show { name } => {
            draining::print(format, &api.get(&["v1", "servers", name.as_str()]).await?)?;
        }
        ServerCommand::UpgradePlan { name } => upgrade_plan::run(&api, format, name.as_str()).await?,
        ServerCommand::Drain(drain) => run_drain(&api, format, &drain).await?,
        ServerCommand::Failover(Failover { name, to, dry_run, accept_differences, reopen, yes }) => {
            if !dry_run {
                let lost = if reopen { "; what was written since it was closed is lost" } else { "" };
                confirm(yes, &format!("serving all tenants of server {name} from {to}{lost}"))?;
            }
            let body = json!({
                "to": to, "dry_run": dry_run, "accept_differences": accept_differences, "reopen": reopen,
            });
            output::object(format, &api.post(&["v1", "servers", name.as_str(), "failover"], &body).await?)?;
        }
        ServerCommand::Remove { name, lost, yes } => {
            let with = if lost { " with all tenants that are on it" } else { "" };
            confirm(yes, &format!("removing server {name}{with}"))?;
            let query = [("lost", if lost { "true" } else { "false" })];
            output::object(format, &api.delete(&["v1", "servers", name.as_str()], &query).await?)?;
        }
    }
    Ok(())
}

async fn run_drain(api: &Api, format: Format, drain: &Drain) -> anyhow::Result<()> {
    let name = drain.name.as_str();
    let answer = api.post(&["v1", "servers", name, "drain"], &json!({ "undo": drain.undo })).await?;
    if drain.wait {
        return draining::wait(api, format, name, drain.timeout).await;
    }
    output::object(format, &answer)?;
    if !drain.undo {
        let text = format!(
            "it is being emptied; follow that with: tenantry server drain {name} --wait, or tenantry server show {name}"
        );
        Progress::new().finish(&text);
    }
    Ok(())
}
