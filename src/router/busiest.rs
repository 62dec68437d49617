//! Metrics of single tenants: of the busiest ones by name, of all others together, so that a hundred thousand tenants do
//! not make a hundred thousand series.
//!
//! A tenant's series counts what grew since it is among the busiest, and the rest counts what grew in all others. So
//! each series only grows while it is there, and the rates of all of them add up to the router's, whoever comes and goes.
//! Exact figures of one tenant since the start are at the console and at `/tenants`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::rc::Rc;

use catalog::metrics::Described;
use shard_map::TenantId;

use crate::admin::REST;
use crate::ask::{self, NoAnswer, PORTION};
use crate::shared::Shared;
use crate::stats::{Counters, Figure, Figures};
use crate::worker::Worker;

/// By how much another must be busier to take the place of one that has a series.
const ADVANTAGE: f64 = 1.25;

/// What one tenant has at the moment.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    clients: usize,
    connections: usize,
}

/// One tenant, looked at.
struct Look {
    activity: f64,
    grown: Figures,
    held: Held,
}

/// Counts for tenants by name, and for the rest.
#[derive(Debug, Default)]
pub(crate) struct Busiest {
    named: BTreeMap<TenantId, Figures>,
    rest: Figures,
}

/// Tenants that may be named next, the busiest first.
type Candidates = Vec<(f64, TenantId, Held)>;

impl Busiest {
    /// Looks at all tenants again, and writes their metrics for at most `most` of them by name.
    pub(crate) async fn gather(&mut self, shared: &Shared, most: usize) -> String {
        let (mut candidates, mut all) = (Candidates::new(), Held::default());
        if let Err(error) = self.look(shared, most, &mut candidates, &mut all).await {
            tracing::warn!(%error, "some tenants' figures come with the next scrape");
        }
        let mut held = BTreeMap::new();
        let mut named = BTreeMap::new();
        for (_, tenant, of_tenant) in candidates {
            all.clients -= of_tenant.clients;
            all.connections -= of_tenant.connections;
            named.insert(tenant.clone(), self.named.get(&tenant).copied().unwrap_or_default());
            held.insert(tenant, of_tenant);
        }
        self.named = named;
        self.write(&held, all)
    }

    async fn look(
        &mut self,
        shared: &Shared,
        most: usize,
        candidates: &mut Candidates,
        all: &mut Held,
    ) -> Result<(), NoAnswer> {
        for untaken in ask::ask_all(shared, |worker| worker.cold.borrow_mut().take_untaken()).await? {
            self.rest.add(&untaken);
        }
        let tenants = ask::tenants(shared, true).await?;
        for portion in tenants.chunks(PORTION) {
            let looks = ask::each(shared, portion, look_at).await?;
            for (tenant, look) in portion.iter().zip(looks) {
                let named = self.named.get_mut(tenant);
                let advantage = if named.is_some() { ADVANTAGE } else { 1.0 };
                named.unwrap_or(&mut self.rest).add(&look.grown);
                all.clients += look.held.clients;
                all.connections += look.held.connections;
                if look.activity > 0.0 {
                    candidates.push((look.activity * advantage, tenant.clone(), look.held));
                }
            }
            candidates.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
            candidates.truncate(most);
        }
        Ok(())
    }

    fn write(&self, held: &BTreeMap<TenantId, Held>, rest: Held) -> String {
        let mut text = String::new();
        for (name, help, figure, unit) in COUNTERS {
            let value = |figures: &Figures| figures.get(figure) as f64 / unit;
            family(&mut text, (name, help, "counter"), value(&self.rest), &self.named, value);
        }
        let [clients, connections] = GAUGES.map(|(name, help)| (name, help, "gauge"));
        family(&mut text, clients, rest.clients as f64, held, |held| held.clients as f64);
        family(&mut text, connections, rest.connections as f64, held, |held| held.connections as f64);
        text
    }
}

/// Name, help, what is counted, and how much of it is one.
const COUNTERS: [(&str, &str, Figure, f64); Figure::COUNT] = [
    ("transactions_total", "Transactions.", Figure::Transactions, 1.0),
    ("statements_total", "Statements.", Figure::Statements, 1.0),
    ("bytes_in_total", "Bytes from clients.", Figure::BytesIn, 1.0),
    ("bytes_out_total", "Bytes to clients.", Figure::BytesOut, 1.0),
    ("transaction_seconds_total", "Time in transactions.", Figure::TransactionMicros, 1e6),
    ("waits_total", "Transactions that waited for a connection.", Figure::Waits, 1.0),
    ("wait_seconds_total", "Time of waiting for a connection.", Figure::WaitMicros, 1e6),
    ("errors_total", "Errors that clients got.", Figure::Errors, 1.0),
];

/// Name and help.
const GAUGES: [(&str, &str); 2] =
    [("clients", "Clients connected."), ("server_connections", "Connections to servers.")];

/// What each of them tells.
pub(crate) fn metrics() -> impl Iterator<Item = Described> {
    let counters = COUNTERS.map(|(name, help, ..)| (name, help, "counter"));
    let gauges = GAUGES.map(|(name, help)| (name, help, "gauge"));
    counters.into_iter().chain(gauges).map(|(name, help, kind)| Described {
        name: full(name),
        kind,
        labels: vec!["tenant".to_owned()],
        help: help.to_owned(),
    })
}

fn full(name: &str) -> String {
    format!("tenantry_router_tenant_{name}")
}

fn family<T>(
    text: &mut String,
    (name, help, kind): (&str, &str, &str),
    rest: f64,
    named: &BTreeMap<TenantId, T>,
    value: impl Fn(&T) -> f64,
) {
    let name = full(name);
    let named = named.iter().map(|(tenant, of_tenant)| (tenant.as_str(), value(of_tenant)));
    // Writing to a text does not fail; names of tenants need no escapes.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (tenant, value) in named.chain([(REST, rest)]) {
        let _ = writeln!(text, "{name}{{tenant=\"{tenant}\"}} {value}");
    }
}

fn look_at(worker: &Rc<Worker>, id: &TenantId) -> Look {
    if let Some(tenant) = worker.warm(id) {
        let held = Held { clients: tenant.clients.borrow().len(), connections: tenant.open.get() };
        return Look { activity: tenant.counters.activity(), grown: tenant.counters.take_grown(), held };
    }
    let cold = worker.cold.borrow();
    let counters = cold.get(id);
    Look {
        activity: counters.map_or(0.0, Counters::activity),
        grown: counters.map(Counters::take_grown).unwrap_or_default(),
        held: Held::default(),
    }
}
