//! Leading: takes the lease, renews it, and says under which term this instance works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::lock_file::{Before, LockFile};

/// The statements of a predecessor that died end so soon after it: each session looks for its client every half a second. Who
/// takes its lease over waits for that, as it would otherwise meet them.
const LAST_STATEMENTS_END: Duration = Duration::from_secs(1);

/// Keeps trying for the lease until `stop`, then gives it back.
pub(crate) async fn lead(context: Arc<Context>, stop: tokio_util::sync::CancellationToken) {
    let config = &context.config;
    // Each start is a holder of its own: a predecessor of the same name must not share its term.
    let name = config.name.as_deref().unwrap_or(&config.listen);
    let holder = format!("{name}/{:016x}", rand::random::<u64>());
    let lock_file = lock_file(&context, name, &holder);
    let predecessor = lock_file.as_ref().and_then(|file| match file.before() {
        Before::Dead(holder) => Some(holder.as_str()),
        Before::Nobody | Before::TooManyDead => None,
    });
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
        let mut left = Duration::ZERO;
        let term = match context.catalog.hold_lease(&holder, predecessor, lasts).await {
            Ok(lease) => {
                renewed = asked;
                left = leads_from.saturating_duration_since(Instant::now());
                lease.filter(|_| left.is_zero()).map(|lease| lease.term)
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
            () = tokio::time::sleep(if left.is_zero() { lasts / 3 } else { left.min(lasts / 3) }) => {}
        }
    }
    context.term.send_replace(None);
    match context.catalog.release_lease(&holder).await {
        // With nothing to take over, the next one need not wait for what this one had begun, either.
        Ok(()) => {
            if let Some(Err(error)) = lock_file.map(LockFile::leave) {
                tracing::warn!(%error, "the lock file could not be left");
            }
        }
        Err(error) => tracing::warn!(%error, "the lease could not be given back"),
    }
}

fn lock_file(context: &Context, name: &str, holder: &str) -> Option<LockFile> {
    const WAITS: &str = "after a crash this instance will wait for its own lease to run out";
    let work_dir = context.config.work_dir.display();
    let taken = LockFile::take(&context.config.work_dir, name, holder);
    match &taken {
        Ok(Some(file)) => match file.before() {
            Before::Nobody => {}
            Before::Dead(predecessor) => {
                tracing::info!(predecessor, "the one before this one has died: its lease is taken over");
            }
            Before::TooManyDead => {
                tracing::warn!(
                    "several before this one have died within a minute each: the lease is waited for, so that another instance may lead"
                );
            }
        },
        Ok(None) => tracing::warn!(name, %work_dir, "another instance of this name is here: {WAITS}"),
        Err(error) => tracing::warn!(%error, %work_dir, "no lock file: {WAITS}"),
    }
    taken.ok().flatten()
}
