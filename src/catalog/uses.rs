//! What the leader measured: of servers for placement, of tenants for their quotas. It is no part of the map.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shard_map::{ServerName, TenantId};

use crate::error::Result;
use crate::query::{Catalog, Params};

/// What one server bears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerUse {
    /// Bytes of all its databases together; none until each of them was measured.
    pub bytes: Option<i64>,
    /// Sessions at work at once, on average since it was measured before, in thousandths; none at the first look.
    pub active_sessions_milli: Option<i64>,
}

impl Catalog {
    /// Keeps what was measured at a server, and of its tenants in bytes. Without the leader's term it does nothing.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn put_use(
        &self,
        server: &ServerName,
        of_server: &ServerUse,
        of_tenants: &BTreeMap<TenantId, i64>,
        term: i64,
    ) -> Result<()> {
        const SQL: &str = "
            WITH leader AS (SELECT FROM lease WHERE term = $5),
            tenants AS (
                INSERT INTO tenant_use (tenant, bytes)
                SELECT m.key, m.value::bigint FROM jsonb_each_text($4) m JOIN tenant t ON t.id = m.key, leader
                WHERE t.server = $1
                ON CONFLICT (tenant) DO UPDATE SET bytes = excluded.bytes, measured_at = now())
            INSERT INTO server_use (server, bytes, active_sessions_milli)
            SELECT $1, $2, $3 FROM leader
            ON CONFLICT (server) DO UPDATE SET bytes = coalesce(excluded.bytes, server_use.bytes),
                measured_at = now(), active_sessions_milli = excluded.active_sessions_milli";
        let tenants = serde_json::json!(of_tenants);
        let params: Params<'_> =
            &[&server.as_str(), &of_server.bytes, &of_server.active_sessions_milli, &tenants, &term];
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

    /// Bytes of a tenant's database, if they were measured.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn tenant_bytes(&self, id: &TenantId) -> Result<Option<i64>> {
        const SQL: &str = "SELECT bytes FROM tenant_use WHERE tenant = $1";
        Ok(self.row("use_tenant", SQL, &[&id.as_str()]).await?.map(|row| row.get(0)))
    }
}
