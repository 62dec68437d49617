//! Work on record that does not go on: operations, switched moves, migration runs, tenants that are not finished.

use std::time::Duration;

use catalog::{Kind, OperationHealth, RunHealth, UnfinishedTenant};

use super::diagnosis::{Part, age, count};
use crate::context::TRIED_LATELY;

/// How long an operation's record may stay as it is.
const QUIET_MAX_MS: i64 = 15 * 60_000;
/// The same for one that waits for its turn, and for steps that tell nothing meanwhile: indexes are built, rows compared.
const QUIET_LONG_MAX_MS: i64 = 2 * 3_600_000;
/// Steps of that kind.
const LONG_STEPS: [&str; 4] = ["begin", "schema", "build", "verify"];
/// Failed tries in a row that are worth a word.
const TRIES_MAX: u32 = 5;
/// How long a switched move may stay so after its window: its tenant may be busy.
const WINDOW_PAST_MAX_MS: i64 = 10 * 60_000;
/// How long a tenant may be in the making.
const CREATING_MAX_MS: i64 = 10 * 60_000;

/// Operations under way.
pub(super) fn judge_operations(seen: &[OperationHealth]) -> Part {
    let mut part = Part::new("operations", "operations");
    let running: Vec<&OperationHealth> = seen.iter().filter(|o| o.state == "running").collect();
    part.see(format!("{} running", running.len()));
    // A switched move is driven, too, when it is due.
    for operation in seen {
        let what = name(operation);
        let lately = operation.trying.as_ref().filter(|t| {
            t.tries >= TRIES_MAX && Duration::from_millis(u64::try_from(t.ago_ms).unwrap_or(0)) < TRIED_LATELY
        });
        if let Some(trying) = lately {
            part.error(
                format!(
                    "{what} fails again and again ({} times) at step {}: {}",
                    trying.tries, operation.step, trying.error
                ),
                format!("set right what the error says, it goes on by itself; {}", remedy(operation)),
            );
        } else if operation.state == "running" && operation.quiet_ms > quiet_max(&operation.step) {
            let waits = operation
                .waiting_for
                .as_ref()
                .map_or_else(String::new, |what| format!(", waits for: {what}"));
            part.warning(
                format!(
                    "{what} has made no progress for {}, at step {}{waits}",
                    age(operation.quiet_ms),
                    operation.step
                ),
                format!("the leader's log says what it does; {}", remedy(operation)),
            );
        }
    }
    part
}

fn quiet_max(step: &str) -> i64 {
    if LONG_STEPS.contains(&step) { QUIET_LONG_MAX_MS } else { QUIET_MAX_MS }
}

fn name(operation: &OperationHealth) -> String {
    let (id, kind) = (operation.id, operation.kind.as_str());
    match (&operation.tenant, operation.kind) {
        (Some(tenant), Kind::Move) => format!("move {id} of tenant {tenant}"),
        (Some(tenant), _) => format!("operation {id} ({kind} of tenant {tenant})"),
        (None, Kind::Failover) => format!("failover {id}"),
        (None, _) => format!("migration run {id}"),
    }
}

fn remedy(operation: &OperationHealth) -> String {
    let id = operation.id;
    match (operation.kind, &operation.tenant) {
        (Kind::Move, _) => format!("tenantry move show {id}; before its cutover: tenantry move abort {id}"),
        (Kind::Failover, _) => {
            "tenantry server show says of which server; one to another address takes its place".to_owned()
        }
        (Kind::Migrate, _) => format!("tenantry migrate status {id}; tenantry migrate abort {id}"),
        (_, Some(tenant)) => format!("tenantry tenant show {tenant}"),
        (_, None) => "the leader's log has more".to_owned(),
    }
}

/// Moves whose window for the way back is over.
pub(super) fn judge_moves(seen: &[OperationHealth]) -> Part {
    let mut part = Part::new("moves", "moves");
    let moves = seen.iter().filter(|operation| operation.kind == Kind::Move);
    let switched: Vec<&OperationHealth> =
        moves.clone().filter(|the_move| the_move.state == "switched").collect();
    part.see(format!("{} running, {} switched", moves.count() - switched.len(), switched.len()));
    for the_move in switched {
        if let Some(overdue) = the_move.overdue_ms.filter(|ms| *ms > WINDOW_PAST_MAX_MS) {
            let id = the_move.id;
            part.warning(
                format!(
                    "{} is switched, and its window ended {} ago: the sealed copy is still there",
                    name(the_move),
                    age(overdue)
                ),
                format!("tenantry move complete {id} --wait; tenantry move show {id} says what hinders it"),
            );
        }
    }
    part
}

/// The newest migration run.
pub(super) fn judge_run(seen: Option<&RunHealth>) -> Part {
    let mut part = Part::new("migrations", "migrations");
    let Some(run) = seen else {
        part.see("no run on record");
        return part;
    };
    let RunHealth { id, state, done, failed, pending, .. } = run;
    part.see(format!("run {id} is {state}: {done} done, {failed} failed, {pending} pending"));
    // One that was aborted before it changed anything leaves nothing to do.
    if state == "failed" || (state == "aborted" && done + failed > 0) {
        let first = run.first_failure.as_ref().map_or_else(String::new, |first| format!("; {first}"));
        part.warning(
            format!("migration run {id} halted ({state}) with {done} tenants done, {failed} failed, {pending} pending{first}"),
            format!("tenantry migrate status {id}; set right what failed, then tenantry migrate resume {id}"),
        );
    }
    part
}

/// Tenants whose last change did not come to its end.
pub(super) fn judge_tenants(seen: &[UnfinishedTenant]) -> Part {
    let mut part = Part::new("tenants", "tenants");
    let creating = seen.iter().filter(|tenant| tenant.failed.is_none()).count();
    part.see(format!("{} being made", count(creating, "tenant")));
    for tenant in seen {
        let UnfinishedTenant { id, server, age_ms, .. } = tenant;
        match &tenant.failed {
            Some((kind, error)) => {
                let kind = kind.as_str();
                part.warning(
                    format!("the last {kind} of tenant {id} failed {} ago: {error}", age(*age_ms)),
                    format!("tenantry tenant {kind} {id}"),
                );
            }
            None if *age_ms > CREATING_MAX_MS && tenant.has_operation => part.warning(
                format!("tenant {id} is being made on {server} for {}", age(*age_ms)),
                format!("tenantry server show {server}; it goes on by itself when the server does"),
            ),
            None if *age_ms > CREATING_MAX_MS => part.error(
                format!("tenant {id} is in state creating for {}, and no operation makes it", age(*age_ms)),
                "tenantry map rebuild --apply",
            ),
            None => {}
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use catalog::Trying;

    use super::*;

    fn operation(kind: Kind, step: &str, quiet_ms: i64) -> OperationHealth {
        OperationHealth {
            id: 4,
            kind,
            tenant: (kind != Kind::Migrate).then(|| "acme".parse().unwrap()),
            state: "running".to_owned(),
            step: step.to_owned(),
            quiet_ms,
            overdue_ms: None,
            waiting_for: None,
            trying: None,
        }
    }

    #[test]
    fn an_operation_that_stands_still_is_told() {
        let hour = 3_600_000;
        let seen = [operation(Kind::Move, "copy", 1_000), operation(Kind::Move, "build", hour)];
        assert!(judge_operations(&seen).wrong().is_empty());
        let part = judge_operations(&[
            operation(Kind::Move, "copy", hour),
            operation(Kind::Migrate, "wave_1", hour),
        ]);
        assert_eq!(
            part.wrong(),
            [
                "Warning: move 4 of tenant acme has made no progress for 60 min, at step copy",
                "Warning: migration run 4 has made no progress for 60 min, at step wave_1"
            ]
        );
        assert!(part.remedies()[0].contains("tenantry move abort 4"));
    }

    #[test]
    fn one_that_fails_again_and_again_is_told_with_its_error() {
        let trying = |tries, ago_ms| Some(Trying { tries, error: "no space".to_owned(), ago_ms });
        let with = |trying| OperationHealth { trying, ..operation(Kind::Delete, "drop", 0) };
        assert!(judge_operations(&[with(trying(2, 0)), with(trying(9, 600_000))]).wrong().is_empty());
        assert_eq!(
            judge_operations(&[with(trying(9, 4_000))]).wrong(),
            [
                "Error: operation 4 (delete of tenant acme) fails again and again (9 times) at step drop: no space"
            ]
        );
    }

    #[test]
    fn a_switched_move_is_told_when_its_window_is_past() {
        let switched = |overdue_ms| OperationHealth {
            state: "switched".to_owned(),
            overdue_ms: Some(overdue_ms),
            ..operation(Kind::Move, "switched", 0)
        };
        assert!(judge_moves(&[switched(-5_000), switched(5_000)]).wrong().is_empty());
        let part = judge_moves(&[switched(WINDOW_PAST_MAX_MS + 1)]);
        assert_eq!(part.wrong().len(), 1);
        assert!(part.remedies()[0].starts_with("tenantry move complete 4"));
    }

    #[test]
    fn a_run_that_halted_is_told_until_it_is_resumed() {
        let run = |state: &str, done| RunHealth {
            id: 2,
            state: state.to_owned(),
            done,
            failed: 0,
            pending: 3,
            first_failure: None,
        };
        let wrong = |state, done| judge_run(Some(&run(state, done))).wrong().len();
        assert_eq!(
            [wrong("done", 3), wrong("running", 1), wrong("aborted", 0), judge_run(None).wrong().len()],
            [0; 4]
        );
        assert_eq!([wrong("failed", 0), wrong("aborted", 1)], [1; 2]);
    }

    #[test]
    fn a_tenant_that_was_not_finished_is_told() {
        let tenant = |age_ms, failed: Option<(Kind, String)>, has_operation| UnfinishedTenant {
            id: "acme".parse().unwrap(),
            server: "pg-1".parse().unwrap(),
            age_ms,
            failed,
            has_operation,
        };
        assert!(judge_tenants(&[tenant(1_000, None, true)]).wrong().is_empty());
        let long = CREATING_MAX_MS + 1;
        assert!(judge_tenants(&[tenant(long, None, true)]).wrong()[0].starts_with("Warning"));
        assert!(judge_tenants(&[tenant(long, None, false)]).wrong()[0].starts_with("Error"));
        let failed = judge_tenants(&[tenant(0, Some((Kind::Suspend, "no".to_owned())), false)]);
        assert_eq!(failed.remedies(), ["tenantry tenant suspend acme"]);
    }
}
