//! What the leader measured: of servers for placement, of tenants for their quotas. It is no part of the map.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shard_map::bytes::Bytes;
use shard_map::policy::Quota;
use shard_map::{ServerName, TenantId};

use crate::error::{Error, Result};
use crate::query::{Catalog, Params, limited};
use crate::tenants::lock_tenant;

/// What one server bears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerUse {
    /// Bytes of all its databases together; none until each of them was measured.
    pub bytes: Option<i64>,
    /// Sessions at work at once, on average since it was measured before, in thousandths; none at the first look.
    pub active_sessions_milli: Option<i64>,
}

/// What was measured of a server's tenants.
#[derive(Debug, Default)]
pub struct TenantUses {
    /// Bytes of those whose size was asked for.
    pub bytes: BTreeMap<TenantId, i64>,
    /// Sessions at work at once, on average since the look before, in thousandths: of those that had any.
    pub active_sessions_milli: BTreeMap<TenantId, i64>,
}

/// What one tenant uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantUse {
    /// Of its database.
    pub bytes: u64,
    /// When that was measured (RFC 3339).
    pub measured_at: String,
    /// Until when an operator lets it write although it is over its size, if one does.
    pub writable_until: Option<String>,
}

/// A tenant's size beside its quota.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SizeRow {
    /// The tenant.
    pub tenant: TenantId,
    /// Where it lives.
    pub server: ServerName,
    /// What was measured.
    pub bytes: Option<u64>,
    /// Its quota; none if it has none any more.
    pub size: Option<Bytes>,
    /// What the map says.
    pub read_only: bool,
    /// An operator lets it write.
    pub is_let: bool,
}

impl Catalog {
    /// Keeps what was measured at a server, and of its tenants. Without the leader's term it does nothing.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn put_use(
        &self,
        server: &ServerName,
        of_server: &ServerUse,
        of_tenants: &TenantUses,
        term: i64,
    ) -> Result<()> {
        const SQL: &str = "
            WITH leader AS (SELECT FROM lease WHERE term = $5),
            tenants AS (
                INSERT INTO tenant_use (tenant, bytes)
                SELECT m.key, m.value::bigint FROM jsonb_each_text($4) m JOIN tenant t ON t.id = m.key, leader
                WHERE t.server = $1
                ON CONFLICT (tenant) DO UPDATE SET bytes = excluded.bytes, measured_at = now())
            INSERT INTO server_use (server, bytes, active_sessions_milli, tenants_active_milli)
            SELECT $1, $2, $3, $6 FROM leader
            ON CONFLICT (server) DO UPDATE SET bytes = coalesce(excluded.bytes, server_use.bytes), measured_at = now(),
                active_sessions_milli = excluded.active_sessions_milli,
                tenants_active_milli = excluded.tenants_active_milli";
        let [sizes, active] =
            [&of_tenants.bytes, &of_tenants.active_sessions_milli].map(|of| serde_json::json!(of));
        let params: Params<'_> =
            &[&server.as_str(), &of_server.bytes, &of_server.active_sessions_milli, &sizes, &term, &active];
        self.execute("use_put", SQL, params).await.map(drop)
    }

    /// Forgets what was measured of servers and tenants that are no more.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn forget_uses(&self) -> Result<()> {
        const SERVERS: &str =
            "DELETE FROM server_use u WHERE NOT EXISTS (SELECT FROM server s WHERE s.name = u.server)";
        const TENANTS: &str =
            "DELETE FROM tenant_use u WHERE NOT EXISTS (SELECT FROM tenant t WHERE t.id = u.tenant)";
        self.execute("use_forget_servers", SERVERS, &[]).await?;
        self.execute("use_forget_tenants", TENANTS, &[]).await.map(drop)
    }

    /// Bytes of all databases of a server, when they were measured last; `None`: never.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn server_bytes(&self, name: &ServerName) -> Result<Option<u64>> {
        let sql = "SELECT to_jsonb(bytes) FROM server_use WHERE server = $1 AND bytes IS NOT NULL";
        Ok(self.json("use_server", sql, &[&name.as_str()]).await?.into_iter().next())
    }

    /// What was measured of a tenant, if it was.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn tenant_use(&self, id: &TenantId) -> Result<Option<TenantUse>> {
        const SQL: &str = "
            SELECT to_jsonb(u) || jsonb_build_object('writable_until',
                CASE WHEN u.writable_until > now() THEN u.writable_until END)
            FROM tenant_use u WHERE tenant = $1";
        Ok(self.json("use_tenant", SQL, &[&id.as_str()]).await?.into_iter().next())
    }

    /// Open tenants, by id, that have a size in their quota, their own or their server's, or that can only be read. How
    /// what was measured stands to it is for the caller to compare.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn sizes_to_see_to(&self) -> Result<Vec<SizeRow>> {
        const SQL: &str = "
            SELECT jsonb_build_object('tenant', t.id, 'server', t.server, 'bytes', u.bytes, 'size',
                coalesce(t.quota->'size', s.quota->'size'), 'read_only', t.read_only,
                'is_let', coalesce(u.writable_until > now(), false))
            FROM tenant t JOIN server s ON s.name = t.server LEFT JOIN tenant_use u ON u.tenant = t.id
            WHERE t.state = 'open' AND (t.read_only OR coalesce(t.quota->'size', s.quota->'size') IS NOT NULL)
            ORDER BY t.id";
        self.json("use_sizes", SQL, &[]).await
    }

    /// Says in the map whether a tenant may be written to.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn set_read_only(&self, id: &TenantId, read_only: bool, term: i64) -> Result<()> {
        const SQL: &str = "
            UPDATE tenant SET read_only = $2 WHERE id = $1 AND read_only <> $2
                AND EXISTS (SELECT FROM lease WHERE term = $3)";
        self.execute("tenant_read_only", SQL, &[&id.as_str(), &read_only, &term]).await.map(drop)
    }

    /// Lets a tenant write for a while although it is over its size.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn let_write(&self, id: &TenantId, time: std::time::Duration) -> Result<()> {
        const SQL: &str = "
            WITH let AS (
                INSERT INTO tenant_use (tenant, bytes, writable_until)
                SELECT id, 0, now() + $2 * interval '1 second' FROM tenant WHERE id = $1
                ON CONFLICT (tenant) DO UPDATE SET writable_until = excluded.writable_until)
            UPDATE tenant SET read_only = false WHERE id = $1 AND read_only";
        self.execute("use_let_write", SQL, &[&id.as_str(), &time.as_secs_f64()]).await.map(drop)
    }

    /// Gives a tenant the quotas of its own that `change` makes of those that it has. Nobody else changes them meanwhile;
    /// and nothing is changed when `change` fails.
    ///
    /// # Errors
    /// What `change` fails with; [`Error::NotFound`]; when the catalog can't be reached.
    pub async fn set_quota<E: From<Error>>(
        &self,
        id: &TenantId,
        change: impl FnOnce(Quota) -> std::result::Result<Quota, E>,
    ) -> std::result::Result<(), E> {
        let mut client = self.client().await?;
        let transaction = limited("tenant_quota", client.transaction()).await?;
        let before = lock_tenant(&transaction, id).await?.quota.unwrap_or_default();
        let quota = serde_json::json!(change(*before)?);
        const SQL: &str = "UPDATE tenant SET quota = $2 WHERE id = $1";
        limited("tenant_quota", transaction.execute(SQL, &[&id.as_str(), &quota])).await?;
        limited("tenant_quota", transaction.commit()).await?;
        client.keep();
        Ok(())
    }
}
