//! Leading: takes the lease, renews it, and says under which term this instance works.

use std::sync::Arc;
use std::time::Instant;

use crate::context::Context;
use crate::seat::Seat;

/// Keeps trying for the lease until `stop`, then gives it back.
pub(crate) async fn lead(context: Arc<Context>, stop: tokio_util::sync::CancellationToken) {
    let config = &context.config;
    // Each start is a holder of its own: a predecessor of the same name must not share its term.
    let name = config.name.as_deref().unwrap_or(&config.listen);
    let holder = format!("{name}/{:016x}", rand::random::<u64>());
    let seat = Seat::take(&config.work_dir, name, &holder).unwrap_or_else(|error| {
        tracing::warn!(%error, "no seat in work_dir: after a crash this instance will wait for its own lease to run out");
        None
    });
    let predecessor = seat.as_ref().and_then(Seat::predecessor);
    let lasts = config.lease_duration;
    let mut renewed = Instant::now();
    loop {
        if crate::failpoint::sleepwalks() {
            tokio::time::sleep(lasts / 3).await;
            continue;
        }
        let asked = Instant::now();
        let term = match context.catalog.hold_lease(&holder, predecessor, lasts).await {
            Ok(lease) => {
                renewed = asked;
                lease.map(|lease| lease.term)
            }
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed");
                // Until it runs out nobody else can have it, so work that is under way may go on.
                (*context.term.borrow()).filter(|_| renewed.elapsed() < lasts)
            }
        };
        let changed = context.term.send_if_modified(|current| {
            let changed = *current != term;
            *current = term;
            changed
        });
        if changed {
            tracing::info!(?term, "leadership");
            context.nudge.notify_one();
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(lasts / 3) => {}
        }
    }
    context.term.send_replace(None);
    if let Err(error) = context.catalog.release_lease(&holder).await {
        tracing::warn!(%error, "the lease could not be given back");
    }
}
