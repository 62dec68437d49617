//! The first half of a cutover: routers hold, the source refuses, and everything committed there is known to be on
//! the target.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use shard_map::TenantId;

use super::driver::Move;
use super::stragglers;
use crate::context::{Context, Work};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::{Connection, database, literal};

/// How often a condition is looked at inside the hold.
pub(crate) const POLL: Duration = Duration::from_millis(1);
/// How long a hold outlives the cutover's budget, so that a controller that died is noticed by routers, and one that
/// lives never loses the hold in the middle.
pub(crate) const LEASE_MARGIN: Duration = Duration::from_secs(3);

/// Announces the hold: it begins after `notice`, and counts without being released for `lease`.
pub(crate) async fn announce(
    work: &Work,
    tenant: &TenantId,
    (notice, lease): (Duration, Duration),
) -> Result<i64> {
    let hold = work.context.catalog.place_hold(tenant, (notice, lease), work.term).await?;
    failpoint::reach("announced").await;
    Ok(hold)
}

/// Waits until every router in service says that the hold is in force and nothing of the tenant is running any more. Returns
/// how many sessions keep their server connections: the fence will end them.
pub(crate) async fn drained(context: &Context, hold: i64, deadline: Instant) -> Result<i32> {
    loop {
        // Looked up each time: a router may come up, or die, meanwhile.
        let (timeout, lost_after) = (context.config.router_timeout, context.config.router_lost_after);
        let routers = context.catalog.routers_in_service(timeout, lost_after).await?;
        let acks = context.catalog.hold_acks(hold).await?;
        let acked: HashSet<&str> = acks.iter().map(|ack| ack.process.as_str()).collect();
        let missing = routers.iter().filter(|router| !acked.contains(router.process.as_str()));
        let missing: Vec<&str> = missing.map(|router| router.name.as_str()).collect();
        if missing.is_empty() {
            return Ok(acks.iter().map(|ack| ack.pinned).sum());
        }
        if Instant::now() >= deadline {
            let missing = missing.join(", ");
            return Err(Error::Timeout(format!(
                "transactions still run at router {missing}, or it does not answer"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What is said of a router that has not reported lately but did within `memory`: a hold would wait for it, with all clients.
pub(crate) async fn silent_router(context: &Context, memory: Duration) -> Result<Option<String>> {
    let routers = context.catalog.routers_in_service(context.config.router_timeout, memory).await?;
    let silent = routers.into_iter().find(|router| router.is_silent);
    Ok(silent.map(|router| format!("router {} does not report", router.name)))
}

/// Lets nobody in at the source any more, and ends whoever is still there but `spared`, the session that writes the
/// fence row. Past the routers, transactions are waited for until `drained_by`.
pub(crate) async fn fence(
    the_move: &Move<'_>,
    source_registry: &Connection,
    spared: i32,
    (drained_by, deadline): (Instant, Instant),
) -> Result<()> {
    let live = the_move.id.live_database();
    let (prepared, since) = stragglers::prepared_now(source_registry, live).await?;
    if let Some(prepared) = prepared {
        return Err(Error::Timeout(prepared));
    }
    failpoint::reach("limit").await;
    // Not ALLOW_CONNECTIONS false: that would lock out the walsender and this program, too.
    database::set_limit(source_registry, the_move.work.term, live, 0).await?;
    failpoint::reach("limited").await;
    stragglers::end_sessions(the_move, source_registry, (since, spared), (drained_by, deadline)).await
}

/// Writes the fence row with a synchronous commit, which flushes every earlier commit, and reads all sequences.
/// Returns the statement that sets them on the target. `carries_large_objects`: whether those are copied in this hold.
pub(crate) async fn flush(
    source: &Connection,
    fence_row: i64,
    sequences: &[String],
    carries_large_objects: bool,
) -> Result<String> {
    // Not decoded, so not on the target.
    const LARGE_OBJECTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)";
    if !carries_large_objects && source.value(LARGE_OBJECTS, &[]).await? {
        return Err(Error::Timeout("large objects were made right before the hold".into()));
    }
    source.run("SET synchronous_commit = on").await?;
    source.rows("INSERT INTO tenantry.fence (id) VALUES ($1)", &[&fence_row]).await?;
    failpoint::reach("flushed").await;
    read_sequences(source, sequences).await
}

/// Reads these sequences, and returns the statement that sets them elsewhere; empty without any.
pub(crate) async fn read_sequences(source: &Connection, sequences: &[String]) -> Result<String> {
    let reads: Vec<String> = sequences
        .iter()
        .map(|name| format!("SELECT {} AS name, last_value, is_called FROM {name}", literal(name)))
        .collect();
    if reads.is_empty() {
        return Ok(String::new());
    }
    let rows = source.rows(&reads.join(" UNION ALL "), &[]).await?;
    // Exactly as they are, never MAX + 1: values given out and rolled back, or held in a cache, are not given again.
    let values = rows.iter().map(|row| {
        let (name, last_value, is_called): (&str, i64, bool) = (row.get(0), row.get(1), row.get(2));
        format!("({}::regclass, {last_value}::bigint, {is_called})", literal(name))
    });
    let values = values.collect::<Vec<_>>().join(", ");
    Ok(format!(
        "SELECT setval(name, last_value, is_called) FROM (VALUES {values}) v (name, last_value, is_called)"
    ))
}

/// Waits until the fence row is on the target: then every earlier commit is.
pub(crate) async fn wait_applied(target: &Connection, fence_row: i64, deadline: Instant) -> Result<()> {
    let applied = "SELECT EXISTS (SELECT FROM tenantry.fence WHERE id = $1)";
    while !target.value::<bool>(applied, &[&fence_row]).await? {
        if Instant::now() >= deadline {
            return Err(Error::Timeout("the target did not apply everything in time".into()));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}
