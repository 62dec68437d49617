//! `tenantry router` and `tenantry control`: the long-running halves, each a process of its own.

use std::path::PathBuf;
use std::pin::Pin;

use anyhow::Context as _;
use clap::Args;
use tokio::sync::watch;

use crate::cli::dev::StopSignals;
use crate::cli::failure::Failure;
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

/// Run one control-plane instance: API and workers
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry control --config /etc/tenantry/control.toml")]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    role: RoleArgs,
}

pub(crate) fn router(args: &RouterArgs) -> anyhow::Result<()> {
    let layers = begin(Role::Router, &args.role)?;
    let read = layers.read(|config: &router::RouterConfig| {
        let described =
            |e: router::InvalidConfig| format!("{}: {} is not allowed: {}", e.key, e.given, e.allowed);
        config.validate().map_err(described)
    });
    let (mut config, secrets) = read?;
    warn(&secrets);
    config.catalog_url = secrets.catalog_url;
    let master_key = secrets.master_key.context("the router lacks its master key")?;
    run_until_stopped(|stop| async {
        let outcome = router::run(config, master_key, prometheus::Registry::new(), stop).await;
        outcome.map_err(|error| Failure::failed(error.to_string()))
    })
}

pub(crate) fn control(args: &ControlArgs) -> anyhow::Result<()> {
    let layers = begin(Role::Control, &args.role)?;
    let (config, secrets) = layers.read(control::ControlConfig::validate)?;
    warn(&secrets);
    let catalog_url = secrets.catalog_url.context("the control plane lacks its catalog")?;
    let master_key = secrets.master_key.context("the control plane lacks its master key")?;
    let token = secrets.token.context("the control plane lacks its token")?;
    let secrets = control::Secrets { catalog_url, master_key, token };
    run_until_stopped(|stop| async {
        let outcome = control::run(config, secrets, stop).await;
        outcome.map_err(|error| Failure::failed(error.to_string()))
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

/// Ends when it was asked to stop.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a role until it has stopped in order after the first signal, or at once after a second one.
fn run_until_stopped<F>(role: impl FnOnce(Stop) -> F) -> anyhow::Result<()>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't start")?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::listen()?;
        let (asked, mut stop) = watch::channel(false);
        let twice = async {
            signals.recv().await;
            tracing::info!("stopping; a second signal stops at once");
            asked.send_replace(true);
            signals.recv().await;
        };
        let stop: Stop = Box::pin(async move { drop(stop.wait_for(|asked| *asked).await) });
        tokio::select! {
            outcome = role(stop) => Ok(outcome?),
            () = twice => {
                tracing::warn!("stopped at once");
                Ok(())
            }
        }
    });
    // What was not waited for is not waited for here either.
    runtime.shutdown_background();
    outcome
}
