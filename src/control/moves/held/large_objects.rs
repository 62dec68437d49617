//! Large objects: their contents, owners, rights and comments.

use futures_util::{TryStreamExt, pin_mut};

use crate::error::Result;
use crate::server::Connection;

/// Pages that are written by one statement.
const PAGES_AT_ONCE: usize = 256;

/// Whether a database has any.
pub(super) async fn are_there(connection: &Connection) -> Result<bool> {
    connection.value("SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)", &[]).await
}

/// Makes the target's what the source's are.
pub(super) async fn carry(source: &Connection, target: &Connection) -> Result<()> {
    target
        .run(
            "BEGIN; SELECT pg_catalog.count(pg_catalog.lo_unlink(oid)) FROM pg_catalog.pg_largeobject_metadata",
        )
        .await?;
    let objects = source.rows("SELECT oid FROM pg_catalog.pg_largeobject_metadata", &[]).await?;
    let objects: Vec<u32> = objects.iter().map(|row| row.get(0)).collect();
    target
        .rows("SELECT pg_catalog.count(pg_catalog.lo_create(o)) FROM unnest($1::oid[]) o", &[&objects])
        .await?;
    pages(source, target).await?;
    let statements: Vec<String> = source.rows(STATEMENTS, &[]).await?.iter().map(|row| row.get(0)).collect();
    target.run(&statements.join("; ")).await?;
    target.run("COMMIT").await
}

/// Their contents; where a page is missing, none is made.
async fn pages(source: &Connection, target: &Connection) -> Result<()> {
    const READ: &str = "
        SELECT loid, pageno::bigint * (current_setting('block_size')::bigint / 4), data
        FROM pg_catalog.pg_largeobject";
    const WRITE: &str = "
        SELECT pg_catalog.count(pg_catalog.lo_put(o, at, data)::text) FROM unnest($1::oid[], $2::bigint[], $3::bytea[]) p (o, at, data)";
    let read = source.client().query_raw(READ, std::iter::empty::<i32>()).await;
    let read = read.map_err(|e| source.error(&e))?.try_chunks(PAGES_AT_ONCE);
    pin_mut!(read);
    while let Some(rows) = read.try_next().await.map_err(|e| source.error(&e.1))? {
        let objects: Vec<u32> = rows.iter().map(|row| row.get(0)).collect();
        let places: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
        let data: Vec<&[u8]> = rows.iter().map(|row| row.get(2)).collect();
        target.rows(WRITE, &[&objects, &places, &data]).await?;
    }
    Ok(())
}

/// The statements that give them their owners, rights and comments.
const STATEMENTS: &str = "
    SELECT format('ALTER LARGE OBJECT %s OWNER TO %I', l.oid, r.rolname), 1 AS turn
    FROM pg_catalog.pg_largeobject_metadata l JOIN pg_catalog.pg_roles r ON r.oid = l.lomowner
    UNION ALL
    SELECT format('REVOKE ALL ON LARGE OBJECT %s FROM %I', l.oid, r.rolname), 2
    FROM pg_catalog.pg_largeobject_metadata l JOIN pg_catalog.pg_roles r ON r.oid = l.lomowner
    WHERE l.lomacl IS NOT NULL
    UNION ALL
    SELECT format('GRANT %s ON LARGE OBJECT %s TO %s%s', a.privilege_type, l.oid,
        CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
        CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END), 3
    FROM pg_catalog.pg_largeobject_metadata l, pg_catalog.aclexplode(l.lomacl) a
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
    UNION ALL
    SELECT format('COMMENT ON LARGE OBJECT %s IS %L', d.objoid, d.description), 4
    FROM pg_catalog.pg_description d WHERE d.classoid = 'pg_catalog.pg_largeobject'::regclass
    ORDER BY turn";
