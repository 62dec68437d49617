//! Finds operations that are not ended, and drives each to its end: those just asked for, and those that another
//! instance (or this one, before it was killed) left behind. A full pass each time, started by a nudge or a timer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{Kind, Operation};
use shard_map::{ServerName, TenantState};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Work, back_off};
use crate::error::{Error, Result};
use crate::{failover, fleet, moves, provision};

/// How often a pass is made when nobody nudges.
const PASS_INTERVAL: Duration = Duration::from_millis(500);
/// How often the catalog is rid of what nobody needs any more.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);
/// Before an operation is looked at again whose server knows of a later leader.
const LEFT_PAUSE: Duration = Duration::from_secs(5);
/// Tries in a row of an operation that meets a server or catalog that does not answer and comes no further, before what it
/// made is undone.
const TRIES_MAX: u32 = 60;

/// Runs until `stop`; then work under way is dropped where it stands, to be found by the next leader.
pub(crate) async fn reconcile(context: Arc<Context>, stop: CancellationToken) {
    let mut under_way = UnderWay::default();
    let mut term_seen = None;
    let mut forgotten: Option<Instant> = None;
    loop {
        let term = *context.term.borrow();
        if term != term_seen {
            // What was begun under another term must not go on beside what the new leader begins.
            under_way = UnderWay::default();
            term_seen = term;
        }
        if let Some(term) = term
            && let Err(error) = pass(&context, term, &mut under_way).await
        {
            tracing::warn!(%error, "operations could not be looked up");
        }
        if term.is_some() && forgotten.is_none_or(|at| at.elapsed() > FORGET_INTERVAL) {
            forgotten = Some(Instant::now());
            if let Err(error) = context.catalog.forget_old(context.config.audit_keep).await {
                tracing::warn!(%error, "old records could not be removed");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = context.nudge.notified() => {}
            Some(ended) = under_way.tasks.join_next_with_id(), if !under_way.tasks.is_empty() => {
                under_way.forget(ended.map_or_else(|e| e.id(), |(id, ())| id));
            }
            () = tokio::time::sleep(PASS_INTERVAL) => {}
        }
    }
}

/// The operations that this instance is driving. Dropping it stops them all.
#[derive(Default)]
struct UnderWay {
    tasks: JoinSet<()>,
    operations: HashMap<tokio::task::Id, Operation>,
}

impl UnderWay {
    fn forget(&mut self, task: tokio::task::Id) {
        self.operations.remove(&task);
    }

    fn has(&self, id: i64) -> bool {
        self.operations.values().any(|operation| operation.id == id)
    }
}

async fn pass(context: &Arc<Context>, term: i64, under_way: &mut UnderWay) -> Result<()> {
    start_purges(context).await?;
    let open = context.catalog.open_operations().await?;
    let tenants_busy: HashSet<_> =
        open.iter().filter(|o| o.state == "running").filter_map(|o| o.tenant.clone()).collect();
    for operation in open {
        if under_way.has(operation.id) || !has_its_turn(context, &operation, under_way) {
            continue;
        }
        let switched = operation.state == "switched";
        if switched
            && (!moves::is_due(&operation)
                || operation.tenant.as_ref().is_some_and(|t| tenants_busy.contains(t)))
        {
            continue;
        }
        let work = Work { context: context.clone(), operation: operation.clone(), term };
        let task = under_way.tasks.spawn(drive(work));
        under_way.operations.insert(task.id(), operation);
    }
    Ok(())
}

/// Whether the limits allow one more of its kind.
fn has_its_turn(context: &Context, operation: &Operation, under_way: &UnderWay) -> bool {
    let is_kept_waiting = operation.step == "begin" && moves::Pause::of(operation).is_some();
    if is_kept_waiting && !operation.abort_requested {
        return false;
    }
    // What has begun goes on (it may hold clients); what is to be undone does not have to wait for that.
    let has_begun = operation.step != "begin" || operation.abort_requested;
    let others: Vec<&Operation> =
        under_way.operations.values().filter(|other| other.state == "running").collect();
    let (provisions, copies) = (context.config.provisions_max, context.config.moves_per_server_max);
    has_begun || fits(operation, &others, (provisions, copies))
}

/// `provisions`: databases that are made at once; `copies`: moves and clones that one server takes part in at once.
fn fits(operation: &Operation, others: &[&Operation], (provisions, copies): (usize, usize)) -> bool {
    let is_made = || {
        let makes = |o: &&&Operation| matches!(o.kind, Kind::Create | Kind::Clone);
        others.iter().filter(makes).count() < provisions
    };
    let is_copied = || {
        let touches = |o: &Operation, server: &ServerName| {
            matches!(o.kind, Kind::Move | Kind::Clone) && moves::servers_of(o).contains(&Some(server.clone()))
        };
        let servers: HashSet<_> = moves::servers_of(operation).into_iter().flatten().collect();
        servers.iter().all(|server| others.iter().filter(|o| touches(o, server)).count() < copies)
    };
    match operation.kind {
        Kind::Create => is_made(),
        Kind::Clone => is_made() && is_copied(),
        // It has no copy, and may be an operator's way out of trouble.
        Kind::Move if moves::turns_round(operation) => true,
        Kind::Move => is_copied(),
        _ => true,
    }
}

/// Asks for the end of tenants whose grace time is over: of one after the other on each server.
async fn start_purges(context: &Context) -> Result<()> {
    for expired in context.catalog.expired_tenants(context.config.delete_grace).await? {
        let input = serde_json::json!({ "now": true, "dump": expired.dump });
        let states = [TenantState::Deleted];
        match context.catalog.start_operation(Kind::Delete, &expired.tenant, &states, &input).await {
            Ok(_) | Err(catalog::Error::Conflict(_) | catalog::Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn drive(work: Work) {
    attempt(&work).await;
    work.context.ended.notify_waiters();
    if work.operation.kind == Kind::Migrate {
        work.context.stock_nudge.notify_one();
    }
    if matches!(work.operation.kind, Kind::Move | Kind::Clone) {
        work.context.drain_nudge.notify_one();
    }
}

/// Tries until it has ended, or is another instance's.
async fn attempt(work: &Work) {
    let id = work.operation.id;
    let mut tries = Tries::default();
    loop {
        let outcome = match work.operation.kind {
            Kind::Create => provision::create(work).await,
            Kind::Suspend => provision::suspend(work).await,
            Kind::Resume => provision::resume(work).await,
            Kind::Delete => provision::delete(work).await,
            Kind::Undelete => provision::undelete(work).await,
            Kind::Clone => provision::clone_tenant(work).await,
            Kind::Rename => provision::rename(work).await,
            Kind::Migrate => fleet::run::drive(work).await,
            Kind::Move => moves::drive(work).await,
            Kind::Failover => failover::drive(work).await,
        };
        let Err(error) = outcome else { return };
        if error.must_stop() {
            return left(id, &error).await;
        }
        match work.progress().await {
            // Its server was removed as lost.
            Ok(None) => return,
            Ok(Some(mark)) => tries.came_to(mark),
            Err(_) => {}
        }
        if goes_on(work.operation.kind, &error, tries.in_a_row) {
            let tries = tries.again();
            tracing::warn!(operation = id, tries, %error, "operation will be tried again");
            work.note_try(tries, &error).await;
            back_off(tries).await;
            continue;
        }
        tracing::error!(operation = id, %error, "operation failed");
        match end_failed(work, &error).await {
            Ok(()) => return,
            Err(error) if error.must_stop() => return left(id, &error).await,
            // It stays on record as running: the next pass, or the next leader, takes it up.
            Err(error) => tracing::error!(operation = id, %error, "its failure could not be recorded"),
        }
        tries.in_a_row = 0;
        back_off(6).await;
    }
}

/// Tries in a row that failed and came no further than one before.
#[derive(Default)]
struct Tries {
    in_a_row: u32,
    failed_at: HashSet<String>,
}

impl Tries {
    /// A try failed at this mark of progress. If none came to it before, what was in the way then is not what is now.
    fn came_to(&mut self, mark: String) {
        if self.failed_at.insert(mark) {
            self.in_a_row = 0;
        }
    }

    /// One more begins; how many that makes.
    fn again(&mut self) -> u32 {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.in_a_row
    }
}

/// Whether work that failed with this is tried again.
fn goes_on(kind: Kind, error: &Error, tries: u32) -> bool {
    match kind {
        // A move decides for itself when it gives up: past its decision it may not.
        Kind::Move => true,
        // They have no other end than done: given up in between, catalog and server would contradict each other.
        Kind::Suspend | Kind::Resume | Kind::Delete | Kind::Undelete => error.is_transient(),
        // It says itself when the promoted server does not answer before anything is done.
        Kind::Failover => error.is_transient(),
        Kind::Create | Kind::Clone | Kind::Rename | Kind::Migrate => {
            error.is_transient() && tries < TRIES_MAX
        }
    }
}

async fn left(operation: i64, error: &Error) {
    if let Error::Catalog(catalog::Error::Ended(_)) = error {
        return tracing::warn!(operation, %error, "its work stops here");
    }
    tracing::warn!(operation, %error, "left to the instance that leads now");
    // A server may know of a leader that the catalog does not: then this one goes on to lead, and would spin.
    tokio::time::sleep(LEFT_PAUSE).await;
}

async fn end_failed(work: &Work, error: &Error) -> Result<()> {
    match work.operation.kind {
        Kind::Create | Kind::Clone => provision::undo_create(work, error).await,
        Kind::Rename => provision::undo_rename(work, error).await,
        _ => work.set_state("failed", Some(&error.to_string())).await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn operation(kind: Kind, from: &str, to: &str) -> Operation {
        let input = json!({ "from": from, "to": to });
        let (state, step) = ("running".to_owned(), "begin".to_owned());
        let (created_at, updated_at) = (String::new(), String::new());
        Operation {
            id: 1,
            kind,
            tenant: None,
            state,
            step,
            input,
            data: json!({}),
            error: None,
            abort_requested: false,
            created_at,
            updated_at,
        }
    }

    #[test]
    fn an_operation_that_comes_further_has_all_its_tries_again() {
        let away = Error::Timeout("away".into());
        let mut tries = Tries::default();
        tries.came_to("copy".into());
        while goes_on(Kind::Clone, &away, tries.in_a_row) {
            tries.again();
            tries.came_to("copy".into());
        }
        assert_eq!(tries.in_a_row, TRIES_MAX);
        tries.came_to("analyze".into());
        assert!(goes_on(Kind::Clone, &away, tries.in_a_row), "its last try came further than any before");
        assert!(!goes_on(Kind::Clone, &Error::Failed("for good".into()), tries.in_a_row));
    }

    #[test]
    fn clones_are_bounded_in_all_and_with_moves_at_each_server() {
        let there = operation(Kind::Clone, "a", "b");
        let within = operation(Kind::Clone, "a", "a");
        let moved = operation(Kind::Move, "c", "a");
        let made = operation(Kind::Create, "", "");
        let fits = |one: &Operation, others: &[&Operation]| fits(one, others, (3, 2));
        assert!(fits(&there, &[]) && fits(&within, &[&within]));
        assert!(!fits(&there, &[&within, &moved]), "two copy at its source");
        assert!(!fits(&moved, &[&there, &within]), "two copy at its target");
        assert!(fits(&operation(Kind::Clone, "c", "b"), &[&within, &moved]));
        let input = json!({ "from": "a", "to": "b", "reverse_of": 1 });
        let turn = Operation { input, ..operation(Kind::Move, "", "") };
        assert!(fits(&turn, &[&within, &moved]), "it copies nothing");
        assert!(!fits(&operation(Kind::Clone, "x", "y"), &[&made, &made, &made]), "three are made");
        assert!(fits(&made, &[&there, &within]) && !fits(&made, &[&there, &within, &made]));
    }
}
