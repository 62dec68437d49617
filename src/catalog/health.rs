//! What the catalog shows of itself, and of the work on record, to whoever looks for trouble. Ages are told by its own
//! clock, in milliseconds: whoever asks may have another one.

use std::time::Duration;

use serde::Deserialize;
use shard_map::{ServerName, TenantId};

use crate::error::Result;
use crate::operations::Kind;
use crate::query::{Catalog, schema_newest};
use crate::routers::Report;

/// The catalog's Postgres, and the map in it.
#[derive(Debug, Clone, Deserialize)]
pub struct Health {
    /// Version of Postgres.
    pub version: String,
    /// Whether it is a standby: it takes no writes.
    pub standby: bool,
    /// The last migration of the catalog's schema that ran.
    pub schema: Option<i64>,
    /// Version of the map.
    pub map_version: Option<i64>,
    /// Its clock: milliseconds since 1970.
    pub unix_ms: i64,
    /// Who leads, or led last.
    pub lease: Option<LeaseHealth>,
    /// Its own standbys, as far as the role may see them.
    pub standbys: Vec<Standby>,
    /// How many tenants there are.
    pub tenants: i64,
}

/// The lease on record.
#[derive(Debug, Clone, Deserialize)]
pub struct LeaseHealth {
    /// The instance's name, and what no other start of it has.
    pub holder: String,
    /// The leader's term.
    pub term: i64,
    /// For how long it still lasts; below 0 it has run out. None: it was given back.
    pub remaining_ms: Option<i64>,
}

/// A standby of the catalog.
#[derive(Debug, Clone, Deserialize)]
pub struct Standby {
    /// Its `application_name`.
    pub name: Option<String>,
    /// Bytes of log that it has not replayed yet.
    pub lag_bytes: Option<i64>,
}

/// A router's process on record, also one that reports no more.
#[derive(Debug, Clone, Deserialize)]
pub struct RouterHealth {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// The map version that it serves by.
    pub map_version: i64,
    /// Its last report.
    pub report: Report,
    /// When it reported last.
    pub seen_unix_ms: i64,
    /// How long ago that was.
    pub silent_ms: i64,
    /// How long ago it reported first.
    pub age_ms: i64,
    /// How long ago the first change was made that it does not have.
    pub behind_ms: Option<i64>,
}

/// A hold that is in force or was left.
#[derive(Debug, Clone, Deserialize)]
pub struct HoldHealth {
    /// Whose new transactions wait.
    pub tenant: TenantId,
    /// How long ago it was placed, if that is on record.
    pub age_ms: Option<i64>,
    /// For how long it has been over without having been released; below 0 while it is in force.
    pub overdue_ms: i64,
    /// Live routers that have not acknowledged it.
    pub missing: Vec<String>,
}

/// An operation that has not ended.
#[derive(Debug, Clone, Deserialize)]
pub struct OperationHealth {
    /// Its number.
    pub id: i64,
    /// What it does.
    pub kind: Kind,
    /// To whom.
    pub tenant: Option<TenantId>,
    /// `running` or `switched`.
    pub state: String,
    /// The step begun last.
    pub step: String,
    /// How long ago its record changed last, those of a run's tenants included.
    pub quiet_ms: i64,
    /// A switched move: how long ago its window ended; below 0 while it is open.
    pub overdue_ms: Option<i64>,
    /// What a move waits for before its cutover.
    pub waiting_for: Option<String>,
    /// Its tries that failed in a row.
    pub trying: Option<Trying>,
}

/// Tries of an operation that failed in a row.
#[derive(Debug, Clone, Deserialize)]
pub struct Trying {
    /// How many.
    pub tries: u32,
    /// Why the last one did.
    pub error: String,
    /// How long ago that was.
    pub ago_ms: i64,
}

/// The newest migration run.
#[derive(Debug, Clone, Deserialize)]
pub struct RunHealth {
    /// Its number.
    pub id: i64,
    /// `running`, `done`, `failed` or `aborted`.
    pub state: String,
    /// Tenants that have its version.
    pub done: i64,
    /// Tenants that failed.
    pub failed: i64,
    /// Tenants whose turn has not come.
    pub pending: i64,
    /// One of those that failed, and why.
    pub first_failure: Option<String>,
}

/// A tenant whose last change did not come to its end.
#[derive(Debug, Clone, Deserialize)]
pub struct UnfinishedTenant {
    /// Which.
    pub id: TenantId,
    /// Where it is placed.
    pub server: ServerName,
    /// For how long it is being made, or ago its change failed.
    pub age_ms: i64,
    /// What failed, and why; none for one that is being made.
    pub failed: Option<(Kind, String)>,
    /// Whether an operation is at work on it.
    pub has_operation: bool,
}

/// A move that is on record.
#[derive(Debug, Clone, Deserialize)]
pub struct MoveState {
    /// Its number.
    pub id: i64,
    /// Whose.
    pub tenant: Option<TenantId>,
    /// How it stands, or ended.
    pub state: String,
}

/// Milliseconds between two timestamps.
macro_rules! ms {
    ($later:literal, $earlier:literal) => {
        concat!("(extract(epoch FROM (", $later, ") - (", $earlier, ")) * 1000)::bigint")
    };
}

impl Health {
    /// The migration of the catalog's schema that this program knows last.
    #[must_use]
    pub fn schema_newest() -> i64 {
        schema_newest()
    }
}

impl Catalog {
    /// The catalog itself.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn health(&self) -> Result<Health> {
        // A lease that was given back ends at -infinity, of which no age can be told.
        const SQL: &str = concat!(
            "SELECT jsonb_build_object('version', current_setting('server_version'), 'standby', pg_is_in_recovery(),
                'schema', (SELECT max(version) FROM refinery_schema_history),
                'map_version', (SELECT version FROM map_version),
                'unix_ms', (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
                'tenants', (SELECT count(*) FROM tenant),
                'lease', (SELECT jsonb_build_object('holder', holder, 'term', term,
                    'remaining_ms', CASE WHEN isfinite(expires_at) THEN ",
            ms!("expires_at", "now()"),
            " END) FROM lease),
                'standbys', CASE WHEN pg_is_in_recovery() THEN '[]' ELSE (SELECT coalesce(jsonb_agg(
                    jsonb_build_object('name', application_name, 'lag_bytes',
                        pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint)), '[]')
                    FROM pg_stat_replication) END)"
        );
        self.one("health", SQL).await
    }

    /// Routers on record, by name and start.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn router_health(&self) -> Result<Vec<RouterHealth>> {
        const SQL: &str = concat!(
            "SELECT jsonb_build_object('name', name, 'address', address, 'map_version', map_version, 'report', report,
                'seen_unix_ms', (extract(epoch FROM seen_at) * 1000)::bigint, 'silent_ms', ",
            ms!("now()", "seen_at"),
            ", 'age_ms', ",
            ms!("now()", "started_at"),
            ", 'behind_ms', (SELECT ",
            ms!("now()", "at"),
            " FROM change_log WHERE version > r.map_version ORDER BY version LIMIT 1))
            FROM router r ORDER BY name, started_at"
        );
        self.json("router_health", SQL, &[]).await
    }

    /// Holds on record. A router is live that reported within this time.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn hold_health(&self, router_timeout: Duration) -> Result<Vec<HoldHealth>> {
        // Among the last changes: an older hold has long run out.
        const SQL: &str = concat!(
            "SELECT jsonb_build_object('tenant', tenant,
                'overdue_ms', (extract(epoch FROM now()) * 1000)::bigint - expires_at_ms,
                'age_ms', (SELECT ",
            ms!("now()", "at"),
            " FROM change_log WHERE version > (SELECT version - 1000 FROM map_version)
                    AND entry #>> '{hold,id}' = h.id::text ORDER BY version LIMIT 1),
                'missing', (SELECT coalesce(jsonb_agg(name ORDER BY name), '[]') FROM router r
                    WHERE seen_at > now() - $1 * interval '1 second'
                    AND NOT EXISTS (SELECT FROM hold_ack a WHERE a.hold = h.id AND a.process = r.process)))
            FROM hold h ORDER BY tenant"
        );
        self.json("hold_health", SQL, &[&router_timeout.as_secs_f64()]).await
    }

    /// Operations that have not ended.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn operation_health(&self) -> Result<Vec<OperationHealth>> {
        const SQL: &str = concat!(
            "SELECT jsonb_build_object('id', id, 'kind', kind, 'tenant', tenant, 'state', state, 'step', step,
                'quiet_ms', ",
            ms!(
                "now()",
                "greatest(updated_at, (SELECT max(ended_at) FROM migration_target WHERE run = id))"
            ),
            ", 'overdue_ms', ((extract(epoch FROM now()) - (data->>'keep_until')::float8) * 1000)::bigint,
                'waiting_for', data->>'waiting_for',
                'trying', CASE WHEN data#>>'{trying,step}' = step THEN (data->'trying') || jsonb_build_object('ago_ms',
                    ((extract(epoch FROM now()) - (data#>>'{trying,at}')::float8) * 1000)::bigint) END)
            FROM operation WHERE state IN ('running', 'switched') ORDER BY id"
        );
        self.json("operation_health", SQL, &[]).await
    }

    /// The newest migration run, without its text.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn run_health(&self) -> Result<Option<RunHealth>> {
        const SQL: &str = "
            SELECT jsonb_build_object('id', o.id, 'state', o.state,
                'done', count(*) FILTER (WHERE t.state = 'done'),
                'failed', count(*) FILTER (WHERE t.state = 'failed'),
                'pending', count(*) FILTER (WHERE t.state = 'pending'),
                'first_failure', min(t.tenant || ': ' || t.error) FILTER (WHERE t.state = 'failed'))
            FROM (SELECT id, state FROM operation WHERE kind = 'migrate' ORDER BY id DESC LIMIT 1) o
            LEFT JOIN migration_target t ON t.run = o.id GROUP BY o.id, o.state";
        Ok(self.json("run_health", SQL, &[]).await?.into_iter().next())
    }

    /// Tenants that are being made, and those whose last change of state failed within this time.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn unfinished_tenants(&self, failed_within: Duration) -> Result<Vec<UnfinishedTenant>> {
        const SQL: &str = concat!(
            "SELECT jsonb_build_object('id', t.id, 'server', t.server, 'age_ms', ",
            ms!("now()", "t.created_at"),
            ", 'has_operation', EXISTS (SELECT FROM operation o WHERE o.tenant = t.id AND o.state = 'running'))
            FROM tenant t WHERE t.state = 'creating'
            UNION ALL
            SELECT jsonb_build_object('id', t.id, 'server', t.server, 'has_operation', false, 'age_ms', ",
            ms!("now()", "o.updated_at"),
            ", 'failed', jsonb_build_array(o.kind, coalesce(o.error, 'no reason on record')))
            FROM (SELECT DISTINCT ON (tenant) tenant, kind, state, error, updated_at FROM operation
                WHERE tenant IS NOT NULL AND updated_at > now() - $1 * interval '1 second'
                ORDER BY tenant, id DESC) o
            JOIN tenant t ON t.id = o.tenant
            WHERE o.state = 'failed' AND o.kind IN ('suspend', 'resume', 'delete', 'undelete')"
        );
        self.json("tenant_unfinished", SQL, &[&failed_within.as_secs_f64()]).await
    }

    /// How these moves stand; those that are not on record are left out.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn move_states(&self, ids: &[i64]) -> Result<Vec<MoveState>> {
        const SQL: &str = "
            SELECT jsonb_build_object('id', id, 'tenant', tenant, 'state', state)
            FROM operation WHERE kind = 'move' AND id = ANY ($1)";
        self.json("move_states", SQL, &[&ids]).await
    }

    /// How long ago the map was looked at last, and for how long the fleet has had a server.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn map_check_age(&self) -> Result<(Option<i64>, Option<i64>)> {
        const SQL: &str = concat!(
            "SELECT jsonb_build_array((SELECT ",
            ms!("now()", "checked_at"),
            " FROM map_check), (SELECT ",
            ms!("now()", "min(created_at)"),
            " FROM server))"
        );
        self.one("map_check_age", SQL).await
    }

    /// The one row of a query that always has one.
    async fn one<T: serde::de::DeserializeOwned>(&self, name: &'static str, sql: &str) -> Result<T> {
        let row = self.json(name, sql, &[]).await?.into_iter().next();
        row.ok_or_else(|| crate::error::Error::Query {
            name,
            message: "no answer to a plain query".to_owned(),
            sqlstate: None,
        })
    }
}
