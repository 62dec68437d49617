//! What routers report of themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::query::Catalog;

/// What a router measures and can't say by its map version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Clients connected.
    pub clients: u32,
    /// By tenant: sessions that a hold can't move, by the reason they are pinned. Only tenants that have some.
    #[serde(default)]
    pub pinned: BTreeMap<String, BTreeMap<String, u32>>,
    /// By server: mean time of a transaction there since the last report, in microseconds. Only busy servers.
    #[serde(default)]
    pub transaction_us: BTreeMap<String, u64>,
}

/// A router that reported lately.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RouterRow {
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub address: String,
    /// The map version that it serves by.
    pub map_version: i64,
    /// Its last report.
    pub report: Report,
}

impl Catalog {
    /// Writes a router's report; doing so regularly is what makes it count as live.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn report_router(
        &self,
        name: &str,
        address: &str,
        map_version: i64,
        report: &Report,
    ) -> Result<()> {
        const SQL: &str = "
            INSERT INTO router (name, address, map_version, report, started_at) VALUES ($1, $2, $3, $4, now())
            ON CONFLICT (name) DO UPDATE SET address = excluded.address, map_version = excluded.map_version,
                report = excluded.report, seen_at = now()";
        let report = serde_json::json!(report);
        self.execute("router_report", SQL, &[&name, &address, &map_version, &report]).await.map(drop)
    }

    /// Takes a router off the list when it shuts down, so that no hold waits for it.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn remove_router(&self, name: &str) -> Result<()> {
        self.execute("router_remove", "DELETE FROM router WHERE name = $1", &[&name]).await.map(drop)
    }

    /// Routers that reported within this time.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn live_routers(&self, within: Duration) -> Result<Vec<RouterRow>> {
        const SQL: &str = "
            SELECT to_jsonb(r) FROM router r WHERE seen_at > now() - $1 * interval '1 second' ORDER BY name";
        self.json("router_live", SQL, &[&within.as_secs_f64()]).await
    }
}
