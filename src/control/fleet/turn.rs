//! One tenant's turn in a run: where it is, whether something else is under way there, and what to do when it fails.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use catalog::{TargetState, TurnEnd};
use futures_util::FutureExt as _;
use shard_map::{ServerName, TenantId, TenantState};

use super::files::{Limits, Migrations};
use super::lanes::Lanes;
use super::tenant::{Reached, migrate};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::moves::GUARD_SQLSTATE;

/// Tries when a lock was not to be had: between them the application has its turn.
const LOCK_TRIES: u32 = 6;
/// Tries when a server did not answer, or the tenant was somewhere else by then.
const TRIES: u32 = 8;
/// The first pause between tries; each further one is twice as long, up to the longest.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What all turns of a run share.
pub(super) struct Run {
    pub(super) context: Arc<Context>,
    pub(super) id: i64,
    pub(super) term: i64,
    pub(super) migrations: Migrations,
    pub(super) limits: Limits,
    pub(super) lanes: Lanes,
    /// Nobody begins any more: it is to be aborted, or too many failed.
    pub(super) stop: AtomicBool,
    pub(super) failed: AtomicUsize,
    pub(super) failed_max: AtomicUsize,
}

/// How a try ended.
enum Tried {
    /// There is nothing more to do in this turn.
    Ended(TurnEnd),
    /// Once more, after a pause or where the tenant is now.
    Again(Error),
    Elsewhere(ServerName),
}

/// A tenant's turn, from its place in a lane to the record of how it ended. Nothing is recorded when the run stops first.
pub(super) async fn take(run: Arc<Run>, tenant: TenantId, mut server: ServerName) -> Result<()> {
    let (mut tries, mut lock_tries) = (0, 0);
    let end = loop {
        let slot = run.lanes.of(&server).enter(&run.stop).await;
        if run.stop.load(Relaxed) {
            return Ok(());
        }
        let slot = match slot {
            Ok(slot) => slot,
            Err(away) => break end(&tenant, TargetState::Failed, Some(away.to_string())),
        };
        let tried = AssertUnwindSafe(attempt(&run, &tenant, &server)).catch_unwind().await;
        drop(slot);
        // refinery panics at a history that it can't read.
        let tried = tried.unwrap_or_else(|_| {
            let why = "refinery_schema_history can't be read";
            Ok(Tried::Ended(end(&tenant, TargetState::Failed, Some(why.to_owned()))))
        });
        match tried? {
            Tried::Ended(end) => break end,
            Tried::Elsewhere(there) => server = there,
            Tried::Again(error) => {
                let locked = is_locked(&error);
                let (count, most) = if locked { (&mut lock_tries, LOCK_TRIES) } else { (&mut tries, TRIES) };
                *count += 1;
                if *count >= most {
                    let why = format!("{error}; tried {count} times");
                    break end(&tenant, TargetState::Failed, Some(why));
                }
                tracing::info!(run = run.id, %tenant, tries = *count, %error, "migration will be tried again");
                pause(*count).await;
            }
        }
    };
    if end.state == TargetState::Failed {
        tracing::warn!(run = run.id, %tenant, error = end.error, "migration failed");
        if run.failed.fetch_add(1, Relaxed) + 1 > run.failed_max.load(Relaxed) {
            run.stop.store(true, Relaxed);
        }
    }
    crate::failpoint::reach("migrated").await;
    Ok(run.context.catalog.end_turn(run.id, &end, run.term).await?)
}

fn end(tenant: &TenantId, state: TargetState, error: Option<String>) -> TurnEnd {
    TurnEnd { tenant: tenant.clone(), state, error, version: None, took_ms: None }
}

/// A lock of somebody else's was in the way, or the other way round.
fn is_locked(error: &Error) -> bool {
    matches!(error.sqlstate(), Some("55P03" | "40P01"))
}

/// Waits for a time that others don't choose, too: longer with each try.
async fn pause(tries: u32) {
    let longest = PAUSE.saturating_mul(1 << tries.min(7)).min(PAUSE_MAX);
    tokio::time::sleep(longest.mul_f64(rand::random_range(0.5..1.0))).await;
}

async fn attempt(run: &Run, id: &TenantId, server: &ServerName) -> Result<Tried> {
    let context = &run.context;
    let ended = |state, error: Option<&str>| Ok(Tried::Ended(end(id, state, error.map(str::to_owned))));
    let tenant = match context.catalog.tenant(id).await {
        Ok(row) if row.tenant.state != TenantState::Deleted => row.tenant,
        Ok(_) | Err(catalog::Error::NotFound(_)) => return ended(TargetState::Gone, None),
        Err(e) => return Err(e.into()),
    };
    if tenant.server != *server {
        return Ok(Tried::Elsewhere(tenant.server));
    }
    // The operation that makes it may end between two looks, and opens what a turn would close behind itself.
    if tenant.state == TenantState::Creating {
        return ended(TargetState::Pending, Some("it is being made; its turn comes after that"));
    }
    if let Some(operation) = context.catalog.running_operation(id).await? {
        let why = format!("its turn comes after operation {} ({})", operation.id, operation.kind.as_str());
        return ended(TargetState::Pending, Some(&why));
    }
    let place = context.server(&tenant.server).await?;
    let begun = Instant::now();
    let Reached { version, outcome } = migrate(context, (&place, &tenant), &run.migrations, run.limits).await;
    let took_ms = i64::try_from(begun.elapsed().as_millis()).ok();
    let record = |state, error| TurnEnd { version, took_ms, ..end(id, state, error) };
    match outcome {
        Ok(()) => Ok(Tried::Ended(record(TargetState::Done, None))),
        Err(e) if e.must_stop() => Err(e),
        Err(e) if e.sqlstate() == Some(GUARD_SQLSTATE) => {
            let why = "it is being moved; its turn comes after that".to_owned();
            Ok(Tried::Ended(record(TargetState::Pending, Some(why))))
        }
        // 57014: it took longer than statement_timeout allows, and would again. 3D000: it was moved after its place was
        // looked up.
        Err(e) if e.sqlstate() == Some("57014") => {
            Ok(Tried::Ended(record(TargetState::Failed, Some(e.to_string()))))
        }
        Err(e) if e.is_transient() || e.sqlstate() == Some("3D000") => Ok(Tried::Again(e)),
        Err(e) => Ok(Tried::Ended(record(TargetState::Failed, Some(e.to_string())))),
    }
}
