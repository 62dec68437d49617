//! Statistics of a database that was just filled, gathered by several sessions.

use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;
use shard_map::Server;

use crate::error::Result;
use crate::server::{Connection, Connector};

/// Where other tenants are at work, by one session, with pauses, at 40 MB a second or less.
const CONSIDERATE: &str = "SET vacuum_cost_delay = '20ms'";
/// Each table is a commit. Whoever commits something at the server after this has all of them on disk.
const NOT_AWAITED: &str = "SET synchronous_commit = off";
/// Sessions where nobody is in the way.
const SESSIONS: usize = 2;

/// Gathers statistics of a database's tables, the largest first.
pub(crate) async fn gather(
    connector: &Connector,
    (server, database): (&Server, &str),
    considerate: bool,
) -> Result<()> {
    let mut sessions = Vec::new();
    for _ in 0..if considerate { 1 } else { SESSIONS } {
        let session = connector.database(server, database).await?.without_statement_limit().await?;
        session.run(NOT_AWAITED).await?;
        if considerate {
            session.run(CONSIDERATE).await?;
        }
        sessions.push(session);
    }
    // Partitions are gone through with the table that they are part of.
    const TABLES: &str = "
        SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'm', 'p') AND NOT c.relispartition AND NOT c.relisshared
        ORDER BY CASE c.relkind WHEN 'p' THEN (SELECT sum(pg_catalog.pg_relation_size(p.relid))
            FROM pg_catalog.pg_partition_tree(c.oid) p) ELSE pg_catalog.pg_relation_size(c.oid) END";
    let tables = sessions[0].rows(TABLES, &[]).await?;
    let left = Mutex::new(tables.iter().map(|row| row.get(0)).collect());
    try_join_all(sessions.iter().map(|session| until_none_is_left(session, &left))).await?;
    for session in sessions {
        session.close().await;
    }
    Ok(())
}

async fn until_none_is_left(session: &Connection, left: &Mutex<Vec<String>>) -> Result<()> {
    loop {
        let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let Some(table) = next else { return Ok(()) };
        session.run(&format!("ANALYZE {table}")).await?;
    }
}
