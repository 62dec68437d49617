//! Answers to requests that came with a key (`Idempotency-Key`): who asks again with the same gets the first answer again.

use std::time::Duration;

use crate::error::Result;
use crate::query::{Catalog, Params};

/// How long an answer is kept.
const KEPT: Duration = Duration::from_hours(24);
/// Keys that are kept at most, by age; each with an answer of at most [`ANSWER_BYTES_MAX`].
const KEYS_MAX: i64 = 50_000;
/// While a request is served, its instance says so often that it still is.
pub const KEY_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// An instance that has not said so for this long is at it no more.
const KEY_ALIVE_FOR: Duration = Duration::from_secs(20);
/// Longest answer that is kept.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is known of a request with a key.
#[derive(Debug)]
pub enum Keyed {
    /// It is the first one.
    New,
    /// The first one has no answer yet.
    UnderWay,
    /// The first one never will have an answer: its instance ended in the middle.
    CutShort,
    /// The first one was about something else.
    Other,
    /// The first one was answered. Without a text: that was long, or had a secret.
    Answered {
        /// The HTTP status.
        status: u16,
        /// The answer, JSON.
        answer: Option<String>,
    },
}

impl Catalog {
    /// Notes a request with a key, unless one with this key is known.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn begin_keyed(&self, (who, key): (&str, &str), request: &[u8]) -> Result<Keyed> {
        const BEGIN: &str = "
            INSERT INTO idempotency_key (who, key, request) VALUES ($1, $2, $3)
            ON CONFLICT (who, key) DO UPDATE SET request = $3, at = now(), alive_at = now(), status = NULL, answer = NULL
                WHERE idempotency_key.at < now() - $4 * interval '1 second'";
        let params: Params<'_> = &[&who, &key, &request, &KEPT.as_secs_f64()];
        if self.execute("key_begin", BEGIN, params).await? > 0 {
            return Ok(Keyed::New);
        }
        const FIRST: &str = "
            SELECT request = $3, status, answer, alive_at > now() - $4 * interval '1 second'
            FROM idempotency_key WHERE who = $1 AND key = $2";
        let params: Params<'_> = &[&who, &key, &request, &KEY_ALIVE_FOR.as_secs_f64()];
        let Some(first) = self.row("key_show", FIRST, params).await? else {
            // It was taken back this moment.
            return Ok(Keyed::UnderWay);
        };
        let status: Option<i32> = first.get(1);
        Ok(match status.and_then(|status| u16::try_from(status).ok()) {
            _ if !first.get::<_, bool>(0) => Keyed::Other,
            None if first.get(3) => Keyed::UnderWay,
            None => Keyed::CutShort,
            Some(status) => Keyed::Answered { status, answer: first.get(2) },
        })
    }

    /// Notes that a request with a key is still being served.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn keep_key_alive(&self, (who, key): (&str, &str)) -> Result<()> {
        const SQL: &str = "UPDATE idempotency_key SET alive_at = now() WHERE who = $1 AND key = $2";
        self.execute("key_alive", SQL, &[&who, &key]).await.map(drop)
    }

    /// Keeps the answer of a request with a key.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn end_keyed(&self, (who, key): (&str, &str), status: u16, answer: Option<&str>) -> Result<()> {
        const SQL: &str = "UPDATE idempotency_key SET status = $3, answer = $4 WHERE who = $1 AND key = $2";
        let status = i32::from(status);
        let answer = answer.filter(|answer| answer.len() <= ANSWER_BYTES_MAX);
        self.execute("key_end", SQL, &[&who, &key, &status, &answer]).await.map(drop)
    }

    /// Forgets a request of which nobody knows whether it changed anything, so that it can be made again.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn drop_key(&self, (who, key): (&str, &str)) -> Result<()> {
        const SQL: &str = "DELETE FROM idempotency_key WHERE who = $1 AND key = $2";
        self.execute("key_drop", SQL, &[&who, &key]).await.map(drop)
    }

    /// Removes answers that are older than they are kept, and those that are too many.
    pub(crate) async fn forget_keys(&self) -> Result<()> {
        const SQL: &str = "
            DELETE FROM idempotency_key WHERE at < greatest(
                now() - $1 * interval '1 second',
                (SELECT at FROM idempotency_key ORDER BY at DESC OFFSET $2 LIMIT 1))";
        self.execute("forget_keys", SQL, &[&KEPT.as_secs_f64(), &KEYS_MAX]).await.map(drop)
    }
}
