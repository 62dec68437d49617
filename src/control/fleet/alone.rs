//! Statements that Postgres refuses in a transaction, one by one. What they leave behind when they are cut short is found
//! and removed before they run again.

use super::files::{Limits, Step};
use super::script::{Alone, Deed, line_of_character};
use super::tenant::in_file;
use crate::error::{Error, Result};
use crate::server::{Connection, ident};

/// Indexes that a concurrent build left, of this name on this table.
const INVALID: &str = "
    SELECT n.nspname, c.relname FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT i.indisvalid AND c.relkind = 'i' AND ";

/// Runs them all. The caller records the file afterwards: until then they may run again.
pub(super) async fn run(
    connection: &Connection,
    step: &Step,
    statements: &[Alone],
    limits: Limits,
) -> Result<()> {
    for statement in statements {
        run_one(connection, step, statement, limits).await?;
    }
    Ok(())
}

async fn run_one(connection: &Connection, step: &Step, statement: &Alone, limits: Limits) -> Result<()> {
    clear(connection, &statement.deed).await?;
    // These wait for transactions under a lock that no query of the application waits for: only their time is limited.
    let waits_freely = matches!(statement.deed, Deed::BuildIndex { .. } | Deed::Reindex | Deed::DropIndex);
    let lock_timeout_ms =
        if waits_freely && step.script.lock_timeout_ms.is_none() { 0 } else { limits.lock_timeout_ms };
    connection.run(&format!("SET lock_timeout = {lock_timeout_ms}")).await?;
    let outcome = connection.client().batch_execute(&statement.sql).await;
    outcome.map_err(|e| {
        use tokio_postgres::error::{DbError, ErrorPosition};
        let below = match e.as_db_error().and_then(DbError::position) {
            Some(ErrorPosition::Original(at)) => line_of_character(&statement.sql, *at) - 1,
            _ => 0,
        };
        in_file(step, statement.line + below, connection.error(&e))
    })?;
    if let Deed::BuildIndex { name, table } = &statement.deed
        && !invalid(connection, name, table).await?.is_empty()
    {
        let what = format!("index {name} is still invalid");
        return Err(Error::Failed(step.at(statement.line, &what)));
    }
    Ok(())
}

/// Removes what an earlier try left.
async fn clear(connection: &Connection, deed: &Deed) -> Result<()> {
    let left = match deed {
        Deed::BuildIndex { name, table } => invalid(connection, name, table).await?,
        Deed::Reindex => {
            const LEFT: &str = "
                c.relname ~ '_cc(new|old)[0-9]*$' AND pg_catalog.pg_has_role(c.relowner, 'usage')";
            names(&connection.rows(&format!("{INVALID}{LEFT}"), &[]).await?)
        }
        Deed::DropIndex | Deed::Other => return Ok(()),
    };
    for index in left {
        tracing::info!(index, "an invalid index of an earlier try is removed");
        connection.run(&format!("DROP INDEX CONCURRENTLY IF EXISTS {index}")).await?;
    }
    Ok(())
}

async fn invalid(connection: &Connection, name: &str, table: &str) -> Result<Vec<String>> {
    const THIS: &str = "c.relname = $1 AND i.indrelid = pg_catalog.to_regclass($2)";
    Ok(names(&connection.rows(&format!("{INVALID}{THIS}"), &[&name, &table]).await?))
}

fn names(rows: &[tokio_postgres::Row]) -> Vec<String> {
    rows.iter().map(|row| format!("{}.{}", ident(row.get(0)), ident(row.get(1)))).collect()
}
