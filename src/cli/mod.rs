//! The command line: one file a noun, and this list of them.
//!
//! It is a contract: other programs call it, read its JSON and its exit status. Commands that operators use are thin:
//! they check what they are given, call the control plane's API, and print what it says.

mod api;
mod audit;
mod completions;
mod confirm;
mod demo;
mod dev;
mod doctor;
mod draining;
pub(crate) mod failure;
mod man;
pub(crate) mod map;
mod migrate;
mod moves;
mod output;
mod psql;
mod roles;
mod server;
mod tenant;
mod token;
mod top;
mod upgrade_plan;
pub(crate) mod usage;
mod user;
mod values;
mod wait;

use std::future::Future;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Tenant-sharded Postgres: a router, a control plane, and the shard map between them.
#[derive(Debug, Parser)]
#[command(
    name = "tenantry",
    version,
    propagate_version = true,
    max_term_width = 120,
    after_help = "Examples:\n  tenantry demo\n  tenantry dev --dir /tmp/fleet\n  tenantry tenant list -o json"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Router(roles::RouterArgs),
    Control(roles::ControlArgs),
    Dev(dev::DevArgs),
    Demo(demo::DemoArgs),
    Server(server::ServerArgs),
    Tenant(tenant::TenantArgs),
    User(user::UserArgs),
    Token(token::TokenArgs),
    Audit(audit::AuditArgs),
    Migrate(migrate::MigrateArgs),
    Move(moves::MoveArgs),
    Map(map::MapArgs),
    Doctor(doctor::DoctorArgs),
    Top(top::TopArgs),
    Psql(psql::PsqlArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// Runs a command to its end.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Router(args) => roles::router(&args),
        Command::Control(args) => roles::control(&args),
        Command::Dev(args) => on_this_thread(dev::run(args)),
        Command::Demo(args) => on_this_thread(demo::run(args)),
        Command::Server(args) => on_this_thread(server::run(args)),
        Command::Tenant(args) => on_this_thread(tenant::run(args)),
        Command::User(args) => on_this_thread(user::run(args)),
        Command::Token(args) => on_this_thread(token::run(args)),
        Command::Audit(args) => on_this_thread(audit::run(args)),
        Command::Migrate(args) => on_this_thread(migrate::run(args)),
        Command::Move(args) => on_this_thread(moves::run(args)),
        Command::Map(args) => on_this_thread(map::run(args)),
        Command::Doctor(args) => on_this_thread(doctor::run(args)),
        Command::Top(args) => on_this_thread(top::run(args)),
        Command::Psql(args) => psql::run(args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Commands need no second thread; and `dev` must not have one, as the children that it starts are to die with the
/// thread that started them.
fn on_this_thread(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime can't start")?;
    runtime.block_on(command)
}

#[cfg(test)]
mod tests;
