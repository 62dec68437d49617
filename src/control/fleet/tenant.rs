//! One tenant's database, brought to a version.

use std::time::Duration;

use refinery::Runner;
use shard_map::{Server, Tenant, TenantState};

use super::files::Migrations;
use crate::context::{Context, back_off};
use crate::error::{Error, Result};
use crate::server::{Connection, database};

/// How long one tenant's migrations may take in all.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Connection limit of a closed database while it is migrated.
const SESSIONS_FOR_MIGRATION: i32 = 5;
/// Of the advisory lock under which a database is migrated: "tenantry" in ASCII.
const MIGRATION_LOCK: i64 = 0x7465_6e61_6e74_7279;
/// Tries when a lock was not to be had: between them the application has its turn.
const LOCK_TRIES: u32 = 5;

/// Runs what is not yet applied. Returns the version that is reached.
///
/// As the tenant's owner role, logged in as such: a superuser that only takes the role on could be made one again by
/// the tenant's own triggers.
pub(crate) async fn migrate(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    migrations: &Migrations,
    lock_timeout_ms: u64,
) -> Result<i32> {
    if tenant.state == TenantState::Open {
        return run(context, (server, tenant), migrations, lock_timeout_ms).await;
    }
    // Nobody gets in while it is being made or suspended, but for this: the limit counts sessions that are just
    // leaving, too. Routers refuse meanwhile, and nobody else knows the roles' passwords.
    let registry = context.connector.registry(server).await?;
    let (term, database) = (context.leading_term()?, tenant.id.live_database());
    database::set_limit(&registry, term, database, SESSIONS_FOR_MIGRATION).await?;
    let outcome = run(context, (server, tenant), migrations, lock_timeout_ms).await;
    database::set_limit(&registry, term, database, 0).await?;
    outcome
}

async fn run(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    migrations: &Migrations,
    lock_timeout_ms: u64,
) -> Result<i32> {
    let id = &tenant.id;
    let mut connection = context.connector.as_owner(server, tenant).await?;
    // The lock: a run of a controller that lost its lead without noticing may still be at it.
    let session = format!(
        "SET search_path = public; SET lock_timeout = {lock_timeout_ms}; SET statement_timeout = {}; \
         SELECT pg_catalog.pg_advisory_lock({MIGRATION_LOCK})",
        MIGRATION_TIMEOUT.as_millis()
    );
    connection.run(&session).await?;
    let mut tries = 0;
    loop {
        let runner = Runner::new(&migrations.list).set_abort_divergent(true).set_abort_missing(true);
        let running =
            tokio::time::timeout(MIGRATION_TIMEOUT, runner.run_async(connection.client_mut())).await;
        let outcome =
            running.map_err(|_| Error::Timeout(format!("tenant {id}: migration_timeout reached")))?;
        match outcome.map_err(|e| explain(&connection, &e)) {
            Ok(_) => break,
            Err(e) if e.sqlstate() == Some("55P03") && tries < LOCK_TRIES => tries += 1,
            Err(e) => return Err(e),
        }
        back_off(tries).await;
    }
    connection.close().await;
    Ok(migrations.version())
}

/// refinery wraps the driver's error; what an operator needs is the migration's name and what Postgres said.
fn explain(connection: &Connection, error: &refinery::Error) -> Error {
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(driver) = inner.downcast_ref::<tokio_postgres::Error>() {
            return match connection.error(driver) {
                Error::Statement { server, message, sqlstate } => {
                    let applying = error.to_string();
                    let migration = applying.split('`').nth(1).unwrap_or(&applying).to_owned();
                    Error::Statement { server, message: format!("{migration}: {message}"), sqlstate }
                }
                other => other,
            };
        }
        source = inner.source();
    }
    Error::Failed(error.to_string().replace('`', ""))
}
