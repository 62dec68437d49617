//! `tenantry router` and `tenantry control`: the long-running halves, each a process of its own.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::cli::dev::StopSignals;
use crate::cli::failure::{Exit, Failure};
use crate::config::{Layers, Role, Secrets};
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
    warn(&secrets);
    let (Some(catalog_url), Some(master_key), Some(token)) =
        (secrets.catalog_url, secrets.master_key, secrets.token)
    else {
        // Reading the configuration has refused this already.
        anyhow::bail!("the control plane lacks a secret");
    };
    let secrets = control::Secrets { catalog_url, master_key, token };
    runtime()?.block_on(async {
        let mut stop = StopSignals::listen()?;
        control::run(config, secrets, async move { stop.recv().await }).await.map_err(|error| {
            let exit = match &error {
                control::Error::Usage(_) => Exit::Usage,
                _ => Exit::Failed,
            };
            anyhow::Error::from(Failure::new(exit, error.to_string()))
        })
    })
}

fn begin(role: Role, args: &RoleArgs) -> Result<Layers, Failure> {
    telemetry::start(&args.log, args.log_format)?;
    Layers::of_process(role, args.config.as_deref(), &args.set)
}

fn warn(secrets: &Secrets) {
    for warning in &secrets.warnings {
        tracing::warn!("{warning}");
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("the runtime can't start")
}
