//! By which columns rows are told from each other on both sides. Ranges of a key hold the same rows on both only if both put
//! values in the same order, which a collation does not promise between two machines.

use std::collections::HashMap;

use tokio_postgres::Row;

use crate::error::Result;
use crate::server::tables::IS_TENANTS;
use crate::server::{Connection, ident};

/// A unique key without nulls, whose order an index has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) columns: Vec<Column>,
}

/// A column of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Quoted.
    pub(super) name: String,
    /// Its type, as a cast names it.
    pub(super) kind: String,
    /// What its order depends on beside its type: collation, and that one's version on this server.
    order: String,
}

/// The key of each table that has one, by the table's quoted name: the primary key, else the replica identity, else any.
///
/// Only columns of types that are built in: operators of others are found by name, which may be a tenant's own.
async fn on_side(side: &Connection) -> Result<HashMap<String, Key>> {
    let sql = format!(
        "SELECT DISTINCT ON (n.nspname, c.relname) n.nspname, c.relname, k.names, k.kinds, k.orders
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_catalog.pg_index i ON i.indrelid = c.oid
        JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
        JOIN pg_catalog.pg_am m ON m.oid = x.relam AND m.amname = 'btree'
        CROSS JOIN LATERAL (
            SELECT array_agg(a.attname::text ORDER BY at) AS names,
                array_agg(format_type(a.atttypid, -1) ORDER BY at) AS kinds,
                array_agg(CASE
                    WHEN a.attcollation = 0 THEN ''
                    WHEN a.attcollation = 100 THEN (
                        SELECT concat_ws(' ', d.datlocprovider, d.datcollate, coalesce(to_jsonb(d)->>'datlocale',
                            to_jsonb(d)->>'daticulocale'), pg_database_collation_actual_version(d.oid))
                        FROM pg_catalog.pg_database d WHERE d.datname = current_database())
                    ELSE (
                        SELECT concat_ws(' ', l.collname, l.collprovider, l.collcollate, pg_collation_actual_version(l.oid))
                        FROM pg_catalog.pg_collation l WHERE l.oid = a.attcollation)
                    END ORDER BY at) AS orders,
                bool_and(a.attnotnull AND a.atttypid < 16384 AND t.typtype = 'b' AND o.opcdefault AND i.indoption[at - 1] = 0
                    AND i.indcollation[at - 1] = a.attcollation
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_collation l
                        WHERE l.oid = a.attcollation AND NOT l.collisdeterministic)) AS fits
            FROM generate_series(1, i.indnkeyatts) at
            JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[at - 1]
            JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
            JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[at - 1]) k
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {IS_TENANTS}
            AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indisready
            AND i.indpred IS NULL AND i.indexprs IS NULL AND k.fits
        ORDER BY n.nspname, c.relname, i.indisprimary DESC, i.indisreplident DESC, i.indnkeyatts, x.relname"
    );
    let of = |row: &Row| {
        let parts = |at| row.get::<_, Vec<String>>(at);
        let columns = parts(2).into_iter().zip(parts(3)).zip(parts(4));
        let columns = columns.map(|((name, kind), order)| Column { name: ident(&name), kind, order });
        (format!("{}.{}", ident(row.get(0)), ident(row.get(1))), Key { columns: columns.collect() })
    };
    Ok(side.rows(&sql, &[]).await?.iter().map(of).collect())
}

/// The keys whose order is the same on both sides.
pub(super) async fn common(source: &Connection, target: &Connection) -> Result<HashMap<String, Key>> {
    let (mut keys, others) = tokio::try_join!(on_side(source), on_side(target))?;
    keys.retain(|table, key| others.get(table) == Some(key));
    Ok(keys)
}
