//! What routers report of themselves. A router is a process: while one takes over from another, both have one name.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shard_map::TenantId;

use crate::error::Result;
use crate::latency::Latency;
use crate::load::RouterLoad;
use crate::query::{Catalog, Params};

/// What a router measures and can't say by its map version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Clients connected.
    pub clients: u32,
    /// By tenant: sessions that a hold can't move, by the reason they are pinned. Only tenants that have some.
    #[serde(default)]
    pub pinned: BTreeMap<String, BTreeMap<String, u32>>,
    /// By server: times of the transactions there since the router started, but for those of tenants that were being copied.
    /// Only servers at which something is copied.
    #[serde(default)]
    pub latency: BTreeMap<String, Latency>,
    /// Tenants whose server has refused the router's password lately.
    #[serde(default)]
    pub locked_out: Vec<TenantId>,
    /// Servers that take no logins from it just now.
    #[serde(default)]
    pub servers_down: Vec<String>,
    /// Its clock when it reported: milliseconds since 1970.
    #[serde(default)]
    pub unix_ms: Option<i64>,
}

/// A router, as it says who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reporter {
    /// What no other process has.
    pub process: String,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// The host at which other routers reach it; by default the one that the catalog sees it at.
    pub cancel_host: Option<String>,
    /// The port for cancel requests from other routers.
    pub cancel_port: u16,
}

/// A tenant that is copied at present, or dumped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
pub struct Copying {
    /// The tenant.
    pub tenant: TenantId,
    /// Where from and where to.
    pub servers: Vec<String>,
}

/// A router that reported lately.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouterRow {
    /// What no other process has.
    pub process: String,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// Which router a process id names; none while all numbers are taken.
    pub number: Option<u16>,
    /// Where it takes cancel requests from other routers.
    pub cancel_address: String,
    /// The map version that it serves by.
    pub map_version: i64,
    /// Its last report.
    pub report: Report,
}

/// A router that has clients, or may have.
#[derive(Debug, Clone, Deserialize)]
pub struct InService {
    /// What no other process has.
    pub process: String,
    /// Its name.
    pub name: String,
    /// It does not report just now.
    pub is_silent: bool,
}

/// How long a look at a tenant counts: longer than pages rest between two.
const WATCHED_FOR: Duration = Duration::from_secs(10);
/// Tenants that routers tell of for who looks at them.
const WATCHED_MAX: i64 = 50;

impl Catalog {
    /// Writes a router's report; doing so regularly is what makes it count as live. Returns what is copied at present: on
    /// those servers, the other tenants' transactions are of interest.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn report_router(
        &self,
        me: &Reporter,
        map_version: i64,
        (report, load): (&Report, &RouterLoad),
    ) -> Result<Vec<Copying>> {
        const AGAIN: &str = "
            UPDATE router SET address = $2, map_version = $3, report = $4, load = $5, seen_at = now() WHERE process = $1
            RETURNING (
                SELECT coalesce(jsonb_agg(jsonb_build_object('tenant', o.tenant, 'servers',
                    to_jsonb(array_remove(ARRAY[coalesce(o.input->>'from', t.server), o.input->>'to'], NULL)))), '[]')
                FROM operation o LEFT JOIN tenant t ON t.id = o.tenant
                WHERE o.state = 'running' AND o.kind IN ('move', 'clone', 'delete') AND o.step <> 'begin')";
        // An address is told as `host:port`, IPv6 in brackets; a socket on the catalog's own host has none.
        const FIRST: &str = "
            INSERT INTO router (process, name, address, map_version, report, load, cancel_address, number, started_at)
            SELECT $1, $6, $2, $3, $4, $5, regexp_replace(host, '^(.*:.*)$', '[\\1]') || ':' || $8::text,
                free_router_number(), now()
            FROM coalesce($7, host(inet_client_addr()), '127.0.0.1') host";
        let (report, load) = (serde_json::json!(report), serde_json::json!(load));
        let (process, address) = (&me.process, &me.address);
        let again: Vec<Vec<Copying>> =
            self.json("router_report", AGAIN, &[process, address, &map_version, &report, &load]).await?;
        if again.is_empty() {
            let port = me.cancel_port.to_string();
            let first: Params<'_> =
                &[process, address, &map_version, &report, &load, &me.name, &me.cancel_host, &port];
            self.execute("router_first_report", FIRST, first).await?;
        }
        Ok(again.into_iter().flatten().collect())
    }

    /// Tenants that somebody looks at.
    ///
    /// # Errors
    /// When the catalog can't be reached, or is not yet of this version: routers are upgraded before it.
    pub async fn watched_tenants(&self) -> Result<Vec<TenantId>> {
        const SQL: &str = "
            SELECT to_jsonb(tenant) FROM watched_tenant WHERE looked_at > now() - $1 * interval '1 second'
            ORDER BY looked_at DESC LIMIT $2";
        self.json("router_watched", SQL, &[&WATCHED_FOR.as_secs_f64(), &WATCHED_MAX]).await
    }

    /// Notes that somebody looks at a tenant: routers tell for some seconds what it has to do.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn watch_tenant(&self, id: &TenantId) -> Result<()> {
        // Whoever goes on looking is noted once in a while, and what nobody looks at goes.
        const SQL: &str = "
            WITH old AS (SELECT tenant FROM watched_tenant
                WHERE tenant <> $1 AND looked_at < now() - $2 * interval '1 second' FOR UPDATE SKIP LOCKED),
            gone AS (DELETE FROM watched_tenant USING old WHERE watched_tenant.tenant = old.tenant)
            INSERT INTO watched_tenant (tenant) SELECT $1::text
            WHERE NOT EXISTS (SELECT FROM watched_tenant WHERE tenant = $1 AND looked_at > now() - $2 * interval '0.5 second')
            ON CONFLICT (tenant) DO UPDATE SET looked_at = excluded.looked_at";
        self.execute("tenant_watch", SQL, &[&id.as_str(), &WATCHED_FOR.as_secs_f64()]).await.map(drop)
    }

    /// Takes a router off the list when it shuts down, so that no hold waits for it.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn remove_router(&self, process: &str) -> Result<()> {
        self.execute("router_remove", "DELETE FROM router WHERE process = $1", &[&process]).await.map(drop)
    }

    /// Tenants whose server refuses the password of a router that reported within this time.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn locked_out_tenants(&self, within: Duration) -> Result<Vec<TenantId>> {
        const SQL: &str = "
            SELECT DISTINCT t FROM router, jsonb_array_elements(coalesce(report->'locked_out', '[]')) t
            WHERE seen_at > now() - $1 * interval '1 second'";
        self.json("router_locked_out", SQL, &[&within.as_secs_f64()]).await
    }

    /// Routers that have clients, for all that is known: those that reported within `timeout`, and those silent ones that
    /// did within `memory`, were not shut down, and have no successor that reports under their name.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn routers_in_service(&self, timeout: Duration, memory: Duration) -> Result<Vec<InService>> {
        const SQL: &str = "
            WITH known AS (
                SELECT process, name, seen_at <= now() - $1 * interval '1 second' AS is_silent FROM router
                WHERE seen_at > now() - greatest($1, $2) * interval '1 second'
            )
            SELECT to_jsonb(k) FROM known k
            WHERE NOT is_silent OR NOT EXISTS (SELECT FROM known n WHERE n.name = k.name AND NOT n.is_silent)
            ORDER BY name";
        self.json("router_in_service", SQL, &[&timeout.as_secs_f64(), &memory.as_secs_f64()]).await
    }

    /// Routers that reported within this time.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn live_routers(&self, within: Duration) -> Result<Vec<RouterRow>> {
        const SQL: &str = "
            SELECT to_jsonb(r) - 'load' FROM router r WHERE seen_at > now() - $1 * interval '1 second'
            ORDER BY name, started_at";
        self.json("router_live", SQL, &[&within.as_secs_f64()]).await
    }
}
