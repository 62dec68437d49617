//! What the last look at the map found, for who asks later; and the placement policies that were declared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shard_map::recovery::{Finding, Kind};

use crate::error::Result;
use crate::query::Catalog;

/// One look at catalog, registries and databases.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MapCheck {
    /// When (RFC 3339); set by the catalog.
    pub checked_at: String,
    /// How long it took, in milliseconds.
    pub duration_ms: i64,
    /// What it found, or the first of it.
    pub findings: Vec<Finding>,
    /// How many of each kind there were.
    pub counts: BTreeMap<Kind, i64>,
}

impl Catalog {
    /// Keeps the last look.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn put_map_check(&self, check: &MapCheck) -> Result<()> {
        const SQL: &str = "
            INSERT INTO map_check (checked_at, duration_ms, findings, counts) VALUES (now(), $1, $2, $3)
            ON CONFLICT (one) DO UPDATE SET checked_at = excluded.checked_at, duration_ms = excluded.duration_ms,
                findings = excluded.findings, counts = excluded.counts";
        let (findings, counts) = (serde_json::json!(check.findings), serde_json::json!(check.counts));
        self.execute("map_check_put", SQL, &[&check.duration_ms, &findings, &counts]).await.map(drop)
    }

    /// The last look, if there was one.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn map_check(&self) -> Result<Option<MapCheck>> {
        let rows = self.json("map_check", "SELECT to_jsonb(c) - 'one' FROM map_check c", &[]).await?;
        Ok(rows.into_iter().next())
    }

    /// Most tenants on one server, if that was declared.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn tenants_per_server_max(&self) -> Result<Option<u32>> {
        const SQL: &str = "SELECT tenants_per_server_max FROM placement_policy";
        let row = self.row("placement_policy", SQL, &[]).await?;
        Ok(row.and_then(|row| u32::try_from(row.get::<_, i32>(0)).ok()))
    }
}
