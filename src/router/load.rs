//! What tenants and servers have to do just now, for whoever looks at the whole fleet: of all servers, and of the busiest tenants.

use std::collections::HashSet;
use std::time::Instant;

use catalog::{Load, RouterLoad, TenantLoad};
use shard_map::TenantId;

use crate::stats::Figure;
use crate::tenant::Tenant;
use crate::worker::Worker;

/// Tenants that a report names.
pub(crate) const TENANTS_MAX: usize = 20;

impl Worker {
    /// What its tenants did since it was last asked: the busiest of them, and these.
    pub(crate) fn load(&self, watched: &HashSet<TenantId>) -> RouterLoad {
        let now = Instant::now();
        let seconds = now.duration_since(self.load_reported.replace(now)).as_secs_f64();
        let mut all = RouterLoad::default();
        for tenant in self.tenants.borrow().values() {
            let load = load_of(tenant, seconds);
            let server = tenant.place().map(|place| place.server.name.clone());
            if let Some(server) = &server {
                *all.servers.entry(server.clone()).or_default() += load;
            }
            if watched.contains(&tenant.id) {
                all.watched.push(TenantLoad { tenant: tenant.id.clone(), server: server.clone(), load });
            }
            if load.rank() > 0.0 {
                all.tenants.push(TenantLoad { tenant: tenant.id.clone(), server, load });
            }
        }
        all.keep_busiest(TENANTS_MAX);
        all
    }
}

fn load_of(tenant: &Tenant, seconds: f64) -> Load {
    let grown = tenant.counters.take_reported();
    // Far below 2^53.
    let each_second = |figure| if seconds > 0.0 { grown.get(figure) as f64 / seconds } else { 0.0 };
    let clients = tenant.clients.borrow();
    let waiting = clients.values().filter(|client| client.waiting.get().is_some()).count();
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Load {
        busy: each_second(Figure::TransactionMicros) / 1e6,
        transactions_per_second: each_second(Figure::Transactions),
        active: count(tenant.under_way()),
        connections: count(tenant.open.get()),
        clients: count(clients.len()),
        waiting: count(waiting),
    }
}
