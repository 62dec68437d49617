//! The cutover: from the hold to the decision, within its budget. Whatever goes wrong before the decision is taken
//! back; what happened is never remembered but looked up, in the target's registry, which decides.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Map, json};
use shard_map::Epoch;
use shard_map::moves::Event;

use super::compare::sealed::TargetSnapshot;
use super::driver::{Move, Verify};
use super::given_up::{self, Lost};
use super::held::{self, Held};
use super::{catch_up, fence, force_security, freshen, pause, release, schema, seal, take_back, wal_watch};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::{Connection, database, registry, tables};

/// Share of the budget within which transactions at the routers must have ended, in percent. The rest is for what
/// follows; a cutover that comes late is taken back rather than hurried.
const DRAIN_PERCENT: u32 = 60;

/// How much longer than its budget a cutover may take to notice that a server does not answer.
const STANDSTILL_MARGIN: Duration = Duration::from_secs(2);

/// How long before a hold routers are told of it, to use fewer and fewer of the tenant's connections until then.
const NOTICE: Duration = Duration::from_millis(60);

/// Sessions that are opened before the hold, so that it does not wait for logins.
struct Sessions {
    source_registry: Connection,
    source: Connection,
    source_pid: i32,
    target_registry: Connection,
    target: Connection,
    /// A second one, for what is done at the same time.
    target_too: Connection,
    sequences: Vec<String>,
    /// What is made good on the target once everything is applied.
    at_last: String,
    held: Option<Held>,
    epoch: Epoch,
}

/// Cuts over. `TakenBack`: nothing was decided, the application goes on at the source.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<Event> {
    // A predecessor may have got as far as the decision, or have died anywhere before it.
    if settled(the_move).await? {
        return Ok(Event::Done);
    }
    let work = the_move.work;
    // From the phase's record on it can't be paused: whoever asked before, is seen here.
    let operation = work.context.catalog.operation(work.operation.id).await?;
    if the_move.resumed
        || operation.abort_requested
        || wal_watch::why_undone(&operation).is_some()
        || pause::now(&work.context.catalog, work.operation.id).await?.is_some()
        || work.context.catalog.is_failing_over(&[&the_move.source.name, &the_move.target.name]).await?
    {
        // Taken back for whoever began it: whether a cutover may begin now is for the phase before to say.
        return Ok(Event::TakenBack);
    }
    let sessions = match prepare(the_move).await {
        // What no other try mends; nobody is held yet.
        Err(error) if !error.is_transient() && !error.must_stop() => return give_up(the_move, &error).await,
        outcome => outcome?,
    };
    failpoint::reach("cutover_prepared").await;
    freshen::run(the_move, &sessions.source).await;
    // For whoever has to tell the hold if this controller dies in it. The fence row is the time, in microseconds.
    let fence_row = now_us() + i64::try_from(NOTICE.as_micros()).unwrap_or(0);
    the_move.work.remember(&json!({ "hold_began_us": fence_row, "hold_ms": null })).await?;
    let parts = Parts { begun: Instant::now() + NOTICE, fence_row, parts: Mutex::default() };
    // Beside the deadline between its acts, one for an act that stands still because a server is gone.
    let limit = NOTICE + the_move.max_hold() + STANDSTILL_MARGIN;
    let attempted = tokio::time::timeout(limit, attempt(the_move, sessions, &parts)).await;
    let outcome = attempted.unwrap_or_else(|_| Err(Error::Timeout("the cutover stood still".into())));
    if let Err(error) = outcome {
        if error.must_stop() {
            return Err(error);
        }
        tracing::warn!(operation = the_move.work.operation.id, %error, "cutover not completed");
        if settled(the_move).await? {
            return Ok(Event::Done);
        }
        let metrics = &the_move.work.context.metrics;
        metrics.cutovers.with_label_values(&["taken_back"]).inc();
        // Nobody was held by one that failed before.
        if Instant::now() > parts.begun {
            metrics.hold_seconds.observe(parts.begun.elapsed().as_secs_f64());
        }
        remember_taken_back(the_move, &error, &parts).await?;
        failpoint::reach("taken_noted").await;
        if matches!(error, Error::Refused { .. }) {
            return give_up(the_move, &error).await;
        }
        return Ok(Event::TakenBack);
    }
    the_move.work.remember(&json!({ "hold_ms": parts.total_ms(), "hold_parts_ms": parts.told() })).await?;
    let metrics = &the_move.work.context.metrics;
    metrics.cutovers.with_label_values(&["decided"]).inc();
    metrics.hold_seconds.observe(parts.begun.elapsed().as_secs_f64());
    Ok(Event::Done)
}

/// Leaves the move to be undone by the phase before, for a reason that no other cutover would do away with.
async fn give_up(the_move: &Move<'_>, error: &Error) -> Result<Event> {
    the_move.work.remember(&wal_watch::undone_because(&error.to_string())).await?;
    Ok(Event::TakenBack)
}

/// Brings an interrupted cutover to one of its two ends. `true`: the target is open.
async fn settled(the_move: &mut Move<'_>) -> Result<bool> {
    open_unsealed_source(the_move).await;
    let target_registry = match the_move.target_registry().await {
        // Lost by now; the catalog followed its decision before.
        Err(Error::ServerUnreachable { .. })
            if given_up::is_given_up(the_move.work, Lost::Target).await?
                && the_move.tenant().await?.server == the_move.target.name =>
        {
            return Ok(true);
        }
        outcome => outcome?,
    };
    // With the term raised under the row's lock, what an earlier controller or an earlier session of this one had
    // begun to commit has ended, one way or the other, and nothing of it can begin any more.
    take_back::end_others(the_move, &target_registry).await?;
    let record = registry::read(&target_registry, &the_move.id).await?;
    match record {
        Some(record) if record.state == "open" => {
            // While the limit stands, nobody has changed anything yet: it can still be verified.
            let limit = database::limit(&target_registry, the_move.id.live_database()).await?;
            if limit == 0 && the_move.at_switch.is_none() && the_move.input.verify != Verify::None {
                the_move.at_switch = TargetSnapshot::take(the_move).await;
            }
            the_move.lift_limit(&target_registry).await?;
            Ok(true)
        }
        _ => match take_back::run(the_move, &target_registry).await {
            // Nobody can decide any more, and nobody goes on there.
            Err(Error::ServerUnreachable { server, .. })
                if server == the_move.source.name.as_str()
                    && given_up::is_given_up(the_move.work, Lost::Source).await? =>
            {
                Ok(false)
            }
            outcome => outcome.map(|()| false),
        },
    }
}

/// Lets clients go on at a source that was not sealed, without waiting for the target, which may be what died: before
/// the seal, nothing can have been decided. Any failure here is met again, and told, where both sides are asked.
async fn open_unsealed_source(the_move: &Move<'_>) {
    let opened = async {
        let source = the_move.source_registry().await?;
        take_back::end_others(the_move, &source).await?;
        let record = registry::read(&source, &the_move.id).await?;
        if let Some(record) = record.filter(|record| record.state == "open") {
            the_move.lift_limit(&source).await?;
            let catalog = &the_move.work.context.catalog;
            catalog
                .place_tenant(&the_move.id, &the_move.source.name, record.epoch, the_move.work.term)
                .await?;
        }
        Ok::<(), Error>(())
    };
    if let Err(error) = opened.await {
        tracing::warn!(operation = the_move.work.operation.id, %error, "the source could not be asked");
    }
}

async fn prepare(the_move: &Move<'_>) -> Result<Sessions> {
    let source = the_move.source_database().await?;
    let source_pid = source.value("SELECT pg_catalog.pg_backend_pid()", &[]).await?;
    let target_registry = the_move.target_registry().await?;
    let record = registry::read(&target_registry, &the_move.id).await?;
    let arriving = record.ok_or_else(|| Error::Failed("the target has no record of the tenant".into()))?;
    let source_registry = the_move.source_registry().await?;
    let limits = schema::role_limits(the_move, &source_registry).await?;
    let target = the_move.arriving_database().await?;
    let (held, made_good) = Held::prepare(the_move, (&source, &target)).await?;
    let mut sequences = tables::sequences(&source).await?;
    sequences.extend(held::sequences(&source).await?);
    Ok(Sessions {
        source_registry,
        source_pid,
        sequences,
        at_last: force_security::statements(&source).await? + &limits + &made_good,
        held,
        source,
        target_registry,
        target,
        target_too: the_move.arriving_database().await?,
        // A cutover that was taken back has put the target's record further.
        epoch: the_move.tenant().await?.epoch.next().max(arriving.epoch),
    })
}

async fn attempt(the_move: &mut Move<'_>, sessions: Sessions, parts: &Parts) -> Result<()> {
    let Sessions { source_registry, source, source_pid, target_registry, target, target_too, .. } = sessions;
    let (sequences, at_last, epoch) = (sessions.sequences, sessions.at_last, sessions.epoch);
    let held = sessions.held;
    let fence_row = parts.fence_row;
    let deadline = parts.begun + the_move.max_hold();
    let drained_by = parts.begun + the_move.max_hold() * DRAIN_PERCENT / 100;
    let notice = parts.begun.saturating_duration_since(Instant::now());
    let lease = the_move.max_hold() + fence::LEASE_MARGIN;
    let hold = fence::announce(the_move.work, &the_move.id, (notice, lease)).await?;
    tokio::time::sleep_until(parts.begun.into()).await;
    failpoint::reach("held").await;
    parts.act("drain", drain(the_move, hold, drained_by)).await?;
    let fenced = fence::fence(the_move, &source_registry, source_pid, (drained_by, deadline));
    parts.act("fence", fenced).await?;
    let applied = async {
        let carries_large_objects = held.as_ref().is_some_and(Held::has_large_objects);
        let set_sequences = fence::flush(&source, fence_row, &sequences, carries_large_objects).await?;
        if let Some(held) = held {
            fence::wait_applied(&target, fence_row, deadline).await?;
            parts.act("unlogged", held.carry(&source, deadline)).await?;
        }
        source.close().await;
        fence::wait_applied(&target, fence_row, deadline).await?;
        Ok(set_sequences)
    };
    let set_sequences = parts.act("apply", applied).await?;
    // A synchronous commit on the target: what the apply worker committed asynchronously is flushed with it.
    let synchronous = format!(
        "BEGIN; {set_sequences}; {at_last} INSERT INTO tenantry.fence (id) VALUES (-{fence_row}); COMMIT"
    );
    let (position, ()) = tokio::try_join!(
        parts.act("detach", seal::detach(the_move, &source_registry, &target, deadline)),
        parts.act("sequences", target_too.run(&synchronous)),
    )?;
    target_too.close().await;
    // Each on a server of its own, and all of them before the decision.
    let sealed = async {
        parts.act("seal", seal::seal(the_move, &source_registry, epoch, deadline)).await?;
        parts.act("check", seal::nothing_slipped_in(the_move, &position)).await
    };
    tokio::try_join!(sealed, parts.act("advance", catch_up::advance_reverse_slot(the_move, &target)))?;
    target.close().await;
    if Instant::now() >= deadline {
        return Err(Error::Timeout("the hold's budget was used up before the decision".into()));
    }
    parts.act("decide", seal::decide(the_move, &target_registry, epoch, deadline)).await?;
    let released = async {
        if the_move.input.verify != Verify::None {
            // Before anybody is let in, so that what it sees is what was sealed.
            the_move.at_switch = TargetSnapshot::take(the_move).await;
        }
        failpoint::reach("release_compared").await;
        the_move.lift_limit(&target_registry).await?;
        failpoint::reach("release_lifted").await;
        release::place(the_move, epoch).await
    };
    parts.act("release", released).await
}

async fn drain(the_move: &Move<'_>, hold: i64, deadline: Instant) -> Result<()> {
    let pinned = fence::drained(&the_move.work.context, hold, deadline).await?;
    if pinned > 0 && the_move.input.wait_sessions && !the_move.input.kill_stragglers {
        return Err(Error::Timeout(format!("{pinned} sessions at routers can't be held")));
    }
    Ok(())
}

async fn remember_taken_back(the_move: &Move<'_>, error: &Error, parts: &Parts) -> Result<()> {
    let operation = the_move.work.context.catalog.operation(the_move.work.operation.id).await?;
    let before = operation.data.get("taken_back").and_then(serde_json::Value::as_i64).unwrap_or(0);
    // How long clients were held in vain, and which part took it.
    let held_ms = milliseconds(parts.begun.elapsed());
    let found = json!({
        "taken_back": before + 1, "last_cutover": error.to_string(),
        "last_cutover_ms": held_ms, "last_cutover_parts_ms": parts.told(),
    });
    the_move.work.remember(&found).await
}

/// How long the hold is, and each part of it; some go on at the same time.
struct Parts {
    begun: Instant,
    fence_row: i64,
    parts: Mutex<Map<String, serde_json::Value>>,
}

impl Parts {
    /// Does one part.
    async fn act<T>(&self, part: &str, deed: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let outcome = deed.await?;
        self.parts().insert(part.to_owned(), json!(milliseconds(begun.elapsed())));
        failpoint::reach(part).await;
        Ok(outcome)
    }

    fn parts(&self) -> MutexGuard<'_, Map<String, serde_json::Value>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> Map<String, serde_json::Value> {
        self.parts().clone()
    }

    fn total_ms(&self) -> f64 {
        milliseconds(self.begun.elapsed())
    }
}

/// Milliseconds with one decimal.
pub(super) fn milliseconds(time: std::time::Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Microseconds since 1970.
pub(super) fn now_us() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}
