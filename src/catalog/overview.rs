//! What an operator's page shows beside the resources themselves: all of it read-only, and bounded whatever the fleet's size.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shard_map::{ServerName, TenantId, TenantState};

use crate::error::Result;
use crate::load::Load;
use crate::operations::{Operation, Step};
use crate::query::Catalog;
use crate::uses::ServerUse;

/// Changes of the map that are looked through for one tenant's: a router further behind counts as without its last one.
const CHANGES_SEARCHED_MAX: i64 = 10_000;

/// A server's tenants.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Crowd {
    /// The server.
    pub server: ServerName,
    /// Tenants placed there.
    pub tenants: u32,
    /// The largest and the busiest of them: id, bytes (none until measured), state, sessions at work at once on average in
    /// thousandths (none if there were none).
    pub listed: Vec<(TenantId, Option<i64>, String, Option<i64>)>,
}

/// Something that was done to a tenant, or is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PastOperation {
    /// Its number.
    pub id: i64,
    /// What was done: `create`, `move`, ….
    pub kind: String,
    /// How it stands, or ended.
    pub state: String,
    /// The step begun last.
    pub step: String,
    /// A move's server before.
    pub from: Option<String>,
    /// The server that a move was to, or a new tenant was placed on.
    pub to: Option<String>,
    /// Who asked, as they said themselves.
    pub asked_by: Option<String>,
    /// How long a move held the tenant's transactions, in milliseconds.
    pub hold_ms: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// When it was asked for (RFC 3339).
    pub created_at: String,
    /// When its record changed last (RFC 3339).
    pub updated_at: String,
}

/// How one live router stands to a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouterView {
    /// The router's name.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// Whether it has the tenant's last change.
    pub has_epoch: bool,
    /// Whether the tenant's server takes no logins from it.
    pub server_down: bool,
    /// Whether the tenant's server refuses its password.
    pub locked_out: bool,
    /// What its clients do there; none if the router does not tell: it was not asked yet, or is of an older version.
    pub load: Option<Load>,
    /// Sessions of the tenant that keep their server connection, by reason.
    pub pinned: BTreeMap<String, u32>,
}

/// What routers can do for a tenant just now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Serving {
    /// Live routers.
    pub routers: Vec<RouterView>,
    /// For how long new transactions may still be made to wait, in milliseconds; none when there is no hold in force.
    pub held_ms: Option<i64>,
}

impl Serving {
    /// The worst that there is to say of how a tenant in this state is served, and why: `off` is as an operator wants it,
    /// `down` is not.
    #[must_use]
    pub fn judge(&self, state: TenantState, read_only: bool) -> (&'static str, String) {
        let routers = &self.routers;
        let count = |is: fn(&RouterView) -> bool| routers.iter().filter(|router| is(router)).count();
        let (down, locked_out) = (count(|r| r.server_down), count(|r| r.locked_out));
        let (all, without) = (routers.len(), count(|r| !r.has_epoch));
        match state {
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
            TenantState::Open if self.held_ms.is_some() => {
                ("held", "its new transactions wait at the routers while it moves".to_owned())
            }
            TenantState::Open if without > 0 => {
                ("behind", format!("{without} of {all} routers do not have its last change yet"))
            }
            TenantState::Open if read_only => {
                ("limited", "it is over the size that its quota allows: it can only be read".to_owned())
            }
            TenantState::Open => ("served", "every router has its last change".to_owned()),
        }
    }
}

/// A move with its journal.
#[derive(Debug, Clone, Deserialize)]
pub struct MoveRecord {
    /// The operation.
    #[serde(flatten)]
    pub operation: Operation,
    /// Its steps.
    pub steps: Vec<Step>,
}

impl Catalog {
    /// Each server's largest and busiest tenants, by server.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn crowds(&self, per_server_max: i64) -> Result<Vec<Crowd>> {
        const SQL: &str = "
            SELECT jsonb_build_object('server', s.name,
                'tenants', (SELECT count(*) FROM tenant t WHERE t.server = s.name),
                'listed', (SELECT coalesce(jsonb_agg(jsonb_build_array(id, bytes, state, active)), '[]') FROM (
                    SELECT t.id, u.bytes, t.state, w.value::bigint AS active,
                        row_number() OVER (ORDER BY u.bytes DESC NULLS LAST, t.id) AS by_size,
                        row_number() OVER (ORDER BY w.value::bigint DESC NULLS LAST, t.id) AS by_load
                    FROM tenant t LEFT JOIN tenant_use u ON u.tenant = t.id
                        LEFT JOIN jsonb_each_text(v.tenants_active_milli) w ON w.key = t.id
                    WHERE t.server = s.name) AS ranked
                    WHERE by_size <= $1 OR by_load <= $1 AND active IS NOT NULL))
            FROM server s LEFT JOIN server_use v ON v.server = s.name ORDER BY s.name";
        self.json("overview_crowds", SQL, &[&per_server_max]).await
    }

    /// What was done to a tenant, newest first.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn tenant_history(&self, id: &TenantId, count_max: i64) -> Result<Vec<PastOperation>> {
        const SQL: &str = "
            SELECT jsonb_build_object('id', id, 'kind', kind, 'state', state, 'step', step, 'from', input->>'from',
                'to', coalesce(input->>'to', data->>'server', input->>'server'), 'asked_by', input->>'asked_by',
                'hold_ms', (data->>'hold_ms')::float8, 'error', coalesce(data#>>'{failure,error}', error),
                'created_at', created_at, 'updated_at', updated_at)
            FROM operation WHERE tenant = $1 ORDER BY id DESC LIMIT $2";
        self.json("overview_history", SQL, &[&id.as_str(), &count_max]).await
    }

    /// What routers that reported within this time can do for these tenants; what their clients do there only for `details`.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn servings(
        &self,
        ids: &[&TenantId],
        router_timeout: Duration,
        details: bool,
    ) -> Result<BTreeMap<TenantId, Serving>> {
        const SQL: &str = "
            WITH live AS (
                SELECT *, coalesce(load->'watched', '[]') || coalesce(load->'tenants', '[]') AS loads
                FROM router WHERE seen_at > now() - $2 * interval '1 second'
            ), changed AS (
                SELECT coalesce(entry#>>'{tenant,id}', entry->>'no_tenant') AS tenant, max(version) AS version FROM change_log
                WHERE version > (SELECT greatest(min(live.map_version), m.version - $3) FROM live, map_version m
                    GROUP BY m.version)
                GROUP BY 1
            )
            SELECT jsonb_build_array(tenant.id, jsonb_build_object(
                'routers', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', name, 'address', address,
                    'has_epoch', map_version >= coalesce(changed.version, 0)
                        AND map_version >= (SELECT version - $3 FROM map_version),
                    'server_down', coalesce(report->'servers_down', '[]') ? tenant.server,
                    'locked_out', coalesce(report->'locked_out', '[]') ? tenant.id,
                    'load', CASE WHEN $4 THEN
                        (SELECT t FROM jsonb_array_elements(loads) t WHERE t->>'tenant' = tenant.id LIMIT 1) END,
                    'pinned', CASE WHEN $4 THEN coalesce(report->'pinned'->tenant.id, '{}') ELSE '{}' END) ORDER BY name, started_at), '[]')
                    FROM live),
                'held_ms', (SELECT nullif(greatest(0, expires_at_ms - (extract(epoch FROM now()) * 1000)::bigint), 0)
                    FROM hold WHERE hold.tenant = tenant.id)))
            FROM tenant LEFT JOIN changed ON changed.tenant = tenant.id WHERE tenant.id = ANY($1)";
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        let params: crate::query::Params<'_> =
            &[&ids, &router_timeout.as_secs_f64(), &CHANGES_SEARCHED_MAX, &details];
        Ok(self.json::<(TenantId, Serving)>("overview_serving", SQL, params).await?.into_iter().collect())
    }

    /// What was measured of servers, by name.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn server_uses(&self) -> Result<BTreeMap<ServerName, ServerUse>> {
        const SQL: &str = "
            SELECT jsonb_build_array(server, jsonb_build_object('bytes', bytes, 'active_sessions_milli', active_sessions_milli))
            FROM server_use";
        Ok(self.json::<(ServerName, ServerUse)>("overview_uses", SQL, &[]).await?.into_iter().collect())
    }

    /// Moves that run, the newest of those that are switched, and these, each with its journal.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn moves_in_sight(&self, more: &[i64], switched_max: i64) -> Result<Vec<MoveRecord>> {
        const SQL: &str = "
            SELECT to_jsonb(o) || jsonb_build_object('steps', (
                SELECT coalesce(jsonb_agg(to_jsonb(s) || jsonb_build_object('took_ms',
                    round(extract(epoch FROM coalesce(ended_at, clock_timestamp()) - started_at) * 1000, 1))
                    ORDER BY number), '[]')
                FROM operation_step s WHERE operation = o.id))
            FROM operation o WHERE id IN (
                SELECT id FROM operation WHERE kind = 'move' AND state = 'running'
                UNION (SELECT id FROM operation WHERE kind = 'move' AND state = 'switched' ORDER BY id DESC LIMIT $2)
                UNION SELECT unnest($1::bigint[]))
            ORDER BY id";
        self.json("overview_moves", SQL, &[&more, &switched_max]).await
    }
}

#[cfg(test)]
mod tests {
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
        Serving { routers, held_ms }.judge(state, false).0
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
        let serving = Serving { routers: vec![router()], held_ms: None };
        assert_eq!(serving.judge(open, true).0, "limited");
    }
}
