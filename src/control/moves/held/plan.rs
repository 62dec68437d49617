//! What there is to copy, and whether it is few enough.

use std::collections::HashMap;

use shard_map::{Access, TenantId};

use crate::error::Result;
use crate::server::tables::{self, IS_TENANTS, Table};
use crate::server::{Connection, ident};

/// The finding by which an operator takes it upon himself that unlogged tables which are too large arrive empty.
pub(in crate::moves) const UNLOGGED_ROWS: &str = "unlogged_rows";
/// Bytes of each kind that are copied in a hold: a fraction of its budget.
const BYTES_MAX: i64 = 16 << 20;
/// Large objects: each takes statements of its own, for its owner and rights.
const OBJECTS_MAX: i64 = 1_000;

/// Queries that give a line for what is more than can be copied. They count no further than they must.
const LARGE_OBJECTS: &str = "
    SELECT 'more than {OBJECTS_MAX}, or than 16 MB of them' WHERE
        (SELECT count(*) FROM (SELECT FROM pg_catalog.pg_largeobject_metadata LIMIT {OBJECTS_MAX} + 1) o) > {OBJECTS_MAX}
        OR (SELECT count(*) FROM (SELECT FROM pg_catalog.pg_largeobject LIMIT {BYTES_MAX} / 2048 + 1) p)
            > {BYTES_MAX} / 2048";
const UNLOGGED: &str = "
    SELECT format('%s bytes, the largest is %s', sum(size), (array_agg(name ORDER BY size DESC))[1]) FROM (
        SELECT pg_table_size(c.oid) AS size, c.oid::regclass::text AS name FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND {IS_TENANTS}) t
    HAVING sum(size) > {BYTES_MAX}";
const EXTENSIONS: &str = "
    SELECT format('%s bytes, of extension %s and others', sum(size), (array_agg(name ORDER BY size DESC))[1]) FROM (
        SELECT pg_table_size(c.oid) AS size, e.extname AS name
        FROM pg_catalog.pg_extension e, unnest(e.extconfig) x JOIN pg_catalog.pg_class c ON c.oid = x
        WHERE c.relkind = 'r') t
    HAVING sum(size) > {BYTES_MAX}";

/// A kind of things that are copied in the hold.
pub(in crate::moves) struct Kind {
    pub(in crate::moves) code: &'static str,
    pub(in crate::moves) what: &'static str,
    pub(in crate::moves) remedy: &'static str,
    sql: &'static str,
}

pub(in crate::moves) const KINDS: [Kind; 3] = [
    Kind {
        code: "large_objects",
        what: "large objects are copied in the hold, and there are too many",
        remedy: "move them into bytea columns, or lo_unlink those that nobody needs",
        sql: LARGE_OBJECTS,
    },
    Kind {
        code: UNLOGGED_ROWS,
        what: "unlogged tables are copied in the hold, and are too large",
        remedy: "TRUNCATE what nobody needs, or ALTER TABLE … SET LOGGED",
        sql: UNLOGGED,
    },
    Kind {
        code: "extension_rows",
        what: "what extensions keep in tables of their own is copied in the hold, and is too much",
        remedy: "empty these tables, or drop the extension and make it again after the move",
        sql: EXTENSIONS,
    },
];

impl Kind {
    /// How much there is, in words, if it is too much.
    pub(in crate::moves) async fn over(&self, source: &Connection) -> Result<Option<String>> {
        let sql = self.sql.replace("{IS_TENANTS}", IS_TENANTS);
        let sql = sql.replace("{OBJECTS_MAX}", &OBJECTS_MAX.to_string());
        let sql = sql.replace("{BYTES_MAX}", &BYTES_MAX.to_string());
        Ok(source.row(&sql, &[]).await?.map(|row| row.get(0)))
    }
}

/// The triggers of tables: each table's name, and those of its triggers that are disabled, quoted.
pub(super) const TRIGGERS_OF: &str = "
    SELECT name, coalesce(array_agg(pg_catalog.quote_ident(t.tgname))
        FILTER (WHERE t.tgenabled = 'D' AND NOT t.tgisinternal), '{}')
    FROM unnest($1::text[]) name JOIN pg_catalog.pg_trigger t ON t.tgrelid = name::regclass
    GROUP BY name ORDER BY name";

/// A table whose rows are copied in the hold.
pub(super) struct Carried {
    pub(super) table: Table,
    /// Who writes it on the target, if that is one of the tenant's roles.
    pub(super) writer: Option<Access>,
    /// Of an extension's table: which rows are its user's. A WHERE clause or nothing.
    condition: Option<String>,
    /// Whether it arrives empty.
    left_empty: bool,
}

impl Carried {
    /// The COPY that reads its rows; none if it arrives empty. It is planned only for tables of extensions: the others are the
    /// tenant's, whose code must not run as who reads them.
    pub(super) fn copy_out(&self) -> Option<String> {
        let (columns, name) = (self.table.columns.join(", "), &self.table.name);
        (!self.left_empty).then(|| match self.condition.as_deref() {
            None | Some("") => self.table.copy_out("text"),
            Some(condition) => format!("COPY (SELECT {columns} FROM ONLY {name} {condition}) TO STDOUT"),
        })
    }

    pub(super) fn copy_in(&self) -> String {
        format!("COPY {}{} FROM STDIN", self.table.name, self.table.column_list())
    }
}

/// The statements that empty them: of an extension's, only what is copied anew.
pub(super) fn emptied(tables: &[Carried]) -> String {
    let unlogged = tables.iter().filter(|carried| carried.condition.is_none());
    // All at once: they may refer to each other.
    let unlogged: Vec<String> = unlogged.map(|carried| format!("ONLY {}", carried.table.name)).collect();
    let mut sql = String::new();
    if !unlogged.is_empty() {
        sql += &format!("TRUNCATE {}; ", unlogged.join(", "));
    }
    for carried in tables {
        if let Some(condition) = &carried.condition {
            sql += &format!("DELETE FROM ONLY {} {condition}; ", carried.table.name);
        }
    }
    sql
}

/// All tables whose rows are to be copied. `may_leave`: unlogged ones that don't fit any more arrive empty.
pub(super) async fn tables(source: &Connection, id: &TenantId, may_leave: bool) -> Result<Vec<Carried>> {
    let writer = |table: &Table| table.owner_of(id);
    let mut bytes = 0;
    let mut carried = Vec::new();
    let unlogged = tables::list_of(source, &format!("c.relpersistence = 'u' AND {IS_TENANTS}")).await?;
    // The smallest first, so that most of them fit.
    for table in unlogged.into_iter().rev() {
        bytes += table.bytes;
        let left_empty = may_leave && bytes > BYTES_MAX;
        carried.push(Carried { writer: writer(&table), table, condition: None, left_empty });
    }
    let conditions = conditions(source).await?;
    if conditions.is_empty() {
        return Ok(carried);
    }
    const OF_EXTENSIONS: &str = "c.oid IN (SELECT unnest(extconfig) FROM pg_catalog.pg_extension)";
    for table in tables::list_of(source, OF_EXTENSIONS).await? {
        let condition = conditions.get(&table.name).cloned();
        carried.push(Carried { writer: writer(&table), table, condition, left_empty: false });
    }
    Ok(carried)
}

/// Which rows of extensions' tables are their users', by the tables' names: what `pg_dump` takes along.
async fn conditions(source: &Connection) -> Result<HashMap<String, String>> {
    const SQL: &str = "
        SELECT n.nspname, c.relname, x.condition
        FROM pg_catalog.pg_extension e, unnest(e.extconfig, e.extcondition) x (oid, condition)
        JOIN pg_catalog.pg_class c ON c.oid = x.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r'";
    let rows = source.rows(SQL, &[]).await?;
    let named = |row: &tokio_postgres::Row| {
        (
            format!("{}.{}", ident(row.get(0)), ident(row.get(1))),
            row.get::<_, Option<&str>>(2).unwrap_or_default().to_owned(),
        )
    };
    Ok(rows.iter().map(named).collect())
}

/// Sequences that extensions keep for their users.
pub(in crate::moves) async fn sequences(source: &Connection) -> Result<Vec<String>> {
    const SQL: &str = "
        SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'S' AND c.oid IN (SELECT unnest(extconfig) FROM pg_catalog.pg_extension) ORDER BY 1, 2";
    let rows = source.rows(SQL, &[]).await?;
    Ok(rows.iter().map(|row| format!("{}.{}", ident(row.get(0)), ident(row.get(1)))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn carried(name: &str, condition: Option<&str>, left_empty: bool) -> Carried {
        let table = Table {
            name: name.to_owned(),
            owner: "acme__owner".to_owned(),
            columns: vec!["\"n\"".to_owned()],
            blocks: 0,
            bytes: 0,
            rows_estimate: 0,
            file: 0,
            binary: false,
        };
        Carried { table, writer: None, condition: condition.map(str::to_owned), left_empty }
    }

    #[test]
    fn of_an_extensions_table_only_its_users_rows_are_copied_anew() {
        let tables =
            [carried("a", None, false), carried("b", None, true), carried("c", Some("WHERE own"), false)];
        assert_eq!(emptied(&tables), "TRUNCATE ONLY a, ONLY b; DELETE FROM ONLY c WHERE own; ");
        assert_eq!(tables[0].copy_out().unwrap(), "COPY a (\"n\") TO STDOUT (FORMAT text)");
        assert_eq!(tables[1].copy_out(), None);
        assert_eq!(tables[2].copy_out().unwrap(), "COPY (SELECT \"n\" FROM ONLY c WHERE own) TO STDOUT");
    }
}
