//! The connection pool, and the one way in which queries are run: named, timed, and with a limit on every wait.

use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use deadpool_postgres::{
    Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, TimeoutType,
};
use prometheus::{HistogramVec, Registry};
use serde::de::DeserializeOwned;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use crate::connect::{CONNECT_TIMEOUT, STATEMENT_TIMEOUT, ToAnyHost, describe, target};
use crate::error::{Error, Result};
use crate::metrics::Maker;

/// How long a call waits for a free connection of the pool.
const POOL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the migrations of the catalog's schema may take together.
const MIGRATION_TIMEOUT: Duration = Duration::from_mins(10);
const CONNECTIONS_MAX: usize = 8;

mod embedded {
    refinery::embed_migrations!("../../migrations/catalog");
}

/// The last migration of the catalog's schema.
pub(crate) fn schema_newest() -> i64 {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0)
}

pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The catalog. Cheap to clone.
#[derive(Clone)]
pub struct Catalog {
    pool: Pool,
    timings: HistogramVec,
}

/// Makes the metric of queries, which each part that uses the catalog has.
///
/// # Errors
/// When there is one already.
pub fn timings(make: &Maker<'_>) -> prometheus::Result<HistogramVec> {
    let help = "Time of queries to the catalog, by name.";
    let buckets = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];
    make.histograms(("tenantry_catalog_query_duration_seconds", help), &["query"], &buckets)
}

impl Catalog {
    /// Prepares to use the catalog at this URL; connects when first used.
    ///
    /// # Errors
    /// [`Error::Url`] when the URL can't be read.
    pub fn new(url: &str, metrics: &Registry) -> Result<Self> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let target = target(url)?;
        let manager = Manager::from_connect(target.config, ToAnyHost(target.tls), recycling);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS_MAX)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(POOL_TIMEOUT))
            .create_timeout(Some(CONNECT_TIMEOUT))
            .recycle_timeout(Some(CONNECT_TIMEOUT))
            .build()
            .map_err(|e| Error::Unreachable(e.to_string()))?;
        let timings = timings(&Maker::new(metrics)).map_err(|e| Error::Conflict(e.to_string()))?;
        Ok(Self { pool, timings })
    }

    /// Brings the catalog's schema up to date.
    ///
    /// # Errors
    /// [`Error::Unreachable`], or [`Error::Migration`] when a migration fails.
    pub async fn migrate(&self) -> Result<()> {
        let mut client = self.client().await?;
        // Instances that start together take turns. The lock ends with the unlock below, or with the session, which is
        // closed if anything fails before that.
        const LOCK: i64 = 0x7465_6e61_6e74_7279;
        limited("migration_lock", client.execute("SELECT pg_advisory_lock($1)", &[&LOCK])).await?;
        let mut runner = embedded::migrations::runner();
        if limited("migration_lock", is_made(&client)).await? {
            // Its tables are there and up to date, and only the record of that is lost: nothing is to be run.
            runner = runner.set_target(refinery::Target::Fake);
        }
        let Ok(outcome) = tokio::time::timeout(MIGRATION_TIMEOUT, runner.run_async(&mut ***client)).await
        else {
            return Err(Error::Unreachable(format!(
                "no answer within migration_timeout ({MIGRATION_TIMEOUT:?})"
            )));
        };
        outcome.map_err(|e| Error::Migration(e.to_string()))?;
        limited("migration_lock", client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK])).await?;
        client.keep();
        Ok(())
    }

    /// A connection of the pool. It is closed unless whoever has it says at the end that it is to be kept.
    pub(crate) async fn client(&self) -> Result<Lent> {
        let client = self.pool.get().await.map_err(|e| {
            Error::Unreachable(match e {
                PoolError::Timeout(TimeoutType::Wait) => "all its connections are busy".to_owned(),
                PoolError::Timeout(_) => format!("no answer within {CONNECT_TIMEOUT:?}"),
                PoolError::Backend(e) => describe(&e),
                other => other.to_string(),
            })
        })?;
        Ok(Lent { client: Some(client), is_kept: false })
    }

    pub(crate) async fn rows(&self, name: &'static str, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
        let mut client = self.client().await?;
        let begun = Instant::now();
        let outcome = limited(name, async {
            let statement = client.prepare_cached(sql).await?;
            client.query(&statement, params).await
        });
        let outcome = outcome.await;
        client.keep_if_answered(&outcome);
        drop(client);
        self.timings.with_label_values(&[name]).observe(begun.elapsed().as_secs_f64());
        outcome
    }

    pub(crate) async fn row(&self, name: &'static str, sql: &str, params: Params<'_>) -> Result<Option<Row>> {
        Ok(self.rows(name, sql, params).await?.into_iter().next())
    }

    /// Rows whose one column is JSON, as `T`.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        name: &'static str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<T>> {
        self.rows(name, sql, params).await?.iter().map(|row| from_json(name, row)).collect()
    }

    pub(crate) async fn execute(&self, name: &'static str, sql: &str, params: Params<'_>) -> Result<u64> {
        let mut client = self.client().await?;
        let begun = Instant::now();
        let outcome = limited(name, async {
            let statement = client.prepare_cached(sql).await?;
            client.execute(&statement, params).await
        });
        let outcome = outcome.await;
        client.keep_if_answered(&outcome);
        drop(client);
        self.timings.with_label_values(&[name]).observe(begun.elapsed().as_secs_f64());
        outcome
    }
}

/// Whether all tables are there, with what the newest migration added, although none is on record: somebody emptied that
/// record, too.
async fn is_made(client: &Object) -> std::result::Result<bool, tokio_postgres::Error> {
    const RECORD: &str = "
        SELECT to_regclass('refinery_schema_history') IS NOT NULL AND EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = to_regclass('hold') AND attname = 'begins_at_ms')";
    if !client.query_one(RECORD, &[]).await?.get::<_, bool>(0) {
        return Ok(false);
    }
    let none = "SELECT NOT EXISTS (SELECT FROM refinery_schema_history)";
    Ok(client.query_one(none, &[]).await?.get(0))
}

/// A connection out of the pool, for one use.
///
/// Back in the pool it would keep the next one waiting if its host hangs, or is a standby by now, and might be in the middle
/// of a transaction, or still have a lock. So whatever does not come to its end closes it: an error, a time limit, a caller
/// that is dropped. A refusal in a transaction does, too, and costs the next one a login.
pub(crate) struct Lent {
    /// Some until it is dropped.
    client: Option<Object>,
    is_kept: bool,
}

impl Lent {
    /// What it was used for has come to its end, and the next one may have it.
    pub(crate) fn keep(&mut self) {
        self.is_kept = true;
    }

    fn keep_if_answered<T>(&mut self, outcome: &Result<T>) {
        self.is_kept = !matches!(outcome, Err(Error::Unreachable(_)));
    }
}

impl Deref for Lent {
    type Target = Object;

    fn deref(&self) -> &Object {
        let Some(client) = &self.client else { unreachable!("only its drop takes it") };
        client
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Object {
        let Some(client) = &mut self.client else { unreachable!("only its drop takes it") };
        client
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_kept {
            drop(self.client.take().map(Object::take));
        }
    }
}

/// Waits for a query a little longer than the server lets it run.
pub(crate) async fn limited<T>(
    name: &'static str,
    query: impl Future<Output = std::result::Result<T, tokio_postgres::Error>>,
) -> Result<T> {
    match tokio::time::timeout(STATEMENT_TIMEOUT + Duration::from_secs(2), query).await {
        Ok(outcome) => outcome.map_err(|e| Error::from_query(name, &e)),
        Err(_) => Err(Error::Unreachable(format!("no answer to {name} within {STATEMENT_TIMEOUT:?}"))),
    }
}

pub(crate) fn from_json<T: DeserializeOwned>(name: &'static str, row: &Row) -> Result<T> {
    let unreadable = |message: String| Error::Query { name, message, sqlstate: None };
    let value = row.try_get(0).map_err(|e| unreadable(e.to_string()))?;
    serde_json::from_value(value).map_err(|e| unreadable(e.to_string()))
}
