//! A tenant's database as a whole: made, granted, fenced, renamed, dropped. Each call can be repeated.

use std::time::{Duration, Instant};

use shard_map::{Access, TenantId};

use super::{Connection, ident};
use crate::error::{Error, Result};

/// How long backends that were told to end may take, outside of a cutover (which has its own budget).
pub(crate) const TERMINATE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may take to drop a database.
const DROP_TIMEOUT: Duration = Duration::from_mins(10);
/// How often the server is asked whether they have ended.
const POLL: Duration = Duration::from_millis(1);
/// The same, beside a rename that waits for them.
const POLL_BESIDE: Duration = Duration::from_millis(10);

pub(crate) async fn exists(registry: &Connection, database: &str) -> Result<bool> {
    registry
        .value("SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)", &[&database])
        .await
}

/// Whether the database is there and can be connected to. Dropping one that is interrupted leaves it invalid: all that is
/// possible then is to drop it again (Postgres 15.4 and later; `datconnlimit` is -2).
pub(crate) async fn is_valid(registry: &Connection, database: &str) -> Result<bool> {
    const SQL: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1 AND datconnlimit <> -2)";
    registry.value(SQL, &[&database]).await
}

/// Makes an empty database with a connection limit, if it is not there. Its owner is the control plane's role. One of this
/// name that can't be connected to is in its way.
pub(crate) async fn create(registry: &Connection, database: &str, limit: i32) -> Result<()> {
    if is_valid(registry, database).await? {
        return Ok(());
    }
    let sql = format!("CREATE DATABASE {} TEMPLATE template0 CONNECTION LIMIT {limit}", ident(database));
    match registry.run(&sql).await {
        // A controller that stopped had begun to make it, and its server has ended that now.
        Err(e) if matches!(e.sqlstate(), Some("42P04" | "23505")) && is_valid(registry, database).await? => {
            Ok(())
        }
        outcome => outcome,
    }
}

/// Lets the tenant's roles in, and nobody else.
pub(crate) async fn grant(registry: &Connection, database: &str, tenant: &TenantId) -> Result<()> {
    let [owner, app, readonly] = Access::ALL.map(|access| ident(&access.role(tenant)));
    let database = ident(database);
    registry
        .run(&format!(
            "REVOKE ALL ON DATABASE {database} FROM PUBLIC;
             GRANT CONNECT, TEMPORARY ON DATABASE {database} TO {owner}, {app}, {readonly};
             GRANT CREATE ON DATABASE {database} TO {owner}"
        ))
        .await
}

/// Gives schema `public` to the owner role, and lets the others use what it makes there.
pub(crate) async fn grant_schema(connection: &Connection, tenant: &TenantId) -> Result<()> {
    let [owner, app, readonly] = Access::ALL.map(|access| ident(&access.role(tenant)));
    let default = format!("ALTER DEFAULT PRIVILEGES FOR ROLE {owner}");
    connection
        .run(&format!(
            "ALTER SCHEMA public OWNER TO {owner};
             GRANT USAGE ON SCHEMA public TO {app}, {readonly};
             {default} GRANT USAGE ON SCHEMAS TO {app}, {readonly};
             {default} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
             {default} GRANT SELECT ON TABLES TO {readonly};
             {default} GRANT USAGE, SELECT, UPDATE ON SEQUENCES TO {app};
             {default} GRANT SELECT ON SEQUENCES TO {readonly}"
        ))
        .await
}

/// How many sessions of plain roles the database takes.
pub(crate) async fn limit(registry: &Connection, database: &str) -> Result<i32> {
    registry.value("SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = $1", &[&database]).await
}

/// Sets how many sessions of plain roles the database takes: -1 any number, 0 none. Superusers always get in. Refused
/// by the registry, in the same transaction, if a newer controller was here.
pub(crate) async fn set_limit(registry: &Connection, term: i64, database: &str, limit: i32) -> Result<()> {
    let database = ident(database);
    let sql = format!("SELECT public.check_term({term}); ALTER DATABASE {database} CONNECTION LIMIT {limit}");
    registry.run(&sql).await
}

/// Ends all sessions of a database but walsenders and the one `spared`, and waits until they are gone.
pub(crate) async fn terminate(
    registry: &Connection,
    database: &str,
    spared: Option<i32>,
    deadline: Instant,
) -> Result<()> {
    terminate_all(registry, (&[database], spared), deadline).await
}

/// The same, of several databases.
///
/// All are signalled first, then all are waited for: `pg_terminate_backend` with a time-out waits for one after the
/// other.
pub(crate) async fn terminate_all(
    registry: &Connection,
    (databases, spared): (&[&str], Option<i32>),
    deadline: Instant,
) -> Result<()> {
    const SQL: &str = "
        SELECT datname::text, pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE datname = ANY ($1) AND backend_type <> 'walsender' AND pid IS DISTINCT FROM $2";
    // New ones may have been on their way in: signalling is repeated with every look.
    loop {
        let inside = registry.rows(SQL, &[&databases, &spared]).await?;
        let Some(first) = inside.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            let database: &str = first.get(0);
            return Err(Error::Timeout(format!("sessions of database {database} did not end in time")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Ends all sessions of a database but walsenders, those that are there and those that come, until it is dropped.
pub(crate) async fn terminate_all_that_come(registry: &Connection, database: &str) -> Result<()> {
    loop {
        match terminate(registry, database, None, Instant::now()).await {
            Ok(()) | Err(Error::Timeout(_)) => tokio::time::sleep(POLL_BESIDE).await,
            outcome => outcome?,
        }
    }
}

/// Renames a database, if it still has the old name.
pub(crate) async fn rename(registry: &Connection, from: &str, to: &str) -> Result<()> {
    if !exists(registry, from).await? && exists(registry, to).await? {
        return Ok(());
    }
    registry.run(&format!("ALTER DATABASE {} RENAME TO {}", ident(from), ident(to))).await
}

/// Drops a database with whoever is in it, if it exists. A replication slot of it must be dropped before.
///
/// Nothing keeps a controller from it that leads no more: only for a name that nobody gives to another database. Others are
/// dropped by [`super::doom::remove`].
pub(crate) async fn drop(registry: &Connection, database: &str) -> Result<()> {
    // It waits for a checkpoint, which takes as long as the server has to write.
    registry.run(&format!("SET statement_timeout = {}", DROP_TIMEOUT.as_millis())).await?;
    let dropped = registry.run(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(database))).await;
    registry.run("RESET statement_timeout").await?;
    dropped
}
