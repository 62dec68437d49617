//! `tenantry psql`: a person at one tenant's database, the way its application gets there.
//!
//! It becomes psql, so that signals, exit status and the terminal are psql's own. The password goes through the
//! environment, where other users' `ps` does not show it.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;
use shard_map::{InvalidName, TenantId};

use crate::cli::failure::Failure;

/// The database that stands for the router's console.
const CONSOLE: &str = "tenantry";

/// psql at one tenant's database, through the router
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry psql acme -- -c 'select count(*) from people'")]
pub(crate) struct PsqlArgs {
    /// The tenant, or `tenantry` for the router's console
    #[arg(value_parser = database)]
    tenant: String,
    /// What psql is given as it is
    #[arg(last = true)]
    args: Vec<String>,
    /// The router's host
    #[arg(long, env = "TENANTRY_ROUTER_HOST", default_value = "127.0.0.1")]
    host: String,
    /// The router's port
    #[arg(long, env = "TENANTRY_ROUTER_PORT", default_value_t = 6432)]
    port: u16,
    /// The router user; its password is taken from TENANTRY_PASSWORD, or psql asks for it
    #[arg(long, env = "TENANTRY_USER")]
    user: Option<String>,
}

/// The console's name is no tenant's.
fn database(name: &str) -> Result<String, InvalidName> {
    if name == CONSOLE { Ok(name.to_owned()) } else { TenantId::new(name).map(String::from) }
}

pub(crate) fn run(args: PsqlArgs) -> anyhow::Result<()> {
    let user = args.user.ok_or_else(|| {
        Failure::usage("psql needs a router user")
            .hint("set TENANTRY_USER, or give --user; users: tenantry user list")
    })?;
    let program = std::env::var_os("TENANTRY_PG_BIN")
        .map(|bin| PathBuf::from(bin).join("psql"))
        .filter(|program| program.is_file())
        .unwrap_or_else(|| PathBuf::from("psql"));
    let mut command = Command::new(&program);
    command
        .args(args.args)
        .env("PGHOST", args.host)
        .env("PGPORT", args.port.to_string())
        .env("PGUSER", user)
        .env("PGDATABASE", args.tenant);
    if let Some(password) = std::env::var_os("TENANTRY_PASSWORD") {
        command.env("PGPASSWORD", password);
    }
    // Only returns when it could not be started.
    let error = command.exec();
    Err(Failure::failed(format!("{} can't be started: {error}", program.display()))
        .hint("install the Postgres client programs, or name their folder in TENANTRY_PG_BIN")
        .into())
}
