//! How a router follows the map: once in full, then change by change, in order and without a gap.
//!
//! A notification is a hint that saves waiting; the caller's poll is the guarantee. One connection, the caller's own:
//! when it breaks, the caller makes a new feed and goes on at the version it has.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use shard_map::{Change, Entry, MARKS_MAX, ShardMap, Trail};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client};

use crate::connect::{STATEMENT_TIMEOUT, connect_in_time, target};
use crate::error::{Error, Result};
use crate::query::from_json;

/// Name of the query for the whole map.
const LOAD: &str = "feed_load";
/// Changes taken at once.
const BATCH_MAX: i64 = 10_000;

/// A connection to the catalog that follows the map.
pub struct Feed {
    client: Client,
    news: Arc<Notify>,
    connection: JoinHandle<()>,
    /// The last changes were as many as are taken at once: there may be more.
    more: bool,
}

impl Feed {
    /// Connects and subscribes to notifications.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Url`].
    pub async fn connect(url: &str) -> Result<Self> {
        let (client, mut connection) = connect_in_time(&target(url)?).await?;
        let news = Arc::new(Notify::new());
        let told = news.clone();
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    told.notify_one();
                }
            }
            // The connection is gone: let the waiter find out at once.
            told.notify_one();
        });
        let feed = Self { client, news, connection, more: false };
        feed.limited(feed.client.batch_execute("LISTEN tenantry_map"), "feed_listen").await?;
        Ok(feed)
    }

    /// The map as it is now, for a router that has it at version `known` and came there by `trail`.
    ///
    /// A lower version is taken only from a catalog on the trail: it lost its last changes when its standby was promoted.
    ///
    /// # Errors
    /// [`Error::Behind`] when the catalog's version is lower and it is not on the trail: it was lost, or restored from a
    /// backup; [`Error::Unreachable`], [`Error::Query`].
    pub async fn load(&mut self, known: i64, trail: &Trail) -> Result<ShardMap> {
        let version = self.version().await?;
        if version < known && !trail.passed(version, self.mark(version).await?) {
            return Err(Error::Behind { version, known });
        }
        // All parts in one statement, so from one snapshot.
        const SQL: &str = "
            SELECT NULL, version, (SELECT count(*) FROM tenant) FROM map_version
            UNION ALL SELECT jsonb_build_object('server', to_jsonb(s))::text, NULL, NULL FROM server s
            UNION ALL SELECT jsonb_build_object('user', to_jsonb(u))::text, NULL, NULL FROM router_user u
            UNION ALL SELECT jsonb_build_object('tenant', to_jsonb(t))::text, NULL, NULL FROM tenant t
            UNION ALL SELECT jsonb_build_object('hold', to_jsonb(h))::text, NULL, NULL FROM hold h";
        const NO_PARAMETERS: [&(dyn ToSql + Sync); 0] = [];
        let unreadable =
            |e: serde_json::Error| Error::Query { name: LOAD, message: e.to_string(), sqlstate: None };
        // Row by row: all of them at once would be several times the map.
        let rows = self.limited(self.client.query_raw(SQL, NO_PARAMETERS), LOAD).await?;
        let mut rows = pin!(rows);
        let mut map = ShardMap::default();
        while let Some(row) = self.limited(rows.try_next(), LOAD).await? {
            match row.get::<_, Option<i64>>(1) {
                Some(version) => {
                    map.version = version;
                    // A table that grows leaves holes in the heap, as large as itself.
                    map.tenants.reserve(usize::try_from(row.get::<_, i64>(2)).unwrap_or(0));
                }
                None => map.insert(serde_json::from_str::<Entry>(row.get(0)).map_err(unreadable)?),
            }
        }
        const MARKS: &str =
            "SELECT version, mark FROM change_log WHERE version <= $1 ORDER BY version DESC LIMIT $2";
        let marks_max = i64::try_from(MARKS_MAX).unwrap_or(i64::MAX);
        let marks: [&(dyn ToSql + Sync); 2] = [&map.version, &marks_max];
        let marks = self.limited(self.client.query(MARKS, &marks), "feed_marks").await?;
        map.trail = Trail::of(marks.iter().rev().map(|row| (row.get(0), row.get(1))));
        Ok(map)
    }

    /// The changes after `version`, to which a router came by the change `mark`, in order; `None` when the log no longer
    /// reaches back that far, or is not the one that the router followed: then the map must be loaded anew.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Query`].
    pub async fn changes_since(&mut self, version: i64, mark: Option<i64>) -> Result<Option<Vec<Change>>> {
        // With the change that the router had last, for its mark.
        const SQL: &str = "
            SELECT entry, version, mark FROM change_log
            WHERE version >= $1 ORDER BY version LIMIT $2";
        let rows = self.limited(self.client.query(SQL, &[&version, &BATCH_MAX]), "feed_changes").await?;
        self.more = rows.len() as i64 == BATCH_MAX;
        let mut rows = rows.as_slice();
        if let [last, later @ ..] = rows
            && last.get::<_, i64>(1) == version
        {
            if mark.is_some_and(|mark| mark != last.get::<_, i64>(2)) {
                return Ok(None);
            }
            rows = later;
        }
        if rows.is_empty() {
            // A change may have come between the two queries: the next call finds it.
            let newest = self.version().await?;
            let log_lost = newest > version + BATCH_MAX || newest < version;
            return Ok((!log_lost).then(Vec::new));
        }
        if rows[0].get::<_, i64>(1) != version + 1 {
            return Ok(None);
        }
        let change = |row| {
            let entry = from_json("feed_changes", row)?;
            Ok(Change { version: row.get(1), mark: row.get(2), entry })
        };
        rows.iter().map(change).collect::<Result<_>>().map(Some)
    }

    async fn mark(&self, version: i64) -> Result<Option<i64>> {
        let version: [&(dyn ToSql + Sync); 1] = [&version];
        let row = self.client.query_opt("SELECT mark FROM change_log WHERE version = $1", &version);
        Ok(self.limited(row, "feed_mark").await?.map(|row| row.get(0)))
    }

    async fn version(&self) -> Result<i64> {
        let version = self.client.query_opt("SELECT version FROM map_version", &[]);
        let version = self.limited(version, "feed_version").await?;
        // Without its version it is damaged; the lowest there is makes it behind of any other.
        Ok(version.map_or(i64::MIN, |row| row.get(0)))
    }

    /// Waits until the catalog tells of a change, the connection breaks, or the time is over; not at all when more changes
    /// may be there than were taken at once.
    pub async fn wait(&mut self, at_most: Duration) {
        if std::mem::take(&mut self.more) {
            return;
        }
        // A time-out is the poll's turn, not an error.
        drop(tokio::time::timeout(at_most, self.news.notified()).await);
    }

    async fn limited<T>(
        &self,
        call: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
        name: &'static str,
    ) -> Result<T> {
        tokio::time::timeout(STATEMENT_TIMEOUT, call)
            .await
            .map_err(|_| Error::Unreachable(format!("no answer within {STATEMENT_TIMEOUT:?}")))?
            .map_err(|e| Error::from_query(name, &e))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.connection.abort();
    }
}
