//! Right before a hold: both slots are brought close to the ends of their logs, so that the hold does not wait while what
//! was written long before it is decoded once more.
//!
//! A decoder begins at the slot's `restart_lsn`, which follows the records of running transactions in the log. The server
//! writes one every 15 s (`LOG_SNAPSHOT_INTERVAL_MS` in its `bgwriter.c`), and that much log of the whole server would be
//! read in the hold. So one is asked for.

use std::time::{Duration, Instant};

use shard_map::Server;

use super::catch_up::advance_reverse_slot;
use super::driver::Move;
use super::stream;
use crate::error::Result;
use crate::server::Connection;

/// How long a cutover waits for it; without it, it only takes longer.
const LIMIT: Duration = Duration::from_millis(500);
/// How long a slot may take to be made: it waits for every transaction that runs on the server.
const SLOT_LIMIT: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(5);

/// Brings both slots close to the ends of their logs, as far as that is possible at once.
pub(super) async fn run(the_move: &Move<'_>, source: &Connection) {
    let brought = tokio::time::timeout(LIMIT, bring(the_move, source)).await;
    if let Ok(Err(error)) = brought {
        tracing::debug!(operation = the_move.work.operation.id, %error, "the slots stay where they were");
    }
}

async fn bring(the_move: &Move<'_>, source: &Connection) -> Result<()> {
    let begun: String = source.value("SELECT pg_current_wal_insert_lsn()::text", &[]).await?;
    tokio::try_join!(log_running(the_move, &the_move.source), log_running(the_move, &the_move.target))?;
    // On a session that nobody waits for if it takes longer.
    let target = the_move.arriving_database().await?;
    advance_reverse_slot(the_move, &target).await?;
    target.close().await;
    const FOLLOWED: &str = "
        SELECT restart_lsn >= $2::text::pg_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let waited = Instant::now();
    while !source.value::<bool>(FOLLOWED, &[&the_move.names.forward, &begun]).await?
        && waited.elapsed() < LIMIT
    {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Has a server log which transactions run.
async fn log_running(the_move: &Move<'_>, server: &Server) -> Result<()> {
    let registry = the_move.work.context.connector.registry(server).await?;
    if stream::version(&registry).await? >= stream::POSTGRES_16 {
        // Twice: while a transaction runs, a slot can only go to the record before it.
        const LOG: &str = "SELECT pg_catalog.pg_log_standby_snapshot()";
        return registry.run(&format!("{LOG}; {LOG}")).await;
    }
    // A slot that is made begins with such a record, and writes another for each wait. It goes with its session.
    let slot = format!("{}_fresh", the_move.names.forward);
    registry.run(&format!("SET statement_timeout = {}", SLOT_LIMIT.as_millis())).await?;
    const SLOT: &str =
        "SELECT pg_catalog.pg_create_logical_replication_slot($1::text::name, 'pgoutput', true)";
    registry.rows(SLOT, &[&slot]).await.map(drop)
}
