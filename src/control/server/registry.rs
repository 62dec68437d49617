//! A server's registry: what is open there. Writes carry the controller's term; SQL refuses a lower one.

use std::time::Duration;

use serde_json::{Value, json};
use shard_map::{Epoch, ServerName, TenantId};

use super::{Connection, MIGRATION_LOCK};
use crate::error::{Error, Result};

/// How long a transaction in a registry may stand still: its controller is dead or cut off then.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

mod embedded {
    refinery::embed_migrations!("../../migrations/server");
}

/// What a registry says about a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) state: String,
    pub(crate) epoch: Epoch,
}

/// A change of a tenant's record.
pub(crate) struct Change<'a> {
    pub(crate) tenant: &'a TenantId,
    /// States it may be in before; `None` stands for "not on record".
    pub(crate) from: &'a [Option<&'a str>],
    pub(crate) to: &'a str,
    pub(crate) database: &'a str,
    pub(crate) epoch: Epoch,
    /// Name and address of the server it moved to, for `sealed`.
    pub(crate) moved_to: Option<(&'a str, &'a str)>,
}

/// Brings a registry's schema up to date. Who comes while another does waits for it: the stock is filled while a server
/// is armed or its registry is made anew.
pub(crate) async fn migrate(connection: &mut Connection) -> Result<()> {
    connection.run("SET search_path = public").await?;
    lock(connection).await?;
    let outcome = embedded::migrations::runner().run_async(connection.client_mut()).await;
    unlock(connection).await?;
    outcome.map(drop).map_err(|e| Error::Failed(format!("registry migration: {e}")))
}

/// Does what alters roles or databases that others may be altering: Postgres fails the second with XX000.
pub(crate) async fn in_turn(connection: &Connection, work: impl Future<Output = Result<()>>) -> Result<()> {
    lock(connection).await?;
    let outcome = work.await;
    unlock(connection).await?;
    outcome
}

async fn lock(connection: &Connection) -> Result<()> {
    connection.run(&format!("SELECT pg_catalog.pg_advisory_lock({MIGRATION_LOCK})")).await
}

async fn unlock(connection: &Connection) -> Result<()> {
    connection.run(&format!("SELECT pg_catalog.pg_advisory_unlock({MIGRATION_LOCK})")).await
}

/// Whether it can have prepared databases on record: one that was armed by an older program can't.
pub(crate) async fn has_stock(registry: &Connection) -> Result<bool> {
    registry.value("SELECT pg_catalog.to_regclass('public.stock') IS NOT NULL", &[]).await
}

/// The last migration of a registry's schema.
pub(crate) fn schema_newest() -> i64 {
    let runner = embedded::migrations::runner();
    runner.get_migrations().iter().map(|migration| i64::from(migration.version())).max().unwrap_or(0)
}

/// Reads a tenant's record.
pub(crate) async fn read(registry: &Connection, tenant: &TenantId) -> Result<Option<Record>> {
    const SQL: &str = "SELECT state, epoch FROM public.tenant WHERE id = $1";
    let row = registry.row(SQL, &[&tenant.as_str()]).await?;
    Ok(row.map(|row| Record { state: row.get(0), epoch: Epoch(row.get(1)) }))
}

/// Makes sure that no controller with a lower term can change anything on this server any more, and that what one
/// had begun to commit has ended.
pub(crate) async fn raise_term(registry: &Connection, term: i64) -> Result<()> {
    registry.rows("SELECT public.check_term($1)", &[&term]).await.map(drop)
}

/// Writes a change. `false`: the record was in another state, or at a higher epoch; nothing changed.
pub(crate) async fn write(registry: &Connection, term: i64, change: &Change<'_>) -> Result<bool> {
    const SQL: &str = "SELECT FROM public.write_tenant($1, $2, $3, $4, $5, $6, $7, $8)";
    let tenant = change.tenant.as_str();
    let (to_name, to_address) = change.moved_to.unzip();
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 8] =
        [&term, &tenant, &change.from, &change.to, &change.database, &change.epoch.0, &to_name, &to_address];
    Ok(!registry.rows(SQL, &params).await?.is_empty())
}

/// Writes records that a registry lost. One that is there by now stays, and is an error.
pub(crate) async fn put_lost(
    registry: &Connection,
    term: i64,
    records: &[shard_map::recovery::Record],
    address: impl Fn(&ServerName) -> Option<String>,
) -> Result<()> {
    let rows = records.iter().map(|record| {
        json!({
            "id": record.id, "state": record.state, "database": record.database, "epoch": record.epoch,
            "moved_to": record.moved_to, "address": record.moved_to.as_ref().and_then(&address),
        })
    });
    const SQL: &str = "
        SELECT count(*) FROM jsonb_to_recordset($2) AS r (id text, state text, database text, epoch bigint,
            moved_to text, address text)
        CROSS JOIN LATERAL public.write_tenant($1, r.id, '{NULL}', r.state, r.database, r.epoch, r.moved_to, r.address)";
    let written: i64 = registry.value(SQL, &[&term, &Value::Array(rows.collect())]).await?;
    if usize::try_from(written).ok() == Some(records.len()) {
        return Ok(());
    }
    Err(Error::Failed("a registry has records that it did not have a moment ago: try again".into()))
}

/// Raises epochs that are behind those given here.
pub(crate) async fn raise_epochs(
    registry: &Connection,
    term: i64,
    epochs: &[(TenantId, Epoch)],
) -> Result<()> {
    let (ids, epochs): (Vec<&str>, Vec<i64>) =
        epochs.iter().map(|(id, epoch)| (id.as_str(), epoch.0)).unzip();
    const RAISE: &str = "
        WITH fenced AS MATERIALIZED (SELECT public.check_term($1))
        UPDATE public.tenant t SET epoch = u.epoch, term = $1, updated_at = now()
        FROM fenced, unnest($2::text[], $3::bigint[]) AS u (id, epoch)
        WHERE t.id = u.id AND t.epoch < u.epoch";
    registry.rows(RAISE, &[&term, &ids, &epochs]).await.map(drop)
}

/// Takes a tenant off the record if it is in one of these states.
pub(crate) async fn remove(
    registry: &Connection,
    term: i64,
    tenant: &TenantId,
    from: &[&str],
) -> Result<bool> {
    registry.value("SELECT public.remove_tenant($1, $2, $3)", &[&term, &tenant.as_str(), &from]).await
}
