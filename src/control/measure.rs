//! What servers and tenants use: measured by the leader, one server after the other, and kept in the catalog for
//! placement and quotas.
//!
//! Work is what Postgres itself adds up, the time that sessions were active (`pg_stat_database.active_time`), so that a
//! look now and then misses nothing between two looks. A database's size costs a look at each of its files: it is asked for
//! again when rows were written since, or after a while, for so many databases in one pass and no more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{ServerUse, TenantUses};
use shard_map::{Server, ServerName, TenantId};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::Result;
use crate::quotas;
use crate::server::Connection;

/// How long a new leader waits before its first look: it has to take up what others left first.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(2);
/// Databases of a server whose size is asked for in one pass.
const SIZES_PER_PASS_MAX: usize = 400;
/// Databases whose size is asked for in one query, and the pause after it.
const SIZES_PER_QUERY: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);
/// After so long a size is asked for again although no row was written: files shrink by themselves.
const SIZE_LASTS: Duration = Duration::from_secs(1800);
/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// What is known of one server since this instance leads.
#[derive(Default)]
struct Known {
    /// When, and how much active time each database had then, in milliseconds.
    active: Option<(Instant, HashMap<u32, f64>)>,
    databases: HashMap<String, Size>,
}

struct Size {
    /// Rows written until then.
    written: i64,
    at: Instant,
    bytes: i64,
}

/// Measures, for as long as this instance leads, until `stop`.
pub(crate) async fn measure(context: Arc<Context>, stop: CancellationToken) {
    let mut known: HashMap<ServerName, Known> = HashMap::new();
    let mut told = quotas::Told::default();
    let mut wait = FIRST_LOOK_AFTER;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait.min(context.config.measure_interval)) => {}
            () = context.measure_nudge.notified() => {}
        }
        wait = context.config.measure_interval;
        let term = *context.term.borrow();
        match term {
            None => {
                known.clear();
                told = quotas::Told::default();
                wait = FIRST_LOOK_AFTER;
            }
            Some(term) => {
                if let Err(error) = pass(&context, term, &mut known).await {
                    tracing::warn!(%error, "what servers use could not be measured");
                }
                if let Err(error) = quotas::see_to(&context, term, &mut told).await {
                    tracing::warn!(%error, "sizes could not be compared with quotas");
                }
            }
        }
    }
}

async fn pass(context: &Context, term: i64, known: &mut HashMap<ServerName, Known>) -> Result<()> {
    let servers = context.catalog.servers().await?;
    known.retain(|name, _| servers.iter().any(|row| row.server.name == *name));
    for row in servers {
        let server = &row.server;
        let known = known.entry(server.name.clone()).or_default();
        let mut seen = Seen::default();
        match tokio::time::timeout(SERVER_TIMEOUT, look(context, server, known, &mut seen)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(server = %server.name, %error, "its use could not be measured"),
            Err(_) => {
                tracing::warn!(server = %server.name, "its use was not measured within {SERVER_TIMEOUT:?}");
            }
        }
        // What was seen until then is not asked for again soon.
        if seen.answered {
            let put = context.catalog.put_use(&server.name, &seen.of_server, &seen.of_tenants, term).await;
            if put.is_err() {
                // Nobody was told of these sizes: they are asked for again.
                known.databases.retain(|name, _| !seen.of_tenants.bytes.contains_key(name.as_str()));
            }
            put?;
        }
    }
    Ok(context.catalog.forget_uses().await?)
}

/// What one look at a server has seen so far.
#[derive(Default)]
struct Seen {
    answered: bool,
    of_server: ServerUse,
    of_tenants: TenantUses,
}

/// One server: what it bears, and how large those databases are that are measured now.
async fn look(context: &Context, server: &Server, known: &mut Known, seen: &mut Seen) -> Result<()> {
    let registry = context.connector.registry(server).await?;
    const ACTIVITY: &str = "
        SELECT datname::text, tup_inserted + tup_updated + tup_deleted, active_time, datid
        FROM pg_catalog.pg_stat_database WHERE datname IS NOT NULL";
    let now = Instant::now();
    let rows = registry.rows(ACTIVITY, &[]).await?;
    let active: HashMap<u32, f64> = rows.iter().map(|row| (row.get(3), row.get(2))).collect();
    seen.answered = true;
    if let Some((at, before)) = &known.active {
        let at_work = at_work(before, &active, now.duration_since(*at));
        seen.of_server.active_sessions_milli = Some(at_work.values().sum::<f64>().round() as i64);
        let of_tenants = rows.iter().filter_map(|row| {
            let milli = at_work[&row.get(3)].round() as i64;
            TenantId::new(row.get(0)).ok().filter(|_| milli > 0).map(|id| (id, milli))
        });
        seen.of_tenants.active_sessions_milli = of_tenants.collect();
    }
    known.active = Some((now, active));
    let written: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    known.databases.retain(|name, _| written.contains_key(name));
    sizes(&registry, known, (&written, now), &mut seen.of_tenants.bytes).await?;
    let is_whole = known.databases.len() == written.len();
    seen.of_server.bytes = is_whole.then(|| known.databases.values().map(|size| size.bytes).sum());
    Ok(())
}

/// Sessions at work at once in each database, on average since the look before, in thousandths. By their numbers: a move gives
/// a database another name, and what it has worked in its life is not of the last minute.
fn at_work(before: &HashMap<u32, f64>, active: &HashMap<u32, f64>, elapsed: Duration) -> BTreeMap<u32, f64> {
    let of = |(database, now): (&u32, &f64)| {
        // Less than before: its statistics were begun anew.
        let since = before.get(database).filter(|before| *before <= now).copied().unwrap_or(0.0);
        // Milliseconds a second are thousandths.
        (*database, (now - since) / elapsed.as_secs_f64().max(0.001))
    };
    active.iter().map(of).collect()
}

/// Asks for sizes that are due; those that were measured longest ago, or never, first.
async fn sizes(
    registry: &Connection,
    known: &mut Known,
    (written, now): (&HashMap<String, i64>, Instant),
    measured: &mut BTreeMap<TenantId, i64>,
) -> Result<()> {
    let size_of = |name: &str| known.databases.get(name);
    let is_due = |name: &str, written: i64| {
        size_of(name).is_none_or(|size| size.written != written || size.at.elapsed() > SIZE_LASTS)
    };
    let mut due: Vec<&String> =
        written.iter().filter(|(name, count)| is_due(name, **count)).map(|(name, _)| name).collect();
    due.sort_by_key(|name| (size_of(name).map(|size| size.at), name.as_str()));
    due.truncate(SIZES_PER_PASS_MAX);
    for names in due.chunks(SIZES_PER_QUERY) {
        const SIZES: &str = "
            SELECT datname::text, pg_catalog.pg_database_size(oid) FROM pg_catalog.pg_database
            WHERE datname = ANY ($1)";
        for row in registry.rows(SIZES, &[&names]).await? {
            let (name, bytes): (String, i64) = (row.get(0), row.get(1));
            let written = written.get(&name).copied().unwrap_or(0);
            measured.extend(TenantId::new(&name).ok().map(|id| (id, bytes)));
            known.databases.insert(name, Size { written, at: now, bytes });
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_database_worked_before_does_not_count() {
        let (before, now) =
            ([(1, 9_000.0), (2, 500.0)].into(), [(1, 9_400.0), (2, 100.0), (3, 1_000.0)].into());
        let at_work = at_work(&before, &now, Duration::from_secs(2));
        assert_eq!(
            at_work,
            BTreeMap::from([(1, 200.0), (2, 50.0), (3, 500.0)]),
            "statistics anew, a new one"
        );
    }
}
