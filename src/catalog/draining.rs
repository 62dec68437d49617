//! Emptying a server, as the catalog sees it: who is there, what became of the moves away from it, and the start of another.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shard_map::{ServerName, ServerState, Tenant, TenantId, TenantState};

use crate::error::{Error, Result};
use crate::operations::{Kind, insert_operation};
use crate::query::{Catalog, Params, from_json, limited};
use crate::removal::no_such_server;
use crate::tenants::lock_tenant;

/// Moves of which the time that further ones take is guessed.
const MOVES_GUESSED_BY: i64 = 20;
/// Among so many of the newest operations those are looked for.
const OPERATIONS_SEARCHED_MAX: i64 = 10_000;

/// A tenant of a server that is to be emptied.
#[derive(Debug, Clone, Deserialize)]
pub struct Leaving {
    /// As the map has it.
    pub tenant: Tenant,
    /// Of its database, as far as that was measured.
    pub bytes: Option<u64>,
    /// When it is dropped, if it is deleted (RFC 3339).
    pub drop_at: Option<String>,
    /// What changes it now, if anything does.
    pub operation: Option<UnderWay>,
    /// Its last move, if that was to leave this server and did not.
    pub failed: Option<FailedMove>,
    /// Why its move away from this server could not even start when that was last tried, if it could not.
    pub aside: Option<Aside>,
}

/// Why a tenant's move did not start.
#[derive(Debug, Clone, Deserialize)]
pub struct Aside {
    /// The reason.
    pub why: String,
    /// What to do.
    pub remedy: String,
    /// Whether it may pass by itself, such as a server that did not answer in time.
    pub may_pass: bool,
    /// How often that was so in a row.
    pub tries: u32,
    /// How long ago it was last tried, in seconds.
    pub age_s: f64,
}

/// What changes a tenant now.
#[derive(Debug, Clone, Deserialize)]
pub struct UnderWay {
    /// Its number.
    pub id: i64,
    /// Its kind.
    pub kind: Kind,
    /// The step that it is in.
    pub step: String,
    /// Of a move: where to.
    pub to: Option<ServerName>,
    /// Of a move: bytes copied so far.
    pub bytes_copied: Option<u64>,
}

/// A move that did not get its tenant away.
#[derive(Debug, Clone, Deserialize)]
pub struct FailedMove {
    /// Its number.
    pub id: i64,
    /// `failed` or `aborted`.
    pub state: String,
    /// Why, if there is a reason on record.
    pub error: Option<String>,
    /// How long ago it ended, in seconds.
    pub age_s: f64,
}

/// A copy of a tenant that has left, kept for a while.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SealedCopy {
    /// The move that left it.
    #[serde(rename = "move")]
    pub id: i64,
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// Until when it is kept (RFC 3339).
    pub kept_until: Option<String>,
    /// Whether both sides were found alike at the switch; none if they were not compared.
    pub verified: Option<bool>,
}

/// What a move away from the server took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
pub struct MadeMove {
    /// Of the tenant's database.
    pub bytes: u64,
    /// From its first deed until the tenant was served by its new server.
    pub whole_s: f64,
    /// That part of it which grows with the bytes: the copy, and the building of indexes.
    pub sized_s: f64,
    /// How long ago its first deed was.
    pub begun_s: f64,
    /// How long ago it was switched.
    pub switched_s: f64,
}

impl Catalog {
    /// Has a server emptied, whose tenants are all tried at once, also those that were set aside; or takes that back.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_draining(&self, server: &ServerName, drains: bool) -> Result<()> {
        const SQL: &str = "
            WITH named AS (UPDATE server SET state = $2 WHERE name = $1 RETURNING name),
            tried AS (DELETE FROM drain_aside WHERE server = $1)
            INSERT INTO drain (server) SELECT name FROM named
            ON CONFLICT (server) DO UPDATE SET asked_at = now()";
        const FORGET: &str = "
            DELETE FROM drain_aside a WHERE NOT EXISTS (SELECT FROM tenant t WHERE t.id = a.tenant AND t.server = a.server)";
        self.execute("drain_forget", FORGET, &[]).await?;
        let state = if drains { ServerState::Draining } else { ServerState::Active };
        match self.execute("drain_set", SQL, &[&server.as_str(), &state.as_str()]).await? {
            0 => Err(no_such_server(server)),
            _ => Ok(()),
        }
    }

    /// Puts on record that a tenant's move off a server could not start when that was tried, `tried` ago: not if an operator
    /// has had it tried anew since, or has taken the drain back.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn set_aside(
        &self,
        (tenant, server): (&TenantId, &ServerName),
        (why, remedy, may_pass): (&str, &str, bool),
        (tried, term): (Duration, i64),
    ) -> Result<()> {
        const SQL: &str = "
            INSERT INTO drain_aside (tenant, server, why, remedy, may_pass)
            SELECT id, $2, $3, $4, $5 FROM tenant WHERE id = $1 AND EXISTS (SELECT FROM lease WHERE term = $6)
                AND EXISTS (SELECT FROM server WHERE name = $2 AND state = 'draining')
                AND NOT EXISTS (SELECT FROM drain WHERE server = $2 AND asked_at > now() - $7 * interval '1 second')
            ON CONFLICT (tenant) DO UPDATE SET server = excluded.server, why = excluded.why, remedy = excluded.remedy,
                may_pass = excluded.may_pass, at = now(), tries = CASE
                    WHEN drain_aside.server = excluded.server AND drain_aside.may_pass AND excluded.may_pass
                    THEN least(drain_aside.tries, 1000) + 1 ELSE 1 END";
        let params: Params<'_> =
            &[&tenant.as_str(), &server.as_str(), &why, &remedy, &may_pass, &term, &tried.as_secs_f64()];
        self.execute("drain_aside", SQL, params).await.map(drop)
    }

    /// All tenants of a server, the smallest first.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn leaving(&self, server: &ServerName, grace: Duration) -> Result<Vec<Leaving>> {
        const SQL: &str = "
            SELECT jsonb_build_object('tenant', to_jsonb(t), 'bytes', u.bytes, 'drop_at',
                CASE WHEN t.state = 'deleted' THEN t.deleted_at + $2 * interval '1 second' END, 'operation',
                CASE WHEN o.id IS NOT NULL THEN jsonb_build_object('id', o.id, 'kind', o.kind, 'step', o.step,
                    'to', CASE WHEN o.kind = 'move' THEN o.input->>'to' END, 'bytes_copied', o.data->'bytes_copied') END,
                'failed', CASE WHEN m.state IN ('failed', 'aborted') AND m.input->>'from' = t.server
                    AND (d.asked_at IS NULL OR m.updated_at > d.asked_at) THEN
                    jsonb_build_object('id', m.id, 'state', m.state, 'error', coalesce(m.data->>'failure', m.error),
                        'age_s', extract(epoch FROM now() - m.updated_at)) END,
                'aside', CASE WHEN a.tenant IS NOT NULL THEN jsonb_build_object('why', a.why, 'remedy', a.remedy,
                    'may_pass', a.may_pass, 'tries', a.tries, 'age_s', extract(epoch FROM now() - a.at)) END)
            FROM tenant t
            LEFT JOIN drain d ON d.server = t.server
            LEFT JOIN drain_aside a ON a.tenant = t.id AND a.server = t.server
            LEFT JOIN tenant_use u ON u.tenant = t.id
            LEFT JOIN operation o ON o.tenant = t.id AND o.state = 'running'
            LEFT JOIN LATERAL (
                SELECT * FROM operation m WHERE m.tenant = t.id AND m.kind = 'move' ORDER BY m.id DESC LIMIT 1) m ON true
            WHERE t.server = $1 ORDER BY coalesce(u.bytes, 0), t.id";
        self.json("drain_leaving", SQL, &[&server.as_str(), &grace.as_secs_f64()]).await
    }

    /// Moves under way whose tenants are served by another server already: what is left is to compare both sides.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn left_just_now(&self, server: &ServerName) -> Result<Vec<(TenantId, UnderWay)>> {
        const SQL: &str = "
            SELECT jsonb_build_array(t.id, jsonb_build_object('id', o.id, 'kind', o.kind, 'step', o.step,
                'to', o.input->>'to', 'bytes_copied', o.data->'bytes_copied'))
            FROM operation o JOIN tenant t ON t.id = o.tenant
            WHERE o.kind = 'move' AND o.state = 'running' AND o.input->>'from' = $1 AND t.server <> $1 ORDER BY o.id";
        self.json("drain_left", SQL, &[&server.as_str()]).await
    }

    /// Moves and clones that are under way from or to a server.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn copies_at(&self, server: &ServerName) -> Result<usize> {
        const SQL: &str = "
            SELECT count(*) FROM operation
            WHERE state = 'running' AND kind IN ('move', 'clone') AND $1 IN (input->>'from', input->>'to')";
        let row = self.row("drain_copies", SQL, &[&server.as_str()]).await?;
        Ok(row.map_or(0, |row| usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX)))
    }

    /// Copies that a server keeps of tenants that have left it, those first that are kept for the shortest; and how many
    /// there are in all.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn sealed_copies(&self, server: &ServerName, count_max: i64) -> Result<(Vec<SealedCopy>, i64)> {
        const SQL: &str = "
            SELECT jsonb_build_object('move', id, 'tenant', tenant, 'verified', data->'verified', 'kept_until',
                to_timestamp((data->>'keep_until')::float8)), count(*) OVER ()
            FROM operation WHERE kind = 'move' AND state = 'switched' AND input->>'from' = $1
            ORDER BY (data->>'keep_until')::float8, id LIMIT $2";
        let rows = self.rows("drain_sealed", SQL, &[&server.as_str(), &count_max]).await?;
        let count = rows.first().map_or(0, |row| row.get(1));
        let copies = rows.iter().map(|row| from_json("drain_sealed", row)).collect::<Result<_>>()?;
        Ok((copies, count))
    }

    /// What the newest moves away from a server took.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn made_moves(&self, server: &ServerName) -> Result<Vec<MadeMove>> {
        const SQL: &str = "
            SELECT jsonb_build_object('bytes', coalesce(u.bytes, 0), 'sized_s', coalesce(s.sized_s, 0),
                'whole_s', extract(epoch FROM s.switched - s.begun), 'begun_s', extract(epoch FROM now() - s.begun),
                'switched_s', extract(epoch FROM now() - s.switched))
            FROM (
                SELECT id, tenant FROM operation
                WHERE id > (SELECT max(id) FROM operation) - $3 AND kind = 'move'
                    AND state IN ('switched', 'completed') AND input->>'from' = $1
                    AND input->>'reverse_of' IS NULL ORDER BY id DESC LIMIT $2) o
            CROSS JOIN LATERAL (
                SELECT min(started_at) AS begun, min(started_at) FILTER (WHERE step = 'switched') AS switched,
                    extract(epoch FROM sum(ended_at - started_at) FILTER (WHERE step IN ('copy', 'build'))) AS sized_s
                FROM operation_step WHERE operation = o.id) s
            LEFT JOIN tenant_use u ON u.tenant = o.tenant
            WHERE s.switched IS NOT NULL";
        let params: Params<'_> = &[&server.as_str(), &MOVES_GUESSED_BY, &OPERATIONS_SEARCHED_MAX];
        self.json("drain_made", SQL, params).await
    }

    /// Starts a move of an open tenant off a server that still drains, to one that does not. `None`, and nothing is done, when
    /// that is no longer so: who took the drain back can rely on it.
    ///
    /// # Errors
    /// As [`Catalog::start_move`]; [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn start_drain_move(
        &self,
        tenant: &TenantId,
        (from, to): (&ServerName, &ServerName),
        input: &Value,
        term: i64,
    ) -> Result<Option<i64>> {
        const QUERY: &str = "drain_start";
        let mut client = self.client().await?;
        let transaction = limited(QUERY, client.transaction()).await?;
        const LEADS: &str = "SELECT FROM lease WHERE term = $1";
        if limited(QUERY, transaction.query_opt(LEADS, &[&term])).await?.is_none() {
            return Err(Error::LeaseLost);
        }
        const DRAINS: &str = "
            SELECT FROM server f, server t
            WHERE f.name = $1 AND f.state = 'draining' AND t.name = $2 AND t.state <> 'draining' FOR SHARE";
        let servers: Params<'_> = &[&from.as_str(), &to.as_str()];
        if limited(QUERY, transaction.query_opt(DRAINS, servers)).await?.is_none() {
            return Ok(None);
        }
        let found = lock_tenant(&transaction, tenant).await?;
        if found.state != TenantState::Open || found.server != *from {
            return Err(Error::Conflict(format!(
                "tenant {tenant} is {} on {} now",
                found.state.as_str(),
                found.server
            )));
        }
        let id = insert_operation(&transaction, Kind::Move, Some(tenant), input).await?;
        let forget = "DELETE FROM drain_aside WHERE tenant = $1";
        limited(QUERY, transaction.execute(forget, &[&tenant.as_str()])).await?;
        limited(QUERY, transaction.commit()).await?;
        client.keep();
        Ok(Some(id))
    }
}
