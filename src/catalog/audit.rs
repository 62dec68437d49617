//! The audit log: who changed what by the API. A record is written before the change, and gets its outcome after it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::query::{Catalog, Params};

/// Records that are kept at most, however young, but for those of refused requests.
const RECORDS_MAX: i64 = 1_000_000;
/// The same for requests that were refused for lack of rights: whoever sends them pushes out no others.
const REFUSED_MAX: i64 = 100_000;

/// A request, as it is put on record.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// Whose token it came with.
    pub who: &'a str,
    /// The token's role.
    pub role: &'a str,
    /// The client's address.
    pub address: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// The path, with its query.
    pub path: &'a str,
    /// What it is about: kind and name.
    pub about: &'a [String],
}

/// A record of the audit log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Its number; later ones have higher ones.
    pub id: i64,
    /// When it was asked for (RFC 3339).
    pub at: String,
    /// Whose token it came with.
    pub who: String,
    /// The token's role.
    pub role: String,
    /// The client's address.
    pub address: String,
    /// The HTTP method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// What it is about: kind and name.
    pub about: Vec<String>,
    /// What was answered; none while it is under way, or when the instance did not live to say it.
    pub status: Option<i32>,
    /// The operation that came of it.
    pub operation: Option<i64>,
}

/// Which records are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Of this token.
    pub who: Option<String>,
    /// About this: a name, or kind and name.
    pub about: Option<String>,
    /// Not older than that.
    pub within: Option<Duration>,
    /// Older than the record of this number.
    pub before: Option<i64>,
    /// So many.
    pub limit: i64,
}

impl Catalog {
    /// Puts a request on record; with its status if that is known already.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn record_request(&self, asked: &Asked<'_>, status: Option<i32>) -> Result<i64> {
        const SQL: &str = "
            INSERT INTO audit (who, role, address, method, path, about, status)
            VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING to_jsonb(id)";
        let Asked { who, role, address, method, path, about } = asked;
        let params: Params<'_> = &[who, role, address, method, path, about, &status];
        let made: Vec<i64> = self.json("audit_begin", SQL, params).await?;
        Ok(made.into_iter().next().unwrap_or_default())
    }

    /// Adds what came of a request.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn record_outcome(
        &self,
        record: i64,
        status: i32,
        operation: Option<i64>,
        about: &[String],
    ) -> Result<()> {
        const SQL: &str = "UPDATE audit SET status = $2, operation = $3, about = $4 WHERE id = $1";
        self.execute("audit_end", SQL, &[&record, &status, &operation, &about]).await.map(drop)
    }

    /// Records, the newest first.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn audit(&self, filter: &AuditFilter) -> Result<Vec<AuditRecord>> {
        const SQL: &str = "
            SELECT to_jsonb(a) FROM audit a
            WHERE ($1::text IS NULL OR who = $1)
                AND ($2::text IS NULL OR EXISTS (
                    SELECT FROM unnest(about) one WHERE $2 IN (one, substr(one, strpos(one, ' ') + 1))))
                AND ($3::float8 IS NULL OR at >= now() - $3 * interval '1 second')
                AND ($4::bigint IS NULL OR id < $4)
            ORDER BY id DESC LIMIT $5";
        let AuditFilter { who, about, within, before, limit } = filter;
        let within = within.map(|within| within.as_secs_f64());
        self.json("audit_list", SQL, &[who, about, &within, before, limit]).await
    }

    /// Removes records that are older, and those that are too many.
    pub(crate) async fn forget_audit(&self, kept: Duration) -> Result<()> {
        const OLD: &str = "DELETE FROM audit WHERE at < now() - $1 * interval '1 second'";
        const REFUSED: &str = "
            DELETE FROM audit WHERE status = 403
                AND id <= (SELECT id FROM audit WHERE status = 403 ORDER BY id DESC OFFSET $1 LIMIT 1)";
        // They are counted only where their numbers say that they may be too many.
        const OTHERS: &str = "
            DELETE FROM audit WHERE status IS DISTINCT FROM 403 AND id <= (
                SELECT id FROM audit
                WHERE status IS DISTINCT FROM 403 AND (SELECT max(id) - min(id) >= $1 FROM audit)
                ORDER BY id DESC OFFSET $1 LIMIT 1)";
        self.execute("forget_audit", OLD, &[&kept.as_secs_f64()]).await?;
        self.execute("forget_audit_refused", REFUSED, &[&REFUSED_MAX]).await?;
        self.execute("forget_audit_others", OTHERS, &[&RECORDS_MAX]).await.map(drop)
    }
}
