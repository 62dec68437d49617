//! Leading: takes the lease, renews it, and says under which term this instance works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::seat::Seat;

/// What a predecessor that died had begun ends so soon after it: each session looks for its client every half a second. Who
/// takes its lease over waits for that, as it would otherwise meet it.
const LAST_STATEMENTS_END: Duration = Duration::from_secs(1);

/// Keeps trying for the lease until `stop`, then gives it back.
pub(crate) async fn lead(context: Arc<Context>, stop: tokio_util::sync::CancellationToken) {
    let config = &context.config;
    // Each start is a holder of its own: a predecessor of the same name must not share its term.
    let name = config.name.as_deref().unwrap_or(&config.listen);
    let holder = format!("{name}/{:016x}", rand::random::<u64>());
    let seat = seat(&context, name, &holder);
    let predecessor = seat.as_ref().and_then(Seat::predecessor);
    let leads_from =
        Instant::now() + if predecessor.is_some() { LAST_STATEMENTS_END } else { Duration::ZERO };
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
                lease.filter(|_| asked >= leads_from).map(|lease| lease.term)
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
            () = tokio::time::sleep(pause(lasts, leads_from)) => {}
        }
    }
    context.term.send_replace(None);
    if let Err(error) = context.catalog.release_lease(&holder).await {
        tracing::warn!(%error, "the lease could not be given back");
    }
}

fn seat(context: &Context, name: &str, holder: &str) -> Option<Seat> {
    let work_dir = context.config.work_dir.display();
    match Seat::take(&context.config.work_dir, name, holder) {
        Ok(None) => {
            tracing::warn!(name, %work_dir, "another instance of this name is here: after a crash this one will wait for its own lease to run out");
            None
        }
        Ok(seat) => seat,
        Err(error) => {
            tracing::warn!(%error, %work_dir, "no seat: after a crash this instance will wait for its own lease to run out");
            None
        }
    }
}

/// Until the lease is to be renewed; or until who has it may lead, if that is sooner.
fn pause(lasts: Duration, leads_from: Instant) -> Duration {
    let left = leads_from.saturating_duration_since(Instant::now());
    if left.is_zero() { lasts / 3 } else { left.min(lasts / 3) }
}
