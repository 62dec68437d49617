//! What a tenant's database is made of, as a move needs to know it.

use std::collections::HashMap;

use shard_map::{Access, TenantId};

use super::{Connection, MOVE_SCHEMA, ident};
use crate::error::Result;

/// A table with rows of its own: plain ones and leaf partitions.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    /// Quoted, with its schema.
    pub(crate) name: String,
    /// The role that owns it.
    pub(crate) owner: String,
    /// Its columns that are stored and written, quoted. Generated ones are computed anew.
    pub(crate) columns: Vec<String>,
    /// Size of its main fork, in blocks.
    pub(crate) blocks: i64,
    /// Bytes in all, with TOAST, without indexes.
    pub(crate) bytes: i64,
    /// Rows, as far as statistics know.
    pub(crate) rows_estimate: i64,
    /// The file of its rows. TRUNCATE and rewrites (VACUUM FULL, CLUSTER) give it another.
    pub(crate) file: u32,
    /// Whether each column's binary form means the same in another database: types that are built in. Arrays and
    /// composites of a tenant's own types carry the types' oids, which differ.
    pub(crate) binary: bool,
}

impl Table {
    /// Its columns in parentheses. Nothing for a table that stores none (it still has rows): an empty list is no SQL,
    /// and means the same.
    pub(crate) fn column_list(&self) -> String {
        if self.columns.is_empty() { String::new() } else { format!(" ({})", self.columns.join(", ")) }
    }

    /// The statement that reads all of it, in a format of COPY. Nothing is planned, so nobody's code runs, and a view that took
    /// its name is refused. The rows of tables that inherit from it are not read.
    pub(crate) fn copy_out(&self, format: &str) -> String {
        format!("COPY {}{} TO STDOUT (FORMAT {format})", self.name, self.column_list())
    }

    /// The role of a tenant's that owns it, if one does.
    pub(crate) fn owner_of(&self, tenant: &TenantId) -> Option<Access> {
        owned_by(&self.owner, tenant)
    }
}

fn owned_by(owner: &str, tenant: &TenantId) -> Option<Access> {
    Access::ALL.into_iter().find(|access| access.role(tenant) == owner)
}

/// The condition for a table that belongs to the tenant: not the system's, a move's, an extension's or temporary.
pub(crate) const IS_TENANTS: &str = "
    n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'tenantry') AND n.nspname NOT LIKE 'pg\\_temp\\_%'
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')";

/// All tables that hold rows, the largest first.
pub(crate) async fn list(connection: &Connection) -> Result<Vec<Table>> {
    debug_assert_eq!(MOVE_SCHEMA, "tenantry");
    list_of(connection, &format!("c.relpersistence = 'p' AND {IS_TENANTS}")).await
}

/// The same, of those that a condition on `pg_class c` and `pg_namespace n` holds for.
pub(crate) async fn list_of(connection: &Connection, condition: &str) -> Result<Vec<Table>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, coalesce(pg_relation_size(c.oid), 0) / current_setting('block_size')::int,
            coalesce(pg_table_size(c.oid), 0), greatest(c.reltuples, 0)::bigint,
            coalesce((SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '{{}}'),
            NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND (a.atttypid >= 16384 OR t.typsend = 0 OR t.typreceive = 0)),
            pg_get_userbyid(c.relowner)::text, coalesce(pg_relation_filenode(c.oid), 0)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND {condition}
        ORDER BY 4 DESC, 1, 2"
    );
    let rows = connection.rows(&sql, &[]).await?;
    let table = |row: &tokio_postgres::Row| Table {
        name: format!("{}.{}", ident(row.get(0)), ident(row.get(1))),
        owner: row.get(7),
        columns: row.get::<_, Vec<&str>>(5).into_iter().map(ident).collect(),
        blocks: row.get(2),
        bytes: row.get(3),
        rows_estimate: row.get(4),
        binary: row.get(6),
        file: row.get(8),
    };
    Ok(rows.iter().map(table).collect())
}

/// The file of each table that [`list`] tells, by its quoted name. TRUNCATE and rewrites give it another.
pub(crate) async fn files(connection: &Connection) -> Result<HashMap<String, u32>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, pg_relation_filenode(c.oid)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {IS_TENANTS}"
    );
    let rows = connection.rows(&sql, &[]).await?;
    Ok(rows.iter().map(|row| (format!("{}.{}", ident(row.get(0)), ident(row.get(1))), row.get(2))).collect())
}

/// The file of one table and its size in blocks, as they are now, whatever snapshot the transaction has. In a transaction
/// that has read the table, it is the file that was read.
pub(crate) async fn file_of(connection: &Connection, table: &Table) -> Result<(u32, i64)> {
    const SQL: &str = "
        SELECT coalesce(pg_relation_filenode(c), 0), pg_relation_size(c) / current_setting('block_size')::int
        FROM CAST($1::text AS regclass) c";
    let row = connection.row(SQL, &[&table.name]).await?;
    Ok(row.map_or((0, 0), |row| (row.get(0), row.get(1))))
}

/// All sequences, quoted, with their schemas; those of identity columns included.
pub(crate) async fn sequences(connection: &Connection) -> Result<Vec<String>> {
    Ok(sequences_and_owners(connection).await?.into_iter().map(|(name, _)| name).collect())
}

/// All sequences: those that a tenant's roles own, and the others.
pub(crate) async fn sequences_by_owner(
    connection: &Connection,
    tenant: &TenantId,
) -> Result<(Vec<String>, Vec<String>)> {
    let all = sequences_and_owners(connection).await?;
    let (own, others): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(_, owner)| owned_by(owner, tenant).is_some());
    let names = |all: Vec<(String, String)>| all.into_iter().map(|(name, _)| name).collect();
    Ok((names(own), names(others)))
}

async fn sequences_and_owners(connection: &Connection) -> Result<Vec<(String, String)>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner)::text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {IS_TENANTS} ORDER BY 1, 2"
    );
    let rows = connection.rows(&sql, &[]).await?;
    let named =
        |row: &tokio_postgres::Row| (format!("{}.{}", ident(row.get(0)), ident(row.get(1))), row.get(2));
    Ok(rows.iter().map(named).collect())
}

/// A fingerprint of the schema: equal when no definition that matters to replication changed.
///
/// Made of the catalogs that DDL writes, in a fixed order. Statistics, sizes and file numbers are left out.
pub(crate) async fn fingerprint(connection: &Connection) -> Result<String> {
    connection
        .value(&definitions("a.attnum, a.attisdropped", "true", "c.relowner::regrole, c.relacl"), &[])
        .await
}

/// The same of what two tenants' schemas have in common when the same migrations made them: without the places of
/// columns, which a move changes, and without roles, which are each tenant's own.
pub(crate) async fn shape(connection: &Connection) -> Result<String> {
    let sql = definitions("a.attcollation", "NOT a.attisdropped", "c.relpersistence")
        .replace(", p.proacl", "")
        .replace(", n.nspowner::regrole, n.nspacl", "");
    connection.value(&sql, &[]).await
}

fn definitions(column: &str, columns: &str, relation: &str) -> String {
    format!(
        "SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
            SELECT concat_ws('|', 'column', c.oid::regclass, c.relkind, {column}, a.attname,
                format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity,
                pg_get_expr(d.adbin, d.adrelid)) AS line
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'c', 'f') AND {columns} AND {IS_TENANTS}
            UNION ALL
            SELECT concat_ws('|', 'relation', c.oid::regclass, c.relkind, {relation},
                c.reloptions, pg_get_partkeydef(c.oid), pg_get_expr(c.relpartbound, c.oid))
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind <> 't' AND c.relpersistence <> 't' AND {IS_TENANTS}
            UNION ALL
            SELECT concat_ws('|', 'constraint', k.conrelid::regclass, k.conname, k.convalidated, pg_get_constraintdef(k.oid))
            FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {IS_TENANTS}
            UNION ALL
            SELECT concat_ws('|', 'index', i.indexrelid::regclass, i.indisvalid, pg_get_indexdef(i.indexrelid))
            FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind <> 't' AND {IS_TENANTS}
            UNION ALL
            SELECT concat_ws('|', 'trigger', t.tgrelid::regclass, t.tgenabled, pg_get_triggerdef(t.oid))
            FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND {IS_TENANTS}
            UNION ALL
            SELECT concat_ws('|', 'function', p.oid::regprocedure, p.prosrc, p.prosqlbody IS NULL, p.proconfig, p.proacl)
            FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'tenantry')
            UNION ALL
            SELECT concat_ws('|', 'enum', e.enumtypid::regtype, e.enumsortorder, e.enumlabel) FROM pg_catalog.pg_enum e
            UNION ALL
            SELECT concat_ws('|', 'schema', n.nspname, n.nspowner::regrole, n.nspacl) FROM pg_catalog.pg_namespace n
            WHERE n.nspname !~ '^pg_' AND n.nspname <> 'tenantry'
        ) AS definitions"
    )
}
