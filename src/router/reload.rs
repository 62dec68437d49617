//! Reads the configuration again and puts it in force, without dropping anyone.
//!
//! It counts as a whole or not at all: what can't be read leaves everything as it was. What a running router can't change
//! keeps its value, with a warning that names the key.

use std::sync::Arc;

use crate::config::{RouterConfig, keep_fixed};
use crate::descriptors;
use crate::shared::Shared;
use crate::systemd;
use crate::tls::NewTls;
use crate::worker::WorkerMessage;

/// Reloads whenever it is asked for, without end.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        shared.process.reload.notified().await;
        // It was logged, and there is nobody else to tell.
        drop(reload(&shared).await);
    }
}

/// Reloads now; or says why not.
pub(crate) async fn reload(shared: &Arc<Shared>) -> Result<(), String> {
    systemd::reloading();
    let reading = shared.clone();
    let reloaded = tokio::task::spawn_blocking(move || {
        (reading.process.read_config)().and_then(|config| apply(&reading, config))
    });
    let outcome = reloaded.await.unwrap_or_else(|panic| Err(panic.to_string()));
    match &outcome {
        Ok(()) => tracing::info!("configuration reloaded"),
        Err(error) => tracing::error!(%error, "configuration not reloaded; the old one stays in force"),
    }
    for worker in &shared.workers {
        // Those who wait look at the new limits. A worker that is gone has nobody who waits.
        drop(worker.send(WorkerMessage::Everything).await);
    }
    systemd::ready();
    outcome
}

/// Puts a configuration in force. What is made from one is made here, or tried, before anything is stored: so that what
/// can't be made leaves all as it was.
fn apply(shared: &Shared, mut new: RouterConfig) -> Result<(), String> {
    new.validate().map_err(|error| error.to_string())?;
    for key in keep_fixed(&shared.config(), &mut new) {
        tracing::warn!(key, "changes only when the router is started again");
    }
    let tls = NewTls::build(&new).map_err(|error| error.to_string())?;
    if let Some(filter) = &new.log {
        shared.set_log_filter(filter)?;
    }
    descriptors::raise(&new);
    shared.tls.replace(tls, || shared.config.store(Arc::new(new)));
    Ok(())
}
