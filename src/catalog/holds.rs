//! Holds, and their acknowledgement by routers.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shard_map::TenantId;

use crate::error::{Error, Result};
use crate::query::{Catalog, Params};

/// A router says: new transactions of the tenant wait here, and none is running any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldAck {
    /// The process that says it.
    pub process: String,
    /// Sessions there that keep their server connection; the fence will end them.
    pub pinned: i32,
}

impl Catalog {
    /// Announces a hold that begins after `notice` (at once without one), with a lease from then, and returns its id. An older
    /// hold of the tenant is replaced.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn place_hold(
        &self,
        tenant: &TenantId,
        (notice, lease): (Duration, Duration),
        term: i64,
    ) -> Result<i64> {
        const SQL: &str = "
            INSERT INTO hold (tenant, begins_at_ms, expires_at_ms) SELECT $1, $2, $3 FROM lease WHERE term = $4
            ON CONFLICT (tenant) DO UPDATE SET id = excluded.id, begins_at_ms = excluded.begins_at_ms,
                expires_at_ms = excluded.expires_at_ms
            RETURNING id";
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = |at: Duration| i64::try_from(at.as_millis()).unwrap_or(i64::MAX);
        // No time of day, which might be another one at routers.
        let begins_at_ms = if notice.is_zero() { 0 } else { ms(since_1970 + notice) };
        let expires_at_ms = ms(since_1970 + notice + lease);
        let params: Params<'_> = &[&tenant.as_str(), &begins_at_ms, &expires_at_ms, &term];
        let row = self.row("hold_place", SQL, params).await?;
        row.map(|row| row.get(0)).ok_or(Error::LeaseLost)
    }

    /// Releases a hold; none there is fine. Without the leader's term it does nothing: the hold is another controller's.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn release_hold(&self, tenant: &TenantId, term: i64) -> Result<()> {
        const SQL: &str = "DELETE FROM hold WHERE tenant = $1 AND EXISTS (SELECT FROM lease WHERE term = $2)";
        self.execute("hold_release", SQL, &[&tenant.as_str(), &term]).await.map(drop)
    }

    /// Says that a hold is in force at a router and nothing of the tenant is running there.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn ack_hold(&self, process: &str, hold: i64, pinned: i32) -> Result<()> {
        // Not made durable: it is true as soon as it is seen, and nobody looks for it in a later life of the catalog. The
        // tenant's clients wait for it.
        const SQL: &str = "
            WITH quick AS (SELECT set_config('synchronous_commit', 'off', true))
            INSERT INTO hold_ack (process, hold, pinned) SELECT $1::text, $2::bigint, $3::integer FROM quick
            ON CONFLICT (hold, process) DO UPDATE SET pinned = excluded.pinned, at = now()";
        self.execute("hold_ack", SQL, &[&process, &hold, &pinned]).await.map(drop)
    }

    /// Who acknowledged.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn hold_acks(&self, hold: i64) -> Result<Vec<HoldAck>> {
        const SQL: &str = "SELECT process, pinned FROM hold_ack WHERE hold = $1";
        let rows = self.rows("hold_acks", SQL, &[&hold]).await?;
        Ok(rows.iter().map(|row| HoldAck { process: row.get(0), pinned: row.get(1) }).collect())
    }
}
