//! How each tenant of a server that is emptied stands to that: pure, so that the leader acts by what an operator is shown.

use std::time::Duration;

use catalog::{Aside, FailedMove, Kind, Leaving, UnderWay};
use shard_map::TenantState;

/// After so long, who was set aside is tried again.
const SET_ASIDE_FOR: Duration = Duration::from_mins(10);
/// The same, if the reason may pass by itself.
const PASSING_FOR: Duration = Duration::from_secs(15);
/// Tries in a row after which a reason is not believed to pass soon.
const PASSING_TRIES_MAX: u32 = 4;

/// How one tenant stands.
#[derive(Debug)]
pub(super) enum Standing<'a> {
    /// Its move can start now.
    Ready,
    /// Its move could not start for a reason that should pass: it is tried again in a moment.
    Soon,
    /// It is on its way.
    Moving(&'a UnderWay),
    /// Something else changes it; then it is looked at again.
    Busy(&'a UnderWay),
    /// It is tried again after a while.
    Aside(Reason),
    /// It can't be moved as it is.
    Stuck(Reason),
}

impl Standing<'_> {
    /// The word for it in metric labels.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Ready | Self::Soon => "pending",
            Self::Moving(_) => "moving",
            Self::Busy(_) => "busy",
            Self::Aside(_) => "set_aside",
            Self::Stuck(_) => "not_movable",
        }
    }
}

/// Why a tenant stays for now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reason {
    pub(super) why: String,
    pub(super) remedy: String,
    /// Until it is tried again, if it is.
    pub(super) tried_again_in: Option<Duration>,
}

/// Judges one tenant.
pub(super) fn judge(row: &Leaving) -> Standing<'_> {
    let id = &row.tenant.id;
    if let Some(operation) = &row.operation {
        return match operation.kind {
            Kind::Move => Standing::Moving(operation),
            _ => Standing::Busy(operation),
        };
    }
    let stuck = |why: &str, remedy: String| {
        Standing::Stuck(Reason { why: why.to_owned(), remedy, tried_again_in: None })
    };
    match row.tenant.state {
        TenantState::Open => {}
        TenantState::Suspended => {
            let remedy =
                format!("tenantry tenant resume {id}, and it is moved; or tenantry tenant delete {id}");
            return stuck("it is suspended", remedy);
        }
        TenantState::Deleted => {
            let until = row.drop_at.as_deref().unwrap_or("the end of its grace time");
            let remedy = format!("wait until {until}, or end that now: tenantry tenant delete {id} --now");
            return stuck("it is deleted, in its grace time", remedy);
        }
        TenantState::Creating => {
            return stuck("it is not made yet", format!("see why: tenantry tenant show {id}"));
        }
    }
    let refused = row.aside.as_ref().and_then(after_refusal);
    let failed = || row.failed.as_ref().and_then(|failed| after_failure(row, failed));
    refused.or_else(failed).unwrap_or(Standing::Ready)
}

/// Its move could not even start. None when it is due again.
fn after_refusal(aside: &Aside) -> Option<Standing<'_>> {
    let is_passing = aside.may_pass && aside.tries < PASSING_TRIES_MAX;
    let left = left(if is_passing { PASSING_FOR } else { SET_ASIDE_FOR }, aside.age_s)?;
    // There is no need yet to bother anybody.
    if is_passing {
        return Some(Standing::Soon);
    }
    let (why, remedy) = (aside.why.clone(), aside.remedy.clone());
    Some(Standing::Aside(Reason { why, remedy, tried_again_in: Some(left) }))
}

/// Its last move away from here did not get it away. None when it is due again.
fn after_failure<'a>(row: &Leaving, failed: &FailedMove) -> Option<Standing<'a>> {
    let left = left(SET_ASIDE_FOR, failed.age_s)?;
    let id = failed.id;
    let (why, remedy) = match (&failed.error, failed.state.as_str()) {
        (None, "aborted") => (
            format!("move {id} was aborted"),
            format!(
                "nothing, if it may be tried again; to keep it here: tenantry server drain {} --undo",
                row.tenant.server
            ),
        ),
        (error, state) => (
            format!("move {id} {state}: {}", error.as_deref().unwrap_or("no reason is on record")),
            format!("see what it did: tenantry move show {id}"),
        ),
    };
    Some(Standing::Aside(Reason { why, remedy, tried_again_in: Some(left) }))
}

/// What is left of a pause that began so many seconds ago; none when it is over.
fn left(pause: Duration, age_s: f64) -> Option<Duration> {
    pause.checked_sub(Duration::try_from_secs_f64(age_s).unwrap_or_default()).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn row(more: &Value) -> Leaving {
        let mut row = json!({
            "tenant": { "id": "acme", "server": "pg-1", "epoch": 3, "state": "open", "key_version": 1 },
            "bytes": 10, "drop_at": null, "operation": null, "failed": null, "aside": null,
        });
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "state" => row["tenant"]["state"] = value.clone(),
                key => row[key] = value.clone(),
            }
        }
        serde_json::from_value(row).unwrap()
    }

    fn word(more: &Value) -> &'static str {
        judge(&row(more)).as_str()
    }

    #[test]
    fn only_open_tenants_that_nothing_changes_are_moved() {
        assert_eq!(word(&json!({})), "pending");
        assert_eq!(word(&json!({ "operation": { "id": 1, "kind": "move", "step": "copy" } })), "moving");
        let made =
            json!({ "state": "creating", "operation": { "id": 1, "kind": "create", "step": "roles" } });
        assert_eq!(word(&made), "busy");
        for state in ["suspended", "deleted", "creating"] {
            assert_eq!(word(&json!({ "state": state })), "not_movable", "{state}");
        }
    }

    #[test]
    fn a_failed_move_sets_a_tenant_aside_for_ten_minutes() {
        let failed = |age_s: u32| {
            row(&json!({ "failed": { "id": 7, "state": "failed", "error": "no room", "age_s": age_s } }))
        };
        let recent = failed(60);
        let Standing::Aside(reason) = judge(&recent) else { panic!("it is set aside") };
        assert_eq!(
            (reason.why.as_str(), reason.tried_again_in),
            ("move 7 failed: no room", Some(Duration::from_mins(9)))
        );
        assert_eq!(judge(&failed(600)).as_str(), "pending");
    }

    #[test]
    fn who_was_refused_is_tried_again_after_ten_minutes() {
        let refused = |age_s: u32| {
            let aside = json!({ "why": "large objects", "remedy": "move them", "may_pass": false, "tries": 1, "age_s": age_s });
            row(&json!({ "aside": aside }))
        };
        let recent = refused(60);
        let Standing::Aside(reason) = judge(&recent) else { panic!("it is set aside") };
        assert_eq!(
            (reason.remedy.as_str(), reason.tried_again_in),
            ("move them", Some(Duration::from_mins(9)))
        );
        assert_eq!(judge(&refused(600)).as_str(), "pending");
    }

    #[test]
    fn what_may_pass_is_tried_again_soon_and_then_no_oftener_than_the_rest() {
        let away = |tries: u32, age_s: u32| {
            let aside = json!({ "why": "pg-2 does not answer", "remedy": "see to it", "may_pass": true, "tries": tries, "age_s": age_s });
            row(&json!({ "aside": aside }))
        };
        for tries in 1..PASSING_TRIES_MAX {
            assert!(matches!(judge(&away(tries, 14)), Standing::Soon));
            assert!(matches!(judge(&away(tries, 15)), Standing::Ready));
        }
        assert_eq!(judge(&away(PASSING_TRIES_MAX, 15)).as_str(), "set_aside");
        assert_eq!(judge(&away(PASSING_TRIES_MAX, 600)).as_str(), "pending");
    }
}
