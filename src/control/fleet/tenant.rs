//! One tenant's database, brought to a version.

use std::time::Duration;

use refinery::Runner;
use shard_map::{Access, TenantId};

use super::files::Migrations;
use crate::context::back_off;
use crate::error::{Error, Result};
use crate::server::{Connection, ident};

/// How long one tenant's migrations may take in all.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(3600);
/// Tries when a lock was not to be had: between them the application has its turn.
const LOCK_TRIES: u32 = 5;

/// Runs what is not yet applied, as the tenant's owner role. Returns the version that is reached.
pub(crate) async fn migrate(
    connection: &mut Connection,
    id: &TenantId,
    migrations: &Migrations,
    lock_timeout_ms: u64,
) -> Result<Option<i32>> {
    let owner = ident(&Access::Owner.role(id));
    let session = format!(
        "SET ROLE {owner}; SET search_path = public; SET lock_timeout = {lock_timeout_ms}; SET statement_timeout = {}",
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
        match outcome.map_err(|e| explain(connection, &e)) {
            Ok(_) => return Ok(Some(migrations.version())),
            Err(e) if e.sqlstate() == Some("55P03") && tries < LOCK_TRIES => tries += 1,
            Err(e) => return Err(e),
        }
        back_off(tries).await;
    }
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
