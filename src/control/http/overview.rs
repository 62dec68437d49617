//! What the page shows beside the resources: `/v1/crowds`, and of a tenant `history` and `serving`.

use axum::Json;
use axum::extract::State;
use catalog::{Crowd, PastOperation, Serving};
use serde_json::{Value, json};
use shard_map::{TenantId, TenantState};

use super::Shared;
use super::answer::{Answer, Path, parse};

/// Tenants that are told of for one server: more would be smaller than a pixel can show.
const CROWD_MAX: i64 = 1_000;
/// Operations of a tenant that are told.
const HISTORY_MAX: i64 = 100;

/// Each server's largest tenants.
pub(super) async fn crowds(State(context): Shared) -> Answer<Vec<Crowd>> {
    Ok(Json(context.catalog.crowds(CROWD_MAX).await?))
}

/// What was done to a tenant, newest first.
pub(super) async fn history(State(context): Shared, Path(id): Path<String>) -> Answer<Vec<PastOperation>> {
    let id: TenantId = parse(&id)?;
    let history = context.catalog.tenant_history(&id, HISTORY_MAX).await?;
    if history.is_empty() {
        // Whoever mistyped it is told so.
        context.catalog.tenant(&id).await?;
    }
    Ok(Json(history))
}

/// Whether a tenant's clients are served, as far as routers report.
pub(super) async fn serving(State(context): Shared, Path(id): Path<String>) -> Answer<Value> {
    let id: TenantId = parse(&id)?;
    let row = context.catalog.tenant(&id).await?;
    let serving = context.catalog.serving(&id, context.config.router_timeout).await?;
    let serving = serving.unwrap_or(Serving { routers: Vec::new(), held_ms: None });
    let (state, why) = judge(row.tenant.state, row.tenant.read_only, &serving);
    let Serving { routers, held_ms } = serving;
    Ok(Json(json!({ "state": state, "why": why, "routers": routers, "held_ms": held_ms })))
}

/// The worst that there is to say: `off` is as an operator wants it, `down` is not.
fn judge(state: TenantState, read_only: bool, serving: &Serving) -> (&'static str, String) {
    let routers = &serving.routers;
    let count = |is: fn(&catalog::RouterView) -> bool| routers.iter().filter(|router| is(router)).count();
    let (down, locked_out) = (count(|r| r.server_down), count(|r| r.locked_out));
    let (all, without) = (routers.len(), count(|r| !r.has_epoch));
    let (state, why) = match state {
        TenantState::Creating => ("off", "its database is being made".to_owned()),
        TenantState::Suspended => ("off", "it is suspended: its connections are refused".to_owned()),
        TenantState::Deleted => ("off", "it is deleted".to_owned()),
        TenantState::Open if all == 0 => ("down", "no router reports".to_owned()),
        TenantState::Open if down > 0 => {
            ("down", format!("its server takes no logins from {down} of {all} routers"))
        }
        TenantState::Open if locked_out > 0 => {
            ("down", format!("its server refuses the password of {locked_out} of {all} routers"))
        }
        TenantState::Open if serving.held_ms.is_some() => {
            ("held", "its new transactions wait at the routers while it moves".to_owned())
        }
        TenantState::Open if without > 0 => {
            ("behind", format!("{without} of {all} routers do not have its last change yet"))
        }
        TenantState::Open if read_only => {
            ("limited", "it is over the size that its quota allows: it can only be read".to_owned())
        }
        TenantState::Open => ("served", "every router has its last change".to_owned()),
    };
    (state, why)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use catalog::RouterView;

    use super::*;

    fn router() -> RouterView {
        RouterView {
            name: "r1".to_owned(),
            address: "r1:5432".to_owned(),
            has_epoch: true,
            server_down: false,
            locked_out: false,
            load: None,
            pinned: BTreeMap::new(),
        }
    }

    fn state_of(state: TenantState, routers: Vec<RouterView>, held_ms: Option<i64>) -> &'static str {
        judge(state, false, &Serving { routers, held_ms }).0
    }

    #[test]
    fn the_worst_is_told() {
        let open = TenantState::Open;
        assert_eq!(state_of(open, vec![router()], None), "served");
        assert_eq!(state_of(open, vec![router()], Some(900)), "held");
        assert_eq!(state_of(open, vec![], None), "down");
        let behind = RouterView { has_epoch: false, ..router() };
        assert_eq!(state_of(open, vec![router(), behind.clone()], None), "behind");
        let down = RouterView { server_down: true, ..router() };
        assert_eq!(state_of(open, vec![behind, down.clone()], Some(900)), "down");
        assert_eq!(state_of(TenantState::Suspended, vec![down], None), "off");
        assert_eq!(judge(open, true, &Serving { routers: vec![router()], held_ms: None }).0, "limited");
    }
}
