//! `tenantry router` and `tenantry control`: the long-running halves, each a process of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};

use crate::cli::dev::StopSignals;
use crate::cli::failure::Failure;
use crate::config::{Layers, Role, Secrets};
use crate::telemetry::{self, LogFormat};

/// What both roles are started with.
#[derive(Debug, Clone, Args)]
struct RoleArgs {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key of the configuration; may be given more than once
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// What to log: error, warn, info, debug, trace, or a list such as info,router=debug
    #[arg(long, value_name = "FILTER", env = "TENANTRY_LOG")]
    log: Option<String>,
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
    // Before there is a second thread: it changes the environment.
    let listener = lent_listener()?;
    let filter = start_logs(&args.role)?;
    let (config, secrets) = read_router(&args.role)?;
    let master_key = secrets.master_key.context("the router lacks its master key")?;
    filter.set(config.log.as_deref().unwrap_or_default()).map_err(Failure::usage)?;
    let (role, reload) = (args.role.clone(), Arc::new(Notify::new()));
    let process = router::Process {
        listener,
        reload: reload.clone(),
        read_config: Box::new(move || {
            read_router(&role).map(|(config, _)| config).map_err(|failure| failure.to_string())
        }),
        set_log_filter: Box::new(move |text| filter.set(text)),
    };
    run_until_stopped(StopSignals::listen_but_to_hangup, |stop| async {
        let mut hangups = signal(SignalKind::hangup())?;
        let routing = router::run(config, master_key, prometheus::Registry::new(), process, stop);
        let reloading = async {
            while hangups.recv().await.is_some() {
                reload.notify_one();
            }
        };
        tokio::select! {
            outcome = routing => Ok(outcome.map_err(|error| Failure::failed(error.to_string()))?),
            () = reloading => Ok(()),
        }
    })
}

/// Reads a router's configuration, at the start and each time that it is reloaded.
fn read_router(role: &RoleArgs) -> Result<(router::RouterConfig, Secrets), Failure> {
    let layers = Layers::of_process(Role::Router, role.config.as_deref(), &role.set)?;
    let (mut config, mut secrets) = layers.read(|config: &router::RouterConfig| {
        let described =
            |e: router::InvalidConfig| format!("{}: {} is not allowed: {}", e.key, e.given, e.allowed);
        config.validate().map_err(described)?;
        config.log.as_deref().map_or(Ok(()), telemetry::check).map_err(|why| format!("log: {why}"))
    })?;
    warn(&secrets);
    config.catalog_url = secrets.catalog_url.take().map(router::Secret::from);
    let given = role.log.clone().or(config.log);
    config.log = Some(given.unwrap_or_else(|| telemetry::DEFAULT_FILTER.to_owned()));
    Ok((config, secrets))
}

/// The port for clients, if the service manager has opened it.
fn lent_listener() -> Result<Option<TcpListener>, Failure> {
    let mut lent = listenfd::ListenFd::from_env();
    match lent.len() {
        0 => Ok(None),
        1 => lent
            .take_tcp_listener(0)
            .map_err(|error| Failure::usage(format!("LISTEN_FDS: the socket is not one for TCP: {error}"))),
        count => Err(Failure::usage(format!("LISTEN_FDS: {count} sockets were given"))
            .hint("the router takes one, for its clients")),
    }
}

pub(crate) fn control(args: &ControlArgs) -> anyhow::Result<()> {
    start_logs(&args.role)?;
    let layers = Layers::of_process(Role::Control, args.role.config.as_deref(), &args.role.set)?;
    let (config, secrets) = layers.read(control::ControlConfig::validate)?;
    warn(&secrets);
    let catalog_url = secrets.catalog_url.context("the control plane lacks its catalog")?;
    let master_key = secrets.master_key.context("the control plane lacks its master key")?;
    let token = secrets.token.context("the control plane lacks its token")?;
    let secrets = control::Secrets { catalog_url, master_key, token };
    // What it and its programs write, schemas and dumps, is customers' and nobody else's to read.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    run_until_stopped(StopSignals::listen, |stop| async {
        let outcome = control::run(config, secrets, stop).await;
        Ok(outcome.map_err(|error| Failure::failed(error.to_string()))?)
    })
}

fn start_logs(args: &RoleArgs) -> Result<telemetry::Filter, Failure> {
    telemetry::start(args.log.as_deref().unwrap_or(telemetry::DEFAULT_FILTER), args.log_format)
}

fn warn(secrets: &Secrets) {
    for warning in &secrets.warnings {
        tracing::warn!("{warning}");
    }
}

/// Ends when it was asked to stop.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs a role until it has stopped in order after the first signal, or at once after a second one.
fn run_until_stopped<F>(
    listen: fn() -> std::io::Result<StopSignals>,
    role: impl FnOnce(Stop) -> F,
) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("the runtime can't start")?;
    let outcome = runtime.block_on(async {
        let mut signals = listen()?;
        let (asked, mut stop) = watch::channel(false);
        let twice = async {
            signals.recv().await;
            tracing::info!("stopping; a second signal stops at once");
            asked.send_replace(true);
            signals.recv().await;
        };
        let stop: Stop = Box::pin(async move { drop(stop.wait_for(|asked| *asked).await) });
        tokio::select! {
            outcome = role(stop) => outcome,
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
