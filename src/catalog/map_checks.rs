//! What the last look at the map found, for who asks later; and the placement policies that were declared.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shard_map::policy::PlacementPolicy;
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

    /// Placement policies, if they were declared.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn placement_policy(&self) -> Result<Option<PlacementPolicy>> {
        let rows = self.json("placement_policy", "SELECT policy FROM placement_policy", &[]).await?;
        Ok(rows.into_iter().next())
    }
}
