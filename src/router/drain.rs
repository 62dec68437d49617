//! The end of a router: no more clients, and those there are leave where it costs them nothing.
//!
//! At first a client goes only when it has been silent between two transactions for a moment, so that a request that is
//! on its way is still served. After half of `shutdown_timeout`, between two transactions in any case. At its end, at once:
//! it is told, and its statement is cancelled.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::session::client::End;
use crate::shared::Shared;
use crate::worker::WorkerMessage;

/// How long sessions that are ended at once may take to say so, and to have their statements cancelled.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the log says how many clients are left.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Lets logins, clients and workers come to their end.
pub(crate) async fn run(shared: &Arc<Shared>, workers: Vec<JoinHandle<()>>) {
    let begun = Instant::now();
    let time = shared.config().shutdown_timeout;
    tracing::info!(clients = shared.metrics.clients.get(), ?time, "draining");
    tell_all(shared, || WorkerMessage::Drain(End::Draining)).await;
    let mut ended = tokio::spawn(join(shared.clone(), workers));
    let steps = [(time / 2, End::ShuttingDown), (time / 2, End::Stopped)];
    let mut finished = false;
    for (patience, next) in steps {
        finished = tokio::time::timeout(patience, with_progress(shared, &mut ended)).await.is_ok();
        if finished {
            break;
        }
        if next == End::Stopped {
            tracing::warn!(
                clients = shared.metrics.clients.get(),
                ?time,
                "shutdown_timeout is over; what still runs ends now"
            );
        }
        shared.logins.end_all();
        tell_all(shared, || WorkerMessage::Drain(next)).await;
    }
    if !finished && tokio::time::timeout(STOP_TIMEOUT, &mut ended).await.is_err() {
        tracing::warn!("sessions did not end in time; they are dropped");
        tell_all(shared, || WorkerMessage::Abort).await;
        drop(ended.await);
    }
    tracing::info!(took = ?begun.elapsed(), "drained");
}

/// Waits for the logins, then for the workers, to which no more clients come.
async fn join(shared: Arc<Shared>, workers: Vec<JoinHandle<()>>) {
    shared.logins.wait().await;
    tell_all(&shared, || WorkerMessage::Shutdown).await;
    let joined = tokio::task::spawn_blocking(move || workers.into_iter().for_each(|w| drop(w.join())));
    drop(joined.await);
}

async fn with_progress(shared: &Shared, ended: &mut tokio::task::JoinHandle<()>) {
    loop {
        match tokio::time::timeout(PROGRESS_INTERVAL, &mut *ended).await {
            Ok(_) => return,
            Err(_) => tracing::info!(clients = shared.metrics.clients.get(), "still draining"),
        }
    }
}

async fn tell_all(shared: &Shared, message: impl Fn() -> WorkerMessage) {
    for worker in &shared.workers {
        // A worker that is gone has finished.
        drop(worker.send(message()).await);
    }
}
