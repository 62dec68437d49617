//! Replica identities: without one, publishing a table makes the tenant's own UPDATEs and DELETEs on it fail (55000).

use serde::{Deserialize, Serialize};

use crate::context::back_off;
use crate::error::Result;
use crate::server::{Connection, ident, literal};

/// The condition for a table that a publication of all tables has: also an extension's, which a tenant may write to. The
/// system's own have lower numbers.
const IS_PUBLISHED: &str = "c.oid >= 16384 AND n.nspname <> 'tenantry'";

/// How long setting an identity may wait for a table's lock, in front of the application's queries.
const LOCK_TIMEOUT: &str = "200ms";
const LOCK_TRIES: u32 = 30;
/// The identity of a table that has no index for it.
const FULL: &str = "FULL";

/// A table whose identity a move changed, to be put back as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// Quoted, with its schema.
    pub(crate) table: String,
    /// The identity that the move gives it: the rest of `ALTER TABLE … REPLICA IDENTITY`.
    pub(crate) identity: String,
    /// The index that it uses, quoted, with its schema.
    #[serde(default)]
    pub(crate) index: Option<String>,
    /// The one it had.
    pub(crate) before: String,
}

/// Tables that logical replication can't identify rows of, with the identity that each should get: an index if one is
/// usable (unique, not partial, immediate, on columns that are never null), else the whole row.
pub(crate) async fn missing(source: &Connection) -> Result<Vec<Changed>> {
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relreplident = 'n',
            (SELECT x.relname FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND i.indisvalid AND i.indisready
                AND i.indpred IS NULL AND i.indexprs IS NULL
                AND NOT EXISTS (SELECT FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS k (attnum)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum WHERE NOT a.attnotnull)
             ORDER BY i.indnkeyatts, x.relname LIMIT 1)
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {IS_PUBLISHED}
            AND (c.relreplident = 'n'
                OR c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND i.indimmediate)
                OR c.relreplident = 'i' AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i
                    WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid))
        ORDER BY 1, 2"
    );
    let rows = source.rows(&sql, &[]).await?;
    let changed = |row: &tokio_postgres::Row| {
        let (schema, index) = (ident(row.get(0)), row.get::<_, Option<&str>>(3).map(ident));
        Changed {
            table: format!("{schema}.{}", ident(row.get(1))),
            identity: index.as_ref().map_or_else(|| FULL.to_owned(), |index| format!("USING INDEX {index}")),
            index: index.map(|index| format!("{schema}.{index}")),
            before: if row.get(2) { "NOTHING".to_owned() } else { "DEFAULT".to_owned() },
        }
    };
    Ok(rows.iter().map(changed).collect())
}

/// Gives each table its identity.
pub(crate) async fn set(source: &Connection, tables: &[Changed]) -> Result<()> {
    for changed in tables {
        match &changed.index {
            Some(index) => tried(source, &use_index(&changed.table, index, &changed.identity)).await?,
            None => alter(source, &changed.table, &changed.identity).await?,
        }
    }
    Ok(())
}

/// Gives each table back the identity that it had, where it still exists.
pub(crate) async fn put_back(connection: &Connection, tables: &[Changed]) -> Result<()> {
    for changed in tables {
        let exists: bool = connection.value("SELECT to_regclass($1) IS NOT NULL", &[&changed.table]).await?;
        if exists {
            alter(connection, &changed.table, &changed.before).await?;
        }
    }
    Ok(())
}

/// Gives a table the identity of an index, and none whose predicate or expressions Postgres would work out to refuse it: its owner
/// may have given the names to others meanwhile. So both are locked first, and looked at then; no statement but a comment's
/// locks an index by itself, and it says again what the comment is. A table whose index is another one gets the whole row.
fn use_index(table: &str, index: &str, identity: &str) -> String {
    let (name, index_name) = (literal(table), literal(index));
    let block = format!(
        "DECLARE
             found CONSTANT regclass := to_regclass({index_name});
         BEGIN
             LOCK TABLE ONLY {table} IN ACCESS EXCLUSIVE MODE;
             IF found IS NOT NULL THEN
                 EXECUTE format('COMMENT ON INDEX %s IS %L', {index_name}, obj_description(found, 'pg_class'));
             END IF;
             IF EXISTS (SELECT FROM pg_index i WHERE i.indexrelid = to_regclass({index_name})
                     AND i.indexrelid = found AND i.indrelid = to_regclass({name}) AND i.indpred IS NULL AND i.indexprs IS NULL) THEN
                 ALTER TABLE ONLY {table} REPLICA IDENTITY {identity};
             ELSE
                 ALTER TABLE ONLY {table} REPLICA IDENTITY {FULL};
             END IF;
         END"
    );
    format!("DO {}", literal(&block))
}

async fn alter(connection: &Connection, table: &str, identity: &str) -> Result<()> {
    tried(connection, &format!("ALTER TABLE ONLY {table} REPLICA IDENTITY {identity}")).await
}

/// Tries again while a lock is not to be had.
async fn tried(connection: &Connection, statement: &str) -> Result<()> {
    let sql = format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {statement}");
    let mut tries = 0;
    loop {
        match connection.run(&sql).await {
            Err(e) if e.sqlstate() == Some("55P03") && tries < LOCK_TRIES => tries += 1,
            outcome => return outcome,
        }
        back_off(tries).await;
    }
}
