//! The target follows until it is close enough behind, and nothing stands in the way of a short hold.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::driver::Move;
use super::fence;
use super::pause;
use super::schema;
use super::stragglers::{self, Patience};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::{Connection, ident, tables};

/// How often the lag is looked at.
const POLL: Duration = Duration::from_millis(200);
/// A stream further behind than this is not even probed.
pub(super) const LAG_BYTES_MAX: i64 = 16 << 20;
/// How often the reverse slot is advanced, so that it keeps little of the target's log.
const ADVANCE_INTERVAL: Duration = Duration::from_secs(10);
/// How often a subscription that stopped at an error is started again; a network that blinks stops it, too.
const ENABLE_TRIES: u32 = 10;
/// Routers that reported before that are forgotten.
const ROUTER_MEMORY: Duration = Duration::from_hours(1);
/// Cutovers that may be taken back, before the move gives up.
const CUTOVERS_MAX: i64 = 40;

/// Follows until a cutover may begin.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    wait_after_taken_back(the_move).await?;
    let source = the_move.source_database().await?;
    let target = the_move.arriving_database().await?.without_statement_limit().await?;
    make_reverse_slot(the_move, &target).await?;
    let mut patience = Patience::of(the_move).await?;
    let mut advanced = Instant::now();
    let mut following = Following::default();
    let mut refreshed_until = None;
    loop {
        following.keep(the_move, &target).await?;
        if advanced.elapsed() > ADVANCE_INTERVAL {
            advance_reverse_slot(the_move, &target).await?;
            advanced = Instant::now();
        }
        let mut waiting_for = what_is_in_the_way(the_move, &source, &target).await?;
        if waiting_for.is_none() {
            waiting_for = pause::now(&the_move.work.context.catalog, the_move.work.operation.id)
                .await?
                .map(|pause| pause.told());
        }
        if waiting_for.is_none() && is_failing_over(the_move).await? {
            waiting_for = Some("the failover of one of its servers".to_owned());
        }
        if waiting_for.is_none() {
            waiting_for = patience.wait(the_move, &source).await?;
        }
        the_move.work.remember(&json!({ "waiting_for": waiting_for })).await?;
        if waiting_for.is_none() && !refresh_noted(&target, &mut refreshed_until).await? {
            break;
        }
        tokio::time::sleep(POLL).await;
    }
    if let Err(error) = schema::carry_attributes(the_move).await {
        // An older server need not know what was set on the newer one, and that must not keep the tenant there.
        if the_move.input.reverse_of.is_none() || error.is_transient() || error.must_stop() {
            return Err(error);
        }
        tracing::warn!(operation = the_move.work.operation.id, %error, "settings and rights stay as they were before the switch");
        the_move.work.remember(&json!({ "not_carried": error.to_string() })).await?;
    }
    failpoint::reach("catch_close").await;
    check_fingerprint(the_move, &source).await
}

/// What would be decided at a server that is left just now, nobody could say afterwards.
async fn is_failing_over(the_move: &Move<'_>) -> Result<bool> {
    let servers = [&the_move.source.name, &the_move.target.name];
    Ok(the_move.work.context.catalog.is_failing_over(&servers).await?)
}

/// The subscription, which stops at errors.
#[derive(Debug, Default)]
pub(super) struct Following {
    enabled_anew: u32,
}

impl Following {
    /// Starts it again if it has stopped, a few times.
    pub(super) async fn keep(&mut self, the_move: &Move<'_>, target: &Connection) -> Result<()> {
        if is_enabled(the_move, target).await? {
            return Ok(());
        }
        self.enabled_anew += 1;
        if self.enabled_anew > ENABLE_TRIES {
            return Err(Error::Failed(format!(
                "the subscription on server {} stops at an error again and again: see that server's log",
                the_move.target.name
            )));
        }
        target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", ident(&the_move.names.forward))).await
    }
}

/// Later and later after each cutover that was taken back.
async fn wait_after_taken_back(the_move: &Move<'_>) -> Result<()> {
    let operation = the_move.work.context.catalog.operation(the_move.work.operation.id).await?;
    let taken_back = operation.data.get("taken_back").and_then(serde_json::Value::as_i64).unwrap_or(0);
    if taken_back >= CUTOVERS_MAX {
        return Err(Error::Failed(format!(
            "{taken_back} cutovers were taken back; the last: {}",
            operation.data["last_cutover"]
        )));
    }
    if taken_back > 0 {
        let exponent = u32::try_from(taken_back).unwrap_or(u32::MAX).min(6);
        tokio::time::sleep(Duration::from_millis(250) * 2_u32.pow(exponent)).await;
    }
    Ok(())
}

/// What keeps a cutover from being short, but for who is in its way, in words.
async fn what_is_in_the_way(
    the_move: &Move<'_>,
    source: &Connection,
    target: &Connection,
) -> Result<Option<String>> {
    let lag = lag_bytes(the_move, source).await?;
    if lag > LAG_BYTES_MAX {
        return Ok(Some(format!("the target is {lag} bytes behind")));
    }
    let most = the_move.max_hold() / 4;
    if !is_close(the_move, source, target, most).await? {
        return Ok(Some(format!("the target is more than {most:?} behind")));
    }
    // Whose clients' transactions may be the old ones.
    silent_router(the_move).await
}

/// How far the target is behind in the source's log, which must still be there.
pub(super) async fn lag_bytes(the_move: &Move<'_>, source: &Connection) -> Result<i64> {
    const SLOT: &str = "
        SELECT coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn), 0)::bigint, wal_status
        FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let slot = source.row(SLOT, &[&the_move.names.forward]).await?;
    let slot = slot.ok_or_else(|| Error::Failed("the replication slot on the source is gone".into()))?;
    let lag: i64 = slot.get(0);
    if slot.get::<_, Option<&str>>(1) == Some("lost") {
        return Err(Error::Failed(
            "the source removed log that the target still needed (max_slot_wal_keep_size)".into(),
        ));
    }
    the_move.work.remember(&json!({ "lag_bytes": lag })).await?;
    Ok(lag)
}

/// What is said of a router that was there a moment ago and could not be asked to hold.
async fn silent_router(the_move: &Move<'_>) -> Result<Option<String>> {
    let context = &the_move.work.context;
    let lost_after = context.config.router_lost_after;
    // While the catalog was away nobody could report: all that it remembers get their time to come back.
    let comes_back = the_move.taken_up.is_some_and(|at| at.elapsed() < lost_after);
    let memory = if comes_back { ROUTER_MEMORY } else { lost_after };
    fence::silent_router(context, memory).await
}

/// Writes a row on the source, and sees whether it is applied in time.
async fn is_close(
    the_move: &Move<'_>,
    source: &Connection,
    target: &Connection,
    most: Duration,
) -> Result<bool> {
    let id = probe_id();
    let deadline = Instant::now() + most;
    source.rows("INSERT INTO tenantry.fence (id) VALUES ($1)", &[&id]).await?;
    loop {
        let applied = "SELECT EXISTS (SELECT FROM tenantry.fence WHERE id = $1)";
        if target.value(applied, &[&id]).await? {
            source.run("DELETE FROM tenantry.fence WHERE id < 0").await?;
            return Ok(true);
        }
        if Instant::now() > deadline {
            tracing::debug!(operation = the_move.work.operation.id, "the target is not close enough yet");
            return Ok(false);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Negative, so that it is never taken for a cutover's fence row, and never the same twice.
pub(super) fn probe_id() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    -LAST.fetch_max(now, Relaxed).max(now)
}

async fn is_enabled(the_move: &Move<'_>, target: &Connection) -> Result<bool> {
    let enabled = "SELECT subenabled FROM pg_catalog.pg_subscription WHERE subname = $1";
    target.value(enabled, &[&the_move.names.forward]).await
}

/// The stream back is made before the hold: inside it, a transaction of another tenant of the target could block it.
async fn make_reverse_slot(the_move: &Move<'_>, target: &Connection) -> Result<()> {
    let reverse = &the_move.names.reverse;
    let published = "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1)";
    if !target.value::<bool>(published, &[reverse]).await? {
        target.run(&format!("CREATE PUBLICATION {} FOR ALL TABLES", ident(reverse))).await?;
        failpoint::reach("catch_published").await;
    }
    let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = $1)";
    if target.value::<bool>(there, &[reverse]).await? {
        match advance_reverse_slot(the_move, target).await {
            // One that a dead controller had not finished, gone with its session.
            Err(error) if error.sqlstate() == Some("42704") => {}
            outcome => return outcome,
        }
    }
    let limit = the_move.work.context.config.slot_timeout.as_millis();
    target.run(&format!("SET statement_timeout = {limit}")).await?;
    const CREATE: &str = "SELECT pg_catalog.pg_create_logical_replication_slot($1::text::name, 'pgoutput')";
    let registry = the_move.target_registry().await?;
    stragglers::tell_while(the_move, &registry, target.rows(CREATE, &[reverse])).await?;
    failpoint::reach("catch_slot").await;
    target.run("SET statement_timeout = 0").await
}

/// Moves the reverse slot past everything written on the target so far.
pub(crate) async fn advance_reverse_slot(the_move: &Move<'_>, target: &Connection) -> Result<()> {
    const SQL: &str = "SELECT pg_catalog.pg_replication_slot_advance($1::text::name, pg_current_wal_lsn())";
    target.rows(SQL, &[&the_move.names.reverse]).await.map(drop)
}

/// Refreshes on the target what was refreshed on the source since the last look. `true`: there was something.
pub(crate) async fn refresh_noted(target: &Connection, until: &mut Option<SystemTime>) -> Result<bool> {
    const NOTED: &str = "
        SELECT view, refreshed_at FROM tenantry.refreshed
        WHERE $1::timestamptz IS NULL OR refreshed_at > $1 ORDER BY refreshed_at";
    let noted = target.rows(NOTED, &[until]).await?;
    for row in &noted {
        target.run(&format!("REFRESH MATERIALIZED VIEW {}", row.get::<_, &str>(0))).await?;
        *until = Some(row.get(1));
    }
    Ok(!noted.is_empty())
}

async fn check_fingerprint(the_move: &Move<'_>, source: &Connection) -> Result<()> {
    let operation = the_move.work.context.catalog.operation(the_move.work.operation.id).await?;
    let before = operation.data.get("fingerprint").and_then(serde_json::Value::as_str);
    if before == Some(&tables::fingerprint(source).await?) {
        return Ok(());
    }
    Err(Error::Failed("the schema of the source was changed during the move, past its guard".into()))
}
