//! The lease: which control-plane instance leads, and under which term.
//!
//! The lease keeps instances from doing the same work; it is the term, checked in SQL by every registry, that keeps
//! one that lost it without noticing from doing harm.

use std::time::Duration;

use crate::error::Result;
use crate::query::Catalog;

/// The leader's lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Grows with every change of holder.
    pub term: i64,
}

impl Catalog {
    /// Takes the lease if it is free or that of `predecessor`, a holder that is known to lead no more; or renews it if `holder` has
    /// it. `None`: another holds it.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn hold_lease(
        &self,
        holder: &str,
        predecessor: Option<&str>,
        lasts: Duration,
    ) -> Result<Option<Lease>> {
        const SQL: &str = "
            INSERT INTO lease (holder, term, expires_at) VALUES ($1, 1, now() + $2 * interval '1 second')
            ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
                term = lease.term + (CASE WHEN lease.holder = excluded.holder THEN 0 ELSE 1 END)
            WHERE lease.holder = excluded.holder OR lease.holder = $3 OR lease.expires_at < now()
            RETURNING term";
        let row = self.row("lease_hold", SQL, &[&holder, &lasts.as_secs_f64(), &predecessor]).await?;
        Ok(row.map(|row| Lease { term: row.get(0) }))
    }

    /// Who leads now.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn leader(&self) -> Result<Option<String>> {
        let row = self.row("lease_holder", "SELECT holder FROM lease WHERE expires_at > now()", &[]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// Gives the lease back, so that another instance need not wait for its end.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn release_lease(&self, holder: &str) -> Result<()> {
        self.execute(
            "lease_release",
            "UPDATE lease SET expires_at = '-infinity' WHERE holder = $1",
            &[&holder],
        )
        .await
        .map(drop)
    }
}
