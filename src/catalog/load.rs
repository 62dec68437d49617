//! What routers have to do just now, by tenant and by server.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shard_map::{ServerName, TenantId};

use crate::error::Result;
use crate::query::Catalog;

/// What is done: on average since the report before, or at its moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Load {
    /// Transactions under way at once, on average: seconds in transactions that ended, for each second.
    pub busy: f64,
    /// Transactions that ended, for each second.
    pub transactions_per_second: f64,
    /// Connections on which something runs at this moment.
    pub active: u32,
    /// Connections to servers.
    pub connections: u32,
    /// Clients.
    pub clients: u32,
    /// Those of them that wait for a connection.
    pub waiting: u32,
}

impl AddAssign for Load {
    fn add_assign(&mut self, more: Self) {
        self.busy += more.busy;
        self.transactions_per_second += more.transactions_per_second;
        self.active += more.active;
        self.connections += more.connections;
        self.clients += more.clients;
        self.waiting += more.waiting;
    }
}

impl Load {
    /// By what the busiest are found: also who waits, or is in one long transaction, is busy. Who has but clients comes last.
    #[must_use]
    pub fn rank(&self) -> f64 {
        self.busy.max(f64::from(self.active)) + f64::from(self.waiting) + f64::from(self.clients) * 1e-9
    }
}

/// A tenant's load.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TenantLoad {
    /// The tenant.
    pub tenant: TenantId,
    /// Where it is.
    pub server: Option<ServerName>,
    /// What it does.
    #[serde(flatten)]
    pub load: Load,
}

/// What one router has to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterLoad {
    /// By server, of all its tenants together.
    pub servers: BTreeMap<ServerName, Load>,
    /// The busiest tenants, the busiest first.
    pub tenants: Vec<TenantLoad>,
    /// Tenants that somebody looks at, busy or not.
    pub watched: Vec<TenantLoad>,
}

impl RouterLoad {
    /// Adds another part; of both parts' tenants the `most` busiest stay.
    pub fn add(&mut self, more: Self, most: usize) {
        for (server, load) in more.servers {
            *self.servers.entry(server).or_default() += load;
        }
        add(&mut self.tenants, more.tenants);
        add(&mut self.watched, more.watched);
        self.keep_busiest(most);
    }

    /// Names no more tenants than so many: the busiest, the busiest first.
    pub fn keep_busiest(&mut self, most: usize) {
        self.tenants.sort_by(|a, b| {
            b.load.rank().total_cmp(&a.load.rank()).then_with(|| a.tenant.as_str().cmp(b.tenant.as_str()))
        });
        self.tenants.truncate(most);
    }
}

fn add(all: &mut Vec<TenantLoad>, more: Vec<TenantLoad>) {
    for one in more {
        match all.iter_mut().find(|known| known.tenant == one.tenant) {
            Some(known) => known.load += one.load,
            None => all.push(one),
        }
    }
}

/// A router that reported lately, and what it has to do.
#[derive(Debug, Clone, Deserialize)]
pub struct LoadedRouter {
    /// Its name.
    pub name: String,
    /// The map version that it serves by.
    pub map_version: i64,
    /// What it has to do.
    pub load: RouterLoad,
}

impl Catalog {
    /// What the routers have to do that reported within this time.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn loads(&self, within: Duration) -> Result<Vec<LoadedRouter>> {
        const SQL: &str = "
            SELECT jsonb_build_object('name', name, 'map_version', map_version, 'load', load) FROM router
            WHERE seen_at > now() - $1 * interval '1 second' ORDER BY name, started_at";
        self.json("router_loads", SQL, &[&within.as_secs_f64()]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str, busy: f64, waiting: u32) -> TenantLoad {
        let load = Load { busy, waiting, ..Load::default() };
        TenantLoad { tenant: TenantId::new(id).unwrap(), server: None, load }
    }

    #[test]
    fn a_tenant_at_several_routers_is_ranked_by_all_of_them_together() {
        let part = |tenants| RouterLoad { tenants, ..RouterLoad::default() };
        let mut all = part(vec![tenant("a", 2.0, 0), tenant("b", 1.5, 0)]);
        all.add(part(vec![tenant("b", 1.5, 0), tenant("c", 0.0, 9), tenant("d", 0.1, 0)]), 3);
        let names: Vec<_> = all.tenants.iter().map(|one| one.tenant.as_str()).collect();
        assert_eq!(names, ["c", "b", "a"], "who waits comes first, who does little is left out");
    }
}
