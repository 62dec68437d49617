//! `tenantry router` and `tenantry control`: the long-running halves, each a process of its own.

use std::path::PathBuf;

use clap::Args;

use crate::cli::failure::Failure;
use crate::config::{Layers, Role};
use crate::telemetry::{self, LogFormat};

/// What both roles are started with.
#[derive(Debug, Args)]
struct RoleArgs {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key of the configuration; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What to log: error, warn, info, debug, trace, or a list such as info,router=debug
    #[arg(long, value_name = "FILTER", env = "TENANTRY_LOG", default_value = "info")]
    log: String,
    /// What a log line looks like
    #[arg(long, value_enum, env = "TENANTRY_LOG_FORMAT", default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Run one router
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tenantry router --config /etc/tenantry/router.toml --set listen=0.0.0.0:6432"
)]
pub(crate) struct RouterArgs {
    #[command(flatten)]
    role: RoleArgs,
}

/// Run one control-plane instance: API, page and workers
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry control --config /etc/tenantry/control.toml")]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    role: RoleArgs,
}

pub(crate) fn router(args: &RouterArgs) -> anyhow::Result<()> {
    let layers = begin(Role::Router, &args.role)?;
    let (config, secrets) =
        layers.read(|config: &router::RouterConfig| config.validate().map_err(|error| error.to_string()))?;
    anyhow::bail!("not yet")
}

pub(crate) fn control(args: &ControlArgs) -> anyhow::Result<()> {
    let layers = begin(Role::Control, &args.role)?;
    let (config, secrets) = layers.read(control::ControlConfig::validate)?;
    anyhow::bail!("not yet")
}

fn begin(role: Role, args: &RoleArgs) -> Result<Layers, Failure> {
    telemetry::start(&args.log, args.log_format)?;
    Layers::of_process(role, args.config.as_deref(), &args.set)
}
