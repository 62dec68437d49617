//! Forgets what nobody needs any more. A router that is further behind than the change log loads the map in full.

use std::time::Duration;

use crate::error::Result;
use crate::query::Catalog;

/// Changes that are kept: far more than a router misses while it is cut off for a while.
const CHANGES_KEPT: i64 = 100_000;

impl Catalog {
    /// Removes old changes, acknowledgements of holds that are long over, routers that are long gone, and records of
    /// requests and answers that are older than they are kept.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn forget_old(&self, audit_kept: Duration) -> Result<()> {
        const CHANGES: &str = "
            DELETE FROM change_log WHERE version <= (SELECT version FROM map_version) - $1";
        self.execute("forget_changes", CHANGES, &[&CHANGES_KEPT]).await?;
        self.execute("forget_acks", "DELETE FROM hold_ack WHERE at < now() - interval '1 hour'", &[]).await?;
        self.execute("forget_routers", "DELETE FROM router WHERE seen_at < now() - interval '1 day'", &[])
            .await?;
        self.forget_keys().await?;
        self.forget_audit(audit_kept).await
    }
}
