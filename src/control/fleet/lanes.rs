//! The servers of a run: how many tenants each works on at once, by what is measured there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use shard_map::ServerName;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::throttle::{Sample, Throttle};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::Connection;

/// How often a server is looked at.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);
/// A look that takes longer is no answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may be away before the tenants that wait for it are set aside.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// All servers that a run has come to. Dropping it ends the looks at them.
pub(super) struct Lanes {
    context: Arc<Context>,
    run: i64,
    term: i64,
    per_server: usize,
    lanes: Mutex<HashMap<ServerName, Arc<Lane>>>,
    probes: Mutex<Vec<JoinHandle<()>>>,
}

/// One server's.
pub(super) struct Lane {
    server: ServerName,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    throttle: Throttle,
    used: usize,
    away_since: Option<Instant>,
}

/// A place among the tenants of a server that are worked on; free again when dropped.
pub(super) struct Slot(Arc<Lane>);

impl Lanes {
    pub(super) fn new(context: Arc<Context>, run: i64, term: i64, per_server: usize) -> Self {
        let (lanes, probes) = (Mutex::default(), Mutex::default());
        Self { context, run, term, per_server, lanes, probes }
    }

    /// The lane of a server.
    pub(super) fn of(&self, server: &ServerName) -> Arc<Lane> {
        let mut lanes = lock(&self.lanes);
        let lane = lanes.entry(server.clone()).or_insert_with(|| {
            let throttle = Throttle::new(self.per_server);
            let state = Mutex::new(State { throttle, used: 0, away_since: None });
            let lane = Arc::new(Lane { server: server.clone(), state, changed: Notify::new() });
            let probe = probe(self.context.clone(), lane.clone(), self.run, self.term);
            lock(&self.probes).push(tokio::spawn(probe));
            lane
        });
        lane.clone()
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        lock(&self.probes).iter().for_each(JoinHandle::abort);
        for server in lock(&self.lanes).keys() {
            self.context.metrics.forget_lane(server.as_str());
        }
    }
}

impl Lane {
    /// Waits for a place.
    ///
    /// # Errors
    /// When the server has been away for too long, or nobody is to begin any more.
    pub(super) async fn enter(self: &Arc<Self>, stop: &AtomicBool) -> Result<Slot> {
        loop {
            if stop.load(Relaxed) {
                return Err(Error::Failed("the run stops".to_owned()));
            }
            let changed = self.changed.notified();
            {
                let mut state = lock(&self.state);
                if state.used < state.throttle.slots() {
                    state.used += 1;
                    return Ok(Slot(self.clone()));
                }
                if state.away_since.is_some_and(|since| since.elapsed() > AWAY_MAX) {
                    let message = format!("no answer for {AWAY_MAX:?}");
                    return Err(Error::ServerUnreachable { server: self.server.to_string(), message });
                }
            }
            // A notification may have gone to somebody else: never wait for it alone.
            drop(tokio::time::timeout(PROBE_INTERVAL, changed).await);
        }
    }

    fn used(&self) -> i64 {
        i64::try_from(lock(&self.state).used).unwrap_or(i64::MAX)
    }

    /// Waits until the server is well enough for a tenant, or is given up, or the run is to stop.
    pub(super) async fn is_well(self: &Arc<Self>, stop: &AtomicBool) {
        drop(self.enter(stop).await);
    }

    /// Takes a look into account; what is to be said when it changed how fast the run goes.
    fn observe(&self, sample: Option<Sample>) -> (usize, Option<String>) {
        let mut state = lock(&self.state);
        state.throttle.observe(sample);
        match sample {
            Some(_) => state.away_since = None,
            None => {
                state.away_since.get_or_insert_with(Instant::now);
            }
        }
        self.changed.notify_waiters();
        (state.throttle.slots(), state.throttle.why().map(str::to_owned))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        lock(&self.0.state).used -= 1;
        self.0.changed.notify_one();
    }
}

/// Looks at a server, again and again, and writes down when that changed the pace.
async fn probe(context: Arc<Context>, lane: Arc<Lane>, run: i64, term: i64) {
    let mut connection = None;
    let mut said = None;
    loop {
        let Ok(sample) = look(&context, &lane, &mut connection).await else {
            tokio::time::sleep(PROBE_INTERVAL).await;
            continue;
        };
        let (slots, why) = lane.observe(sample);
        context.metrics.set_lane(lane.server.as_str(), slots);
        let paced = why.is_some();
        if said.as_ref() != Some(&(slots, paced)) {
            if let Some(why) = &why {
                tracing::warn!(run, server = %lane.server, slots, why, "the run slows down at this server");
            } else if said.is_some_and(|(_, paced)| paced) {
                tracing::info!(run, server = %lane.server, slots, "the run is at its full pace at this server");
            }
            // Status shows it; a catalog that is away for a moment hears of the next change.
            let shown = json!({ format!("lane:{}", lane.server): { "slots": slots, "why": why } });
            if context.catalog.note_run(run, &shown, term).await.is_ok() {
                said = Some((slots, paced));
            }
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
    }
}

/// `None` when the server does not answer, or is in the map no more.
///
/// # Errors
/// When the catalog can't say where the server is.
async fn look(context: &Context, lane: &Lane, connection: &mut Option<Connection>) -> Result<Option<Sample>> {
    let server = match connection {
        Some(_) => None,
        None => match context.server(&lane.server).await {
            Ok(server) => Some(server),
            Err(Error::Catalog(catalog::Error::NotFound(_))) => return Ok(None),
            Err(error) => return Err(error),
        },
    };
    let looked = tokio::time::timeout(PROBE_TIMEOUT, async {
        if let Some(server) = server {
            *connection = Some(context.connector.registry(&server).await?);
        }
        match connection {
            Some(connection) => measure(connection, lane.used()).await.map(Some),
            None => Ok(None),
        }
    });
    match looked.await {
        Ok(Ok(sample)) => Ok(sample),
        _ => {
            *connection = None;
            Ok(None)
        }
    }
}

/// `used`: tenants that the run works on there, with a session each as the tenant's owner.
async fn measure(connection: &Connection, used: i64) -> Result<Sample> {
    // A message in the log is the least that has to reach the disk, and nobody reads it.
    const COMMIT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'tenantry', '')";
    // Any client can give itself the control plane's name: no more are believed than the run has.
    const ACTIVE: &str = "
        SELECT count(*) - least(count(*) FILTER (WHERE application_name = 'tenantry control'), $1::bigint)
        FROM pg_catalog.pg_stat_activity
        WHERE backend_type = 'client backend' AND state NOT IN ('idle', 'idle in transaction', 'disabled')
            AND usename <> 'tenantry_control'";
    let active: i64 = connection.value(ACTIVE, &[&used]).await?;
    let begun = Instant::now();
    connection.run(COMMIT).await?;
    let commit_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Sample { commit_us, active: u64::try_from(active).unwrap_or(0) })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_place_hears_that_the_run_stops() {
        let state = Mutex::new(State { throttle: Throttle::new(1), used: 0, away_since: None });
        let server = ServerName::new("a").unwrap();
        let lane = Arc::new(Lane { server, state, changed: Notify::new() });
        let stop = AtomicBool::new(false);
        lane.observe(None);
        let (waited, ()) = tokio::join!(lane.enter(&stop), async {
            stop.store(true, Relaxed);
            lane.changed.notify_waiters();
        });
        assert!(waited.is_err());
    }
}
