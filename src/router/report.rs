//! Tells the catalog what the control plane needs to know: that this router lives, what it measures, which holds are in
//! force here.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use catalog::{Catalog, Copying, Latency, Load, Report, Reporter, RouterLoad, TenantLoad};
use futures_util::future::join_all;
use shard_map::TenantId;
use tokio::sync::mpsc;

use crate::ask;
use crate::gate::HoldReady;
use crate::load::TENANTS_MAX;
use crate::shared::Shared;
use crate::worker::Worker;

/// Attempts to acknowledge a hold, and the pause between them.
const ACKNOWLEDGE_ATTEMPTS_MAX: usize = 20;
const ANNOUNCE_PAUSE: Duration = Duration::from_millis(10);
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(100);

/// Longest time for which a router that starts waits to be on the catalog's list; without a catalog it serves anyway.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a report tells of a tenant whose server has refused the router's password; the control plane looks more often.
const LOCKED_OUT_TOLD_FOR: Duration = Duration::from_secs(15);
/// Such tenants that a worker tells of.
const LOCKED_OUT_MAX: usize = 100;

/// Tenants whose server has another password for one of their roles than the master key gives, by when that was seen. The
/// control plane sets it anew.
#[derive(Debug, Default)]
pub(crate) struct LockedOut(RefCell<HashMap<TenantId, Instant>>);

impl LockedOut {
    /// A server has refused the password.
    pub(crate) fn note(&self, tenant: &TenantId) {
        let mut seen = self.0.borrow_mut();
        // One more will be seen again, when these have been told.
        if seen.len() < LOCKED_OUT_MAX || seen.contains_key(tenant) {
            seen.insert(tenant.clone(), Instant::now());
        }
    }

    /// It has let the router in.
    pub(crate) fn forget(&self, tenant: &TenantId) {
        self.0.borrow_mut().remove(tenant);
    }

    fn told(&self) -> Vec<TenantId> {
        let mut seen = self.0.borrow_mut();
        seen.retain(|_, at| at.elapsed() < LOCKED_OUT_TOLD_FOR);
        seen.keys().cloned().collect()
    }
}

/// What is copied at present and who is looked at, as the catalog says.
#[derive(Debug, Default)]
pub(crate) struct Heeded {
    tenants: HashSet<TenantId>,
    servers: HashSet<String>,
    watched: HashSet<TenantId>,
}

impl Heeded {
    fn of(copying: Vec<Copying>, watched: Vec<TenantId>) -> Self {
        let mut now = Self { watched: watched.into_iter().collect(), ..Self::default() };
        for Copying { tenant, servers } in copying {
            now.tenants.insert(tenant);
            now.servers.extend(servers);
        }
        now
    }

    /// Whether this tenant is copied. It is asked for each transaction.
    pub(crate) fn copies(&self, tenant: &TenantId) -> bool {
        !self.tenants.is_empty() && self.tenants.contains(tenant)
    }
}

/// One worker's part of the router's report.
#[derive(Debug, Default)]
struct WorkerReport {
    clients: usize,
    pinned: BTreeMap<String, BTreeMap<String, u32>>,
    locked_out: Vec<TenantId>,
    latency: Vec<(String, Latency)>,
    load: RouterLoad,
}

impl Worker {
    /// What is to be reported of this worker, from now on without the transactions of tenants that are copied.
    fn report(&self, heeded: &Arc<Heeded>) -> WorkerReport {
        self.metrics.flush();
        *self.heeded.borrow_mut() = heeded.clone();
        let of_server = |server: &String| Some((server.clone(), self.metrics.latency(server)?));
        let latency = heeded.servers.iter().filter_map(of_server).collect();
        let clients = self.clients.borrow();
        let locked_out = self.locked_out.told();
        let clients_here = clients.len();
        let mut report = WorkerReport {
            clients: clients_here,
            locked_out,
            latency,
            load: self.load(&heeded.watched),
            pinned: BTreeMap::new(),
        };
        for client in clients.values() {
            for reason in client.pins.get().iter() {
                let of_tenant = report.pinned.entry(client.tenant.to_string()).or_default();
                *of_tenant.entry(reason.as_str().to_owned()).or_default() += 1;
            }
        }
        report
    }
}

/// Puts the router on the catalog's list before its first client comes: a cutover waits only for routers on it.
pub(crate) async fn announce(shared: &Shared, catalog: &Catalog) {
    let announced = tokio::time::timeout(ANNOUNCE_TIMEOUT, async {
        while !shared.map.is_loaded() {
            tokio::time::sleep(ANNOUNCE_PAUSE).await;
        }
        send(shared, catalog, (&Report::default(), &RouterLoad::default())).await.map(drop)
    });
    if !matches!(announced.await, Ok(Ok(()))) {
        tracing::warn!("the catalog does not know yet that this router serves");
    }
}

/// Reports that a router may miss, and the shortest time, before it counts as gone.
const REPORTS_MISSED_MAX: u32 = 3;
const LIVE_TIME_LEAST: Duration = Duration::from_secs(5);

async fn send(
    shared: &Shared,
    catalog: &Catalog,
    (report, load): (&Report, &RouterLoad),
) -> catalog::Result<Heeded> {
    let version = shared.map.read().version;
    let (config, peers) = (shared.config(), &shared.peers);
    let me = Reporter {
        process: peers.process.clone(),
        name: shared.name.clone(),
        address: config.advertise.as_ref().unwrap_or(&shared.name).clone(),
        cancel_host: peers.cancel_host.clone(),
        cancel_port: peers.cancel_port,
    };
    let copying = catalog.report_router(&me, version, (report, load)).await?;
    // Without the catalog, the last that was known stays.
    let within = (config.report_interval * REPORTS_MISSED_MAX).max(LIVE_TIME_LEAST);
    let live = peers.learn(&catalog.live_routers(within).await?);
    if shared.routers_live.swap(live, Ordering::Relaxed) != live {
        tracing::info!(routers = live, "routers live");
    }
    // A catalog that is not yet of this version knows of none.
    let watched = catalog.watched_tenants().await.unwrap_or_default();
    Ok(Heeded::of(copying, watched))
}

/// Reports at intervals, without end.
pub(crate) async fn run(shared: Arc<Shared>, catalog: Catalog) {
    let mut heeded = Arc::<Heeded>::default();
    let mut failing = false;
    loop {
        let pause = shared.config().report_interval;
        tokio::time::sleep(pause).await;
        if !shared.map.is_loaded() {
            continue;
        }
        let (report, load) = collect(&shared, &heeded).await;
        match send(&shared, &catalog, (&report, &load)).await {
            Ok(now) => {
                failing = false;
                heeded = Arc::new(now);
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the router's reports do not reach the catalog for now");
                }
            }
        }
    }
}

async fn collect(shared: &Shared, heeded: &Arc<Heeded>) -> (Report, RouterLoad) {
    // Also a server that nobody has used says so.
    let latency = heeded.servers.iter().map(|server| (server.clone(), Latency::default())).collect();
    let mut report = Report { latency, ..Report::default() };
    let mut load = RouterLoad::default();
    let asked = (0..shared.workers.len()).map(|worker| {
        let heeded = heeded.clone();
        ask::ask(shared, worker, move |worker| worker.report(&heeded))
    });
    // One that does not answer in time has its part in the next report.
    let parts = join_all(asked).await;
    let all_answered = parts.iter().all(Result::is_ok);
    for part in parts.into_iter().flatten() {
        report.clients += u32::try_from(part.clients).unwrap_or(u32::MAX);
        report.pinned.extend(part.pinned);
        report.locked_out.extend(part.locked_out);
        load.add(part.load, TENANTS_MAX);
        for (server, latency) in part.latency {
            *report.latency.entry(server).or_default() += &latency;
        }
    }
    if all_answered {
        let is_idle = |tenant: &&TenantId| load.watched.iter().all(|one| one.tenant != **tenant);
        let idle: Vec<&TenantId> = heeded.watched.iter().filter(is_idle).collect();
        load.watched.extend(idle.into_iter().map(idle_load));
    } else {
        load.watched.clear();
        // A count that goes down and up again would be taken for new transactions.
        report.latency.clear();
    }
    // The breaker of a server that was removed from the map has nobody left to close it.
    report.servers_down = shared.breakers.open();
    let known = |name: &String| shared.map.read().servers.keys().any(|server| server.as_str() == name);
    report.servers_down.retain(known);
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    report.unix_ms = i64::try_from(since_1970.as_millis()).ok();
    (report, load)
}

/// Of a tenant of which nobody is here.
fn idle_load(tenant: &TenantId) -> TenantLoad {
    TenantLoad { tenant: tenant.clone(), server: None, load: Load::default() }
}

/// Acknowledges holds as they come into force, without end.
pub(crate) async fn acknowledge(
    shared: Arc<Shared>,
    catalog: Option<Catalog>,
    mut holds: mpsc::Receiver<HoldReady>,
) {
    let Some(catalog) = catalog else {
        return std::future::pending().await;
    };
    while let Some(ready) = holds.recv().await {
        for _ in 0..ACKNOWLEDGE_ATTEMPTS_MAX {
            match catalog.ack_hold(&shared.peers.process, ready.hold, ready.pinned).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(tenant = %ready.tenant, hold = ready.hold, %error, "a hold can't be acknowledged");
                }
            }
            tokio::time::sleep(ACKNOWLEDGE_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_told_of_until_its_server_lets_the_router_in() {
        let locked_out = LockedOut::default();
        let tenant = |n: usize| TenantId::new(&format!("t{n}")).unwrap();
        (0..2 * LOCKED_OUT_MAX).for_each(|n| locked_out.note(&tenant(n)));
        assert_eq!(locked_out.told().len(), LOCKED_OUT_MAX);
        (1..LOCKED_OUT_MAX).for_each(|n| locked_out.forget(&tenant(n)));
        assert_eq!(locked_out.told(), [tenant(0)]);
    }
}
