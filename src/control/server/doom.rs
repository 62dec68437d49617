//! Drops databases under names that are used again: a tenant's, wherever it is in its life.
//!
//! `DROP DATABASE` runs in no transaction, so no registry can refuse it to a controller that leads no more: one that hung
//! right before it would drop what its successor opened under the name. So a database first gets a name with its object id in
//! it, which no other has before the server has given out 2³² more (and leftovers are long gone then), in one transaction with the term and a look at the record; what is dropped then is that one and no other. Whoever
//! drops databases of the tenant next drops what was left in between.

use std::time::Instant;

use shard_map::{DOOMED_SUFFIX, TenantId};

use super::database::{self, TERMINATE_TIMEOUT};
use super::{Connection, ident};
use crate::error::{Error, Result};
use crate::failpoint;

/// A database that is to be dropped.
#[derive(Clone, Copy)]
pub(crate) struct Doomed<'a> {
    pub(crate) tenant: &'a TenantId,
    pub(crate) database: &'a str,
    /// The state in which a record may still name it; in any other, it is somebody's.
    pub(crate) state: Option<&'a str>,
}

/// Drops it with whoever is in it, if it exists, and what earlier tries left. A replication slot of it must be dropped
/// before. Refused by the registry if a newer controller was here.
///
/// # Errors
/// [`Error::Failed`] when a record names it in another state.
pub(crate) async fn remove(registry: &Connection, term: i64, doomed: Doomed<'_>) -> Result<()> {
    failpoint::reach(&format!("doom_{}", doomed.state.unwrap_or("unrecorded"))).await;
    let deadline = Instant::now() + TERMINATE_TIMEOUT;
    while let Err(error) = doom(registry, term, doomed).await {
        // Where it failed already, there is nothing to roll back.
        drop(registry.run("ROLLBACK").await);
        if error.sqlstate() != Some("55006") {
            return Err(error);
        }
        if Instant::now() >= deadline {
            let message = format!(
                "somebody stays in database {}: end a prepared transaction there (pg_prepared_xacts, ROLLBACK PREPARED)",
                doomed.database
            );
            return Err(Error::Timeout(message));
        }
        // Nobody comes in again meanwhile.
        database::set_limit(registry, term, doomed.database, 0).await?;
        database::terminate(registry, doomed.database, None, deadline).await?;
    }
    failpoint::reach("doomed").await;
    drop_left(registry, doomed.tenant).await
}

/// Makes an empty database with a connection limit, if it is not there. One whose drop was interrupted goes first.
pub(crate) async fn make(registry: &Connection, term: i64, of: Doomed<'_>, limit: i32) -> Result<()> {
    if !database::is_valid(registry, of.database).await? {
        remove(registry, term, of).await?;
    }
    database::create(registry, of.database, limit).await
}

/// Gives it the name under which it is dropped.
async fn doom(registry: &Connection, term: i64, doomed: Doomed<'_>) -> Result<()> {
    let Doomed { tenant, database, state } = doomed;
    const LOOK: &str = "
        SELECT (SELECT state FROM public.tenant WHERE database = $1 LIMIT 1),
            (SELECT oid FROM pg_catalog.pg_database WHERE datname = $1)";
    // In a statement of its own: what a newer controller committed while this waited for it is seen by the next one.
    registry.run(&format!("BEGIN; SELECT public.check_term({term})")).await?;
    if let Some(row) = registry.row(LOOK, &[&database]).await? {
        let found: Option<&str> = row.get(0);
        if found.is_some() && found != state {
            let found = found.unwrap_or_default();
            return Err(Error::Failed(format!(
                "database {database} is {found} on record, so it is not dropped: tenantry map verify says what differs"
            )));
        }
        if let Some(oid) = row.get(1) {
            let name = tenant.doomed_database(oid);
            registry.run(&format!("ALTER DATABASE {} RENAME TO {}", ident(database), ident(&name))).await?;
        }
    }
    registry.run("COMMIT").await
}

/// Drops what is under such a name.
async fn drop_left(registry: &Connection, tenant: &TenantId) -> Result<()> {
    const DOOMED: &str = "SELECT datname::text FROM pg_catalog.pg_database WHERE datname LIKE '%' || $1";
    for row in registry.rows(DOOMED, &[&DOOMED_SUFFIX.replace('_', r"\_")]).await? {
        let name: &str = row.get(0);
        if TenantId::of_doomed(name).as_ref() == Some(tenant) {
            database::drop(registry, name).await?;
        }
    }
    Ok(())
}
