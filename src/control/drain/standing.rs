//! How each tenant of a server that is emptied stands to that: pure, so that the leader acts by what an operator is shown.

use std::time::{Duration, Instant};

use catalog::{FailedMove, Kind, Leaving, UnderWay};
use shard_map::TenantState;

use super::aside::{OfServer, SET_ASIDE_FOR};

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
pub(super) fn judge<'a>(row: &'a Leaving, known: &OfServer, now: Instant) -> Standing<'a> {
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
    if let Some(aside) = known.tenants.get(id)
        && let Some(left) = aside.tried_again_in(now)
    {
        if aside.is_passing() {
            return Standing::Soon;
        }
        let (why, remedy) = (aside.why.clone(), aside.remedy.clone());
        return Standing::Aside(Reason { why, remedy, tried_again_in: Some(left) });
    }
    match &row.failed {
        Some(failed) => after_failure(row, failed, known, now),
        None => Standing::Ready,
    }
}

/// Its last move away from here did not get it away.
fn after_failure<'a>(row: &Leaving, failed: &FailedMove, known: &OfServer, now: Instant) -> Standing<'a> {
    let age = Duration::try_from_secs_f64(failed.age_s).unwrap_or_default();
    let is_forgiven = known.anew_since.is_some_and(|since| now.saturating_duration_since(since) < age);
    let Some(left) = SET_ASIDE_FOR.checked_sub(age).filter(|left| !left.is_zero() && !is_forgiven) else {
        return Standing::Ready;
    };
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
    Standing::Aside(Reason { why, remedy, tried_again_in: Some(left) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::aside::Aside;

    fn row(more: &serde_json::Value) -> Leaving {
        let mut row = serde_json::json!({
            "tenant": { "id": "acme", "server": "pg-1", "epoch": 3, "state": "open", "key_version": 1 },
            "bytes": 10, "drop_at": null, "operation": null, "failed": null,
        });
        for (key, value) in more.as_object().unwrap() {
            match key.as_str() {
                "state" => row["tenant"]["state"] = value.clone(),
                key => row[key] = value.clone(),
            }
        }
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn only_open_tenants_that_nothing_changes_are_moved() {
        let (known, now) = (OfServer::default(), Instant::now());
        let judged = |more: serde_json::Value| judge(&row(&more), &known, now).as_str();
        assert_eq!(judged(serde_json::json!({})), "pending");
        assert_eq!(
            judged(serde_json::json!({ "operation": { "id": 1, "kind": "move", "step": "copy" } })),
            "moving"
        );
        let made = serde_json::json!({ "state": "creating", "operation": { "id": 1, "kind": "create", "step": "roles" } });
        assert_eq!(judged(made), "busy");
        for state in ["suspended", "deleted", "creating"] {
            assert_eq!(judged(serde_json::json!({ "state": state })), "not_movable", "{state}");
        }
    }

    #[test]
    fn a_failed_move_sets_a_tenant_aside_for_ten_minutes_unless_an_operator_says_anew() {
        let now = Instant::now() + Duration::from_hours(1);
        let failed = |age_s: u32| {
            row(
                &serde_json::json!({ "failed": { "id": 7, "state": "failed", "error": "no room", "age_s": age_s } }),
            )
        };
        let mut known = OfServer::default();
        let recent = failed(60);
        let Standing::Aside(reason) = judge(&recent, &known, now) else { panic!("it is set aside") };
        assert_eq!(
            (reason.why.as_str(), reason.tried_again_in),
            ("move 7 failed: no room", Some(Duration::from_mins(9)))
        );
        assert_eq!(judge(&failed(600), &known, now).as_str(), "pending");
        known.anew_since = now.checked_sub(Duration::from_secs(30));
        assert_eq!(judge(&failed(60), &known, now).as_str(), "pending");
        assert_eq!(judge(&failed(20), &known, now).as_str(), "set_aside", "that was after it");
    }

    #[test]
    fn a_refused_one_waits_and_what_passes_is_no_ones_business() {
        let now = Instant::now();
        let mut known = OfServer::default();
        let id = row(&serde_json::json!({})).tenant.id;
        known.tenants.insert(id.clone(), Aside::new("large objects".into(), "move them".into(), false, now));
        assert_eq!(judge(&row(&serde_json::json!({})), &known, now).as_str(), "set_aside");
        assert_eq!(judge(&row(&serde_json::json!({})), &known, now + SET_ASIDE_FOR).as_str(), "pending");
        known.tenants.insert(id, Aside::new("no answer".into(), "wait".into(), true, now));
        assert_eq!(judge(&row(&serde_json::json!({})), &known, now).as_str(), "pending");
    }
}
