//! A budget for each server, shared by all that is copied from or to it: bytes a second, never more than configured, and
//! fewer when that slows other tenants there down, as routers measure it, or lets a standby fall behind.

mod budget;
mod governor;
mod watch;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use shard_map::{Server, ServerName};

use budget::Budget;
pub(crate) use watch::watch;

/// A wait shorter than this is put off.
const SLACK: Duration = Duration::from_millis(2);

/// The budgets of the servers at which something is copied at present.
pub(crate) struct Budgets {
    most: u64,
    servers: Mutex<HashMap<ServerName, Weak<Budget>>>,
}

impl Budgets {
    pub(crate) fn new(bytes_per_second_max: u64) -> Self {
        Self { most: bytes_per_second_max, servers: Mutex::default() }
    }

    /// A throttle by the budgets of these servers. As long as it is there, they are watched.
    pub(crate) fn throttle<'a>(&self, servers: impl IntoIterator<Item = &'a Server>) -> Throttle {
        let mut known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, budget| budget.strong_count() > 0);
        let mut budgets: Vec<Arc<Budget>> = Vec::new();
        for server in servers {
            if budgets.iter().any(|budget| budget.server.name == server.name) {
                continue;
            }
            let there = known.get(&server.name).and_then(Weak::upgrade);
            let budget = there.unwrap_or_else(|| Arc::new(Budget::new(server.clone(), self.most)));
            known.insert(server.name.clone(), Arc::downgrade(&budget));
            budgets.push(budget);
        }
        Throttle { budgets }
    }

    fn in_use(&self) -> Vec<Arc<Budget>> {
        let known = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter_map(Weak::upgrade).collect()
    }
}

/// What a copy takes its bytes from: the budgets of all servers that it burdens.
pub(crate) struct Throttle {
    budgets: Vec<Arc<Budget>>,
}

impl Throttle {
    /// Waits until these bytes are within the budgets.
    pub(crate) async fn take(&self, bytes: u64) {
        let mut at = Instant::now();
        for budget in &self.budgets {
            at = at.max(budget.reserve(bytes).await);
        }
        // Timers are exact to a millisecond: shorter waits are saved up for the next call.
        if at > Instant::now() + SLACK {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Says that work is done on the servers that takes no bytes, until what it returns is dropped.
    pub(crate) fn at_work(&self) -> AtWork<'_> {
        self.budgets.iter().for_each(|budget| budget.work(true));
        AtWork(self)
    }

    /// Bytes a second that the servers bear now, and why it is not more.
    pub(crate) fn told(&self) -> (u64, Option<String>) {
        let slowest = self.budgets.iter().map(|budget| budget.told()).min_by_key(|(rate, _)| *rate);
        slowest.unwrap_or((u64::MAX, None))
    }

    /// Whether other tenants are at work on any of the servers.
    pub(crate) fn has_neighbours(&self) -> bool {
        self.budgets.iter().any(|budget| budget.has_neighbours())
    }
}

/// Work on servers that takes no bytes.
pub(crate) struct AtWork<'t>(&'t Throttle);

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        self.0.budgets.iter().for_each(|budget| budget.work(false));
    }
}
