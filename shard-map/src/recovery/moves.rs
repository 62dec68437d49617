//! What moves left on the servers, held against the catalog's operations; and what becomes of both.
//!
//! From its first step until its streams end, a move has a role of its own on its source, which may stream from one
//! database. By that role a move is known whose operation is lost: its number, its source and its tenant. Later only
//! its sealed copy is left, which carries no number. Where it stands is what the registries say, so its operation can be
//! made anew at a step from which it ends well.

use std::collections::BTreeSet;

use super::changes::OperationChange;
use super::view::{CatalogView, Home, OperationView, RecordState, Trusted, tenant_of_database};
use crate::ids::{ServerName, TenantId};
use crate::moves::Phase;

/// A move that is not completed, as its source shows it.
#[derive(Debug, Clone)]
pub(crate) struct Trace<'a> {
    /// Its number, as long as something carries it.
    pub(crate) number: Option<i64>,
    pub(crate) server: &'a ServerName,
    pub(crate) database: &'a str,
    tenant: TenantId,
}

/// How far a move is, by the registries.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stand {
    /// The tenant is open at the source.
    Undecided,
    /// Sealed at the source, not open at the target.
    InTransit,
    /// The tenant lives elsewhere.
    Decided,
}

/// The phase that a move's operation is in. One that has not begun has done nothing yet.
fn phase_of(operation: &OperationView) -> Option<Phase> {
    if operation.step == "begin" { Some(Phase::first(false)) } else { operation.step.parse().ok() }
}

/// Whether a move may be in this phase while its tenant is at its source.
fn is_before_decision(phase: Phase) -> bool {
    match phase {
        Phase::Arm
        | Phase::TurnRound
        | Phase::Schema
        | Phase::Copy
        | Phase::Build
        | Phase::Compare
        | Phase::CatchUp
        | Phase::Cutover
        | Phase::Restart
        | Phase::Undo => true,
        Phase::Release
        | Phase::Verify
        | Phase::Switched
        | Phase::Complete
        | Phase::Completed
        | Phase::Undone => false,
    }
}

/// Whether a move may be in this phase when its tenant is at its target.
fn is_after_decision(phase: Phase) -> bool {
    let is_over = matches!(phase, Phase::Completed | Phase::Undone);
    phase == Phase::Cutover || !is_before_decision(phase) && !is_over
}

/// Whether a move's role is on its source in this phase, from its begin to its end.
fn has_role(phase: Phase) -> bool {
    let is_up_to_the_streams_end = phase == Phase::Release || is_before_decision(phase);
    is_up_to_the_streams_end && !matches!(phase, Phase::Arm | Phase::TurnRound | Phase::Restart | Phase::Undo)
}

/// Whether its sealed copy is.
fn has_copy(phase: Phase) -> bool {
    matches!(phase, Phase::Verify | Phase::Switched)
}

fn traces<'a>(trusted: &Trusted<'a>) -> Vec<Trace<'a>> {
    let mut all = Vec::new();
    for (server, registry) in &trusted.registries {
        let named = registry.moves.iter().filter_map(|(number, database)| {
            let tenant = tenant_of_database(database)?;
            Some(Trace { number: Some(*number), server, database, tenant })
        });
        all.extend(named);
        let copies = registry.records.iter().filter(|record| {
            let database = &record.database;
            record.state == RecordState::Sealed
                && registry.databases.contains(database)
                && registry.moves.values().all(|streamed| streamed != database)
        });
        all.extend(copies.map(|record| Trace {
            number: None,
            server,
            database: &record.database,
            tenant: record.id.clone(),
        }));
    }
    all
}

/// Where a move stands, and its target. `None`: the registries do not tell.
fn stand(trusted: &Trusted<'_>, trace: &Trace<'_>) -> Option<(Stand, ServerName)> {
    let records = trusted.records_of(&trace.tenant);
    let (_, here) = records.iter().find(|(server, _)| *server == trace.server)?;
    match (here.state, &here.moved_to) {
        (RecordState::Open | RecordState::Suspended | RecordState::Leaving, _) => {
            let arriving = records.iter().find(|(_, record)| record.state == RecordState::Arriving);
            let other = trusted.registries.keys().find(|server| **server != trace.server);
            // One that died before it came to its target may be undone with any other server for it.
            let to = arriving.map(|(server, _)| *server).or_else(|| other.copied())?;
            Some((Stand::Undecided, to.clone()))
        }
        (RecordState::Sealed, Some(to)) => match trusted.home(&trace.tenant) {
            Home::InTransit { from, to, .. } if from == trace.server => Some((Stand::InTransit, to.clone())),
            Home::At(..) | Home::InTransit { .. } => Some((Stand::Decided, to.clone())),
            _ => None,
        },
        _ => None,
    }
}

fn fits(operation: &OperationView, trace: &Trace<'_>, stand: &Stand, to: &ServerName) -> bool {
    let Some(phase) = phase_of(operation) else { return false };
    let (in_its_phase, same_target) = match stand {
        Stand::Undecided => (is_before_decision(phase), true),
        Stand::InTransit => (phase == Phase::Cutover, operation.to.as_ref() == Some(to)),
        Stand::Decided => (is_after_decision(phase), operation.to.as_ref() == Some(to)),
    };
    is_of(operation, trace) && in_its_phase && same_target
}

/// Whether it is an open move of this tenant from this server.
fn is_of(operation: &OperationView, trace: &Trace<'_>) -> bool {
    let of_tenant = operation.kind == "move" && operation.tenant.as_ref() == Some(&trace.tenant);
    of_tenant && operation.is_open() && operation.from.as_ref() == Some(trace.server)
}

/// The server that a sealed copy's tenant went to, when that has left the fleet: the copy may be the last of the tenant.
pub(crate) fn left_for<'a>(
    catalog: &CatalogView,
    trusted: &Trusted<'a>,
    trace: &Trace<'_>,
) -> Option<&'a ServerName> {
    let (_, here) = trusted.records_of(&trace.tenant).iter().find(|(server, _)| *server == trace.server)?;
    let to = here.moved_to.as_ref().filter(|_| here.state == RecordState::Sealed)?;
    trusted.is_unknown(catalog, to).then_some(to)
}

/// Moves on the servers that no operation of the catalog will see to.
pub(crate) fn lost<'a>(catalog: &CatalogView, trusted: &Trusted<'a>) -> Vec<Trace<'a>> {
    let mut all = traces(trusted);
    all.retain(|trace| {
        // Its target can't be asked, or lost its record: nothing speaks against an operation that says that it is its.
        let Some((stand, to)) = stand(trusted, trace) else {
            return !catalog.operations.values().any(|operation| is_of(operation, trace));
        };
        let is_its = |operation: &OperationView| fits(operation, trace, &stand, &to);
        match trace.number {
            Some(number) => !catalog.operations.get(&number).is_some_and(is_its),
            None => !catalog.operations.values().any(is_its),
        }
    });
    all
}

/// Operations of the catalog that are over, or older than what the servers say; and why.
pub(crate) fn stale<'a>(
    catalog: &'a CatalogView,
    trusted: &Trusted<'_>,
) -> Vec<(&'a OperationView, &'static str)> {
    let open = catalog.operations.values().filter(|operation| operation.is_open());
    open.filter_map(|operation| why_stale(catalog, trusted, operation).map(|why| (operation, why))).collect()
}

fn why_stale(
    catalog: &CatalogView,
    trusted: &Trusted<'_>,
    operation: &OperationView,
) -> Option<&'static str> {
    let id = operation.tenant.as_ref()?;
    if operation.kind == "move" {
        let from = operation.from.as_ref()?;
        let source = trusted.registries.get(from)?;
        let nothing_left = !source.moves.contains_key(&operation.id);
        let no_copy = !source.databases.contains(&id.sealed_database());
        let phase = phase_of(operation)?;
        if has_role(phase) || has_copy(phase) {
            // A move that turns this one round has made the copy its target, and sees to the end of both.
            let turned = catalog.operations.values().any(|other| {
                let same = other.kind == "move" && other.is_running() && other.tenant == operation.tenant;
                same && (&other.from, &other.to) == (&operation.to, &operation.from)
            });
            let gone = nothing_left && (no_copy && !turned || has_role(phase));
            return gone.then_some("nothing of it is left on its source");
        }
        let elsewhere = matches!(trusted.home(id), Home::At(server, _) if server != from);
        let begins = matches!(phase, Phase::Arm | Phase::TurnRound);
        return (begins && nothing_left && elsewhere).then_some("its tenant lives elsewhere by now");
    }
    let Some(row) = catalog.tenants.get(id) else { return Some("the catalog has no such tenant") };
    match trusted.home(id) {
        Home::At(server, record) if row.server != *server || row.epoch != record.epoch => {
            Some("its tenant has moved since")
        }
        _ => None,
    }
}

/// What becomes of operations: stale ones end, lost moves are taken up again. `past`: the catalog is older than the
/// servers, so nothing that it says is under way can be believed.
pub(crate) fn settle(catalog: &CatalogView, trusted: &Trusted<'_>, past: bool) -> Vec<OperationChange> {
    let mut changes = Vec::new();
    let mut ended = BTreeSet::new();
    for (operation, why) in stale(catalog, trusted) {
        let state = if operation.state == "switched" { "completed" } else { "failed" };
        ended.insert(operation.id);
        changes.push(OperationChange::End { id: operation.id, state, why: why.to_owned() });
    }
    let numbers: BTreeSet<i64> = traces(trusted).iter().filter_map(|trace| trace.number).collect();
    for operation in catalog.operations.values().filter(|o| past && o.is_running()) {
        let traced = numbers.contains(&operation.id);
        let may_have_copy = phase_of(operation).is_some_and(is_after_decision);
        if !traced && !may_have_copy && ended.insert(operation.id) {
            let why = "the catalog that says so is older than the servers".to_owned();
            changes.push(OperationChange::End { id: operation.id, state: "failed", why });
        }
    }
    let lost = lost(catalog, trusted);
    let taken_up: BTreeSet<i64> = lost.iter().filter_map(|trace| trace.number).collect();
    let number = trusted.registries.values().map(|registry| registry.move_number).max().unwrap_or(0);
    let mut next = number.max(catalog.operation_number) + 1;
    let kept = catalog.operations.values().filter(|operation| {
        operation.is_running() && !ended.contains(&operation.id) && !taken_up.contains(&operation.id)
    });
    let mut running: BTreeSet<TenantId> = kept.filter_map(|operation| operation.tenant.clone()).collect();
    for trace in &lost {
        let taken_up = take_up(catalog, trusted, (trace, next), &mut running);
        next += i64::from(taken_up.is_some() && trace.number.is_none());
        changes.extend(taken_up);
    }
    changes
}

/// `next`: the number of a move that has none any more.
fn take_up(
    catalog: &CatalogView,
    trusted: &Trusted<'_>,
    (trace, next): (&Trace<'_>, i64),
    running: &mut BTreeSet<TenantId>,
) -> Option<OperationChange> {
    let id = trace.number.unwrap_or(next);
    let taken = catalog.operations.get(&id);
    // Its number was given to something else since: nobody can take it up under it.
    let free = taken.is_none_or(|o| o.kind == "move" && o.tenant.as_ref() == Some(&trace.tenant));
    // An operation is between servers of the catalog, which those that answer are or become.
    let is_known = |to: &ServerName| catalog.servers.contains_key(to) || trusted.registries.contains_key(to);
    let (stand, to) = stand(trusted, trace).filter(|(_, to)| free && is_known(to))?;
    let (step, abort_requested) = match stand {
        Stand::Decided if trace.number.is_none() => ("switched", false),
        _ if trace.number.is_none() => return None,
        Stand::Undecided => ("undo", true),
        Stand::InTransit => ("cutover", true),
        Stand::Decided if matches!(trusted.home(&trace.tenant), Home::At(at, _) if *at == to) => {
            ("release", false)
        }
        // It has moved on since, so this move was over.
        Stand::Decided => ("switched", false),
    };
    let is_running = match step {
        "switched" => false,
        _ if running.insert(trace.tenant.clone()) => true,
        "release" => false,
        _ => return None,
    };
    Some(OperationChange::TakeUp {
        id,
        tenant: trace.tenant.clone(),
        from: trace.server.clone(),
        to,
        step: if is_running { step } else { "switched" },
        abort_requested,
    })
}
