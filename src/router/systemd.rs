//! Tells the service manager how the router does, where there is one that wants to know (`NOTIFY_SOCKET`).

use std::sync::Arc;

use sd_notify::NotifyState;

use crate::ask;
use crate::shared::Shared;

/// It serves.
pub(crate) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// It reads its configuration again.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the system does not tell its time"),
    }
}

/// It takes no more clients.
pub(crate) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Says at intervals that all workers answer, if the service manager watches that; without end.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let Some(time) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        if ask::ask_all(&shared, |_| ()).await.is_ok() {
            notify(&[NotifyState::Watchdog]);
        }
        tokio::time::sleep(time / 3).await;
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager can't be told");
    }
}
