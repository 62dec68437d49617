//! Placing a tenant that is new, or leaves its server: all servers with what they bear, as one transaction sees them, and the choice among them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use shard_map::labels::Labels;
use shard_map::placement::{Candidate, Decision, NoPlacement, Usage, Wish, choose};
use shard_map::policy::PlacementPolicy;
use shard_map::{Server, ServerName, Tenant, TenantId};
use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::lifecycle::check_source;
use crate::operations::{Kind, insert_operation};
use crate::query::{Catalog, Params, from_json, limited};

/// Most tenants that are named as too near to another.
pub const NEIGHBOURS_NAMED_MAX: usize = 10;

/// A server and what it bears, as one row tells it.
#[derive(Deserialize)]
struct Row {
    #[serde(flatten)]
    server: Server,
    tenants: u32,
    own_quotas: u32,
    own_connections: u64,
    bytes: Option<u64>,
    active_sessions_milli: Option<u64>,
}

impl Catalog {
    /// Tenants of a server from which anti-affinity would keep one apart, and by which of its labels: one more than
    /// [`NEIGHBOURS_NAMED_MAX`] when there are more than these.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn anti_affine_on(
        &self,
        server: &ServerName,
        tenant: &Tenant,
        policy: &PlacementPolicy,
    ) -> Result<Vec<(TenantId, String)>> {
        const SQL: &str = "
            SELECT jsonb_build_array(t.id, l.key) FROM tenant t, jsonb_each_text($1) l
            WHERE t.labels->>l.key = l.value AND t.server = $2 AND t.id <> $3 ORDER BY t.id, l.key LIMIT $4";
        let labels = anti_affinity_labels(&tenant.labels, policy);
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        let most = i64::try_from(NEIGHBOURS_NAMED_MAX + 1).unwrap_or(i64::MAX);
        let params: Params<'_> = &[&serde_json::json!(labels), &server.as_str(), &tenant.id.as_str(), &most];
        self.json("placement_neighbours", SQL, params).await
    }

    /// Chooses a server for a new tenant, records the tenant as being made, and starts the operation that makes it: empty,
    /// or as a copy of `source`. Returns the operation's number, and the choice.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the tenant exists, or no server can take it, or its source can't be copied now;
    /// [`Error::NotFound`] when the named server or the source is not there.
    pub async fn create_tenant(
        &self,
        id: &TenantId,
        wish: &Wish,
        policy: &PlacementPolicy,
        source: Option<&TenantId>,
    ) -> Result<(i64, Decision)> {
        let mut client = self.client().await?;
        let transaction = limited("tenant_create", client.transaction()).await?;
        let from = match source {
            Some(source) => Some(check_source(&transaction, source).await?),
            None => None,
        };
        // Two placements at once would both see the same server as the emptiest; the version's row lock is taken by
        // the insert below anyway.
        limited("tenant_create", transaction.execute("SELECT FROM map_version FOR UPDATE", &[])).await?;
        let decision = decide(&transaction, wish, policy).await?;
        // The first epoch is the map's version: it is higher than any epoch of an earlier tenant of this name, since
        // every step of an epoch is at least one step of the map.
        const SQL: &str = "
            INSERT INTO tenant (id, server, epoch, state, labels, quota)
            SELECT $1, $2, version + 1, 'creating', $3, $4 FROM map_version ON CONFLICT DO NOTHING";
        let (labels, quota) = (serde_json::json!(wish.labels), serde_json::json!(wish.quota));
        let server = decision.server.as_str();
        let params: Params<'_> = &[&id.as_str(), &server, &labels, &quota];
        if limited("tenant_create", transaction.execute(SQL, params)).await? == 0 {
            return Err(exists(id));
        }
        let mut input = serde_json::json!({ "why": decision.why, "server": decision.server });
        let mut kind = Kind::Create;
        if let Some(source) = source {
            kind = Kind::Clone;
            input["source"] = serde_json::json!(source);
            input["from"] = serde_json::json!(from);
            input["to"] = serde_json::json!(decision.server);
        }
        let operation = insert_operation(&transaction, kind, Some(id), &input).await?;
        limited("tenant_create", transaction.commit()).await?;
        client.keep();
        Ok((operation, decision))
    }

    /// Where [`Catalog::create_tenant`] would place a tenant now, and why. Changes nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn try_placement(
        &self,
        id: &TenantId,
        wish: &Wish,
        policy: &PlacementPolicy,
    ) -> Result<Decision> {
        let mut client = self.client().await?;
        let begin = client.build_transaction().read_only(true);
        let transaction = limited("placement_try", begin.start()).await?;
        const EXISTS: &str = "SELECT FROM tenant WHERE id = $1";
        if limited("placement_try", transaction.query_opt(EXISTS, &[&id.as_str()])).await?.is_some() {
            return Err(exists(id));
        }
        let decision = decide(&transaction, wish, policy).await?;
        limited("placement_try", transaction.commit()).await?;
        client.keep();
        Ok(decision)
    }

    /// All servers with what they bear, and which values of labels by which the policy keeps tenants apart are on which server:
    /// server, key, value.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn places(
        &self,
        policy: &PlacementPolicy,
    ) -> Result<(Vec<Candidate>, BTreeSet<(ServerName, String, String)>)> {
        const SQL: &str = "
            SELECT DISTINCT jsonb_build_array(placed.server, k.key, t.labels->>k.key)
            FROM unnest($1::text[]) k (key), tenant t
            CROSS JOIN LATERAL (
                SELECT t.server
                UNION ALL
                SELECT o.input->>'to' FROM operation o
                WHERE o.tenant = t.id AND o.kind = 'move' AND o.state = 'running') placed (server)
            WHERE t.labels->>k.key IS NOT NULL";
        let mut client = self.client().await?;
        let begin = client.build_transaction().read_only(true);
        let transaction = limited("placement_places", begin.start()).await?;
        let candidates = candidates(&transaction, &Wish::default(), policy).await?;
        let params: Params<'_> = &[&policy.anti_affinity];
        let rows = limited("placement_places", transaction.query(SQL, params)).await?;
        let neighbours = rows.iter().map(|row| from_json("placement_places", row)).collect::<Result<_>>()?;
        limited("placement_places", transaction.commit()).await?;
        client.keep();
        Ok((candidates, neighbours))
    }

    /// Where a tenant that leaves its server would be placed now, and why. Changes nothing.
    ///
    /// # Errors
    /// As [`Catalog::create_tenant`].
    pub async fn place_anew(&self, wish: &Wish, policy: &PlacementPolicy) -> Result<Decision> {
        let mut client = self.client().await?;
        let begin = client.build_transaction().read_only(true);
        let transaction = limited("placement_anew", begin.start()).await?;
        let decision = decide(&transaction, wish, policy).await?;
        limited("placement_anew", transaction.commit()).await?;
        client.keep();
        Ok(decision)
    }
}

fn exists(id: &TenantId) -> Error {
    Error::Conflict(format!("tenant {id} exists already"))
}

async fn decide(transaction: &Transaction<'_>, wish: &Wish, policy: &PlacementPolicy) -> Result<Decision> {
    let candidates = candidates(transaction, wish, policy).await?;
    choose(&candidates, wish, policy).map_err(|e| match e {
        NoPlacement::UnknownServer(_) => Error::NotFound(e.to_string()),
        NoPlacement::NoneFits(_) => Error::Conflict(e.to_string()),
    })
}

async fn candidates(
    transaction: &Transaction<'_>,
    wish: &Wish,
    policy: &PlacementPolicy,
) -> Result<Vec<Candidate>> {
    // Work that was measured long ago says nothing; bytes do. A tenant on its way counts at both ends.
    const SQL: &str = "
        SELECT to_jsonb(s) || jsonb_build_object('tenants', coalesce(t.tenants, 0),
            'own_quotas', coalesce(t.own_quotas, 0), 'own_connections', coalesce(t.own_connections, 0),
            'bytes', u.bytes + coalesce(arriving.bytes, 0), 'active_sessions_milli',
            CASE WHEN u.measured_at > now() - interval '10 minutes' THEN u.active_sessions_milli END)
        FROM server s
        LEFT JOIN (SELECT server, count(*) AS tenants, count(quota->'connections') AS own_quotas,
            sum((quota->>'connections')::bigint) AS own_connections
            FROM (SELECT server, quota FROM tenant
                UNION ALL
                SELECT o.input->>'to', t.quota FROM operation o JOIN tenant t ON t.id = o.tenant
                WHERE o.kind = 'move' AND o.state = 'running' AND t.server <> o.input->>'to') placed
            GROUP BY server
        ) t ON t.server = s.name
        LEFT JOIN server_use u ON u.server = s.name
        LEFT JOIN (SELECT o.input->>'to' AS server, sum(v.bytes)::bigint AS bytes
            FROM operation o JOIN tenant_use v ON v.tenant = o.tenant
            LEFT JOIN server_use u ON u.server = o.input->>'to'
            WHERE o.kind = 'move' AND (o.state = 'running' OR o.state = 'switched' AND o.updated_at > u.measured_at)
            GROUP BY 1
        ) arriving ON arriving.server = s.name";
    let neighbours = anti_affine(transaction, wish, policy).await?;
    let rows = limited("placement_candidates", transaction.query(SQL, &[])).await?;
    let candidate = |row| {
        let row: Row = from_json("placement_candidates", row)?;
        let usage = Usage {
            tenants: row.tenants,
            own_quotas: row.own_quotas,
            own_connections: row.own_connections,
            bytes: row.bytes,
            active_sessions_milli: row.active_sessions_milli,
        };
        let on_it = neighbours.iter().filter(|(server, _)| *server == row.server.name);
        let anti_affine = on_it.map(|(_, key)| key.clone()).collect();
        Ok(Candidate { server: row.server, usage, anti_affine })
    };
    rows.iter().map(candidate).collect()
}

/// Those of a tenant's labels by which the policy's anti-affinity goes.
fn anti_affinity_labels(labels: &Labels, policy: &PlacementPolicy) -> BTreeMap<String, String> {
    let with_value = |key: &String| Some((key.clone(), labels.get(key)?.to_owned()));
    policy.anti_affinity.iter().filter_map(with_value).collect()
}

/// Servers with tenants, or with tenants on their way there, from which anti-affinity keeps the new one apart, and by which
/// label.
async fn anti_affine(
    transaction: &Transaction<'_>,
    wish: &Wish,
    policy: &PlacementPolicy,
) -> Result<Vec<(ServerName, String)>> {
    let labels = anti_affinity_labels(&wish.labels, policy);
    if labels.is_empty() {
        return Ok(Vec::new());
    }
    const SQL: &str = "
        SELECT DISTINCT jsonb_build_array(placed.server, l.key) FROM jsonb_each_text($1) l, tenant t
        CROSS JOIN LATERAL (
            SELECT t.server
            UNION ALL
            SELECT o.input->>'to' FROM operation o
            WHERE o.tenant = t.id AND o.kind = 'move' AND o.state = 'running') placed (server)
        WHERE t.labels->>l.key = l.value";
    let rows =
        limited("placement_anti_affine", transaction.query(SQL, &[&serde_json::json!(labels)])).await?;
    rows.iter().map(|row| from_json("placement_anti_affine", row)).collect()
}
