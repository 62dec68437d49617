//! The copy's journal, in the target database: each range is written down in the transaction that loads it. So a range whose
//! COMMIT was not answered can be tried again: of two transactions that load it, the journal's key lets one commit.

use super::ranges::Range;
use crate::error::Result;
use crate::server::Connection;
use crate::server::tables::Table;

/// Makes it.
pub(crate) const JOURNAL: &str = "
    CREATE TABLE tenantry.copied (
        table_name text NOT NULL, first_block bigint NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL,
        PRIMARY KEY (table_name, first_block))";

/// A key is taken.
const UNIQUE_VIOLATION: &str = "23505";

/// Writes a range down, in the transaction that has loaded it. `false`: an earlier try has loaded it, and this one must
/// be rolled back.
pub(super) async fn note(
    target: &Connection,
    table: &Table,
    range: &Range,
    (rows, bytes): (u64, u64),
) -> Result<bool> {
    const SQL: &str =
        "INSERT INTO tenantry.copied (table_name, first_block, rows, bytes) VALUES ($1, $2, $3, $4)";
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    unless_taken(target.rows(SQL, &[&table.name, &range.from, &number(rows), &number(bytes)]).await.map(drop))
}

/// Forgets what was loaded of a table, and removes it, so that it can be copied anew from this file. Returns the rows and bytes
/// that are gone. Once for each file: a try whose outcome was lost, and that comes late, removes nothing of what was
/// copied since.
pub(super) async fn forget(target: &Connection, table: &Table, file: u32) -> Result<(u64, u64)> {
    // No block has a negative number.
    const MARK: &str =
        "INSERT INTO tenantry.copied (table_name, first_block, rows, bytes) VALUES ($1, $2, 0, 0)";
    const FORGET: &str = "
        WITH gone AS (DELETE FROM tenantry.copied WHERE table_name = $1 AND first_block >= 0 RETURNING rows, bytes)
        SELECT coalesce(sum(rows), 0)::bigint, coalesce(sum(bytes), 0)::bigint FROM gone";
    target.run("BEGIN").await?;
    let marked = target.rows(MARK, &[&table.name, &-i64::from(file)]).await.map(drop);
    if !unless_taken(marked)? {
        target.run("ROLLBACK").await?;
        return Ok((0, 0));
    }
    // Waits for whoever still loads rows; the journal is read after that.
    target.run(&format!("TRUNCATE ONLY {}", table.name)).await?;
    let gone = target.row(FORGET, &[&table.name]).await?;
    target.run("COMMIT").await?;
    let number = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(gone.map_or((0, 0), |row| (number(row.get(0)), number(row.get(1)))))
}

fn unless_taken(outcome: Result<()>) -> Result<bool> {
    match outcome {
        Err(error) if error.sqlstate() == Some(UNIQUE_VIOLATION) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}
