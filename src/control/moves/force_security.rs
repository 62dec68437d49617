//! Row security that is forced upon a table's owner, too. From PostgreSQL 16 on a subscription works as the owner, and is
//! refused on such a table. Nobody but the move is in the target before it opens, so there it is forced last.

use crate::error::Result;
use crate::server::tables::IS_TENANTS;
use crate::server::{Connection, ident};

/// The statements that force it upon the owners of the same tables elsewhere; empty without any.
pub(super) async fn statements(source: &Connection) -> Result<String> {
    Ok(forced(source).await?.iter().map(|table| format!("{table} FORCE ROW LEVEL SECURITY; ")).collect())
}

/// Forces it upon nobody, while changes are applied.
pub(super) async fn lift(target: &Connection) -> Result<()> {
    for table in forced(target).await? {
        target.run(&format!("{table} NO FORCE ROW LEVEL SECURITY")).await?;
    }
    Ok(())
}

/// The beginning of an ALTER TABLE for each table on which it is forced.
async fn forced(connection: &Connection) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relforcerowsecurity AND c.relkind IN ('r', 'p') AND {IS_TENANTS} ORDER BY 1, 2"
    );
    let rows = connection.rows(&sql, &[]).await?;
    let alter =
        |row: &tokio_postgres::Row| format!("ALTER TABLE ONLY {}.{}", ident(row.get(0)), ident(row.get(1)));
    Ok(rows.iter().map(alter).collect())
}
