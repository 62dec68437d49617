//! Finds unused connections for those who wait for a server's budget. One for each worker, asleep while nobody waits.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shard_map::ServerName;

use crate::pool::budget::Budget;
use crate::pool::connection::ServerConnection;
use crate::pool::shares::Offer;
use crate::tenant::Tenant;
use crate::worker::Worker;

/// How often unused connections are looked at while somebody waits.
const LOOK: Duration = Duration::from_millis(20);

/// How long it rests after a look, in times of how long that took.
const REST: u32 = 20;

/// Keeps looks through all tenants, which somebody else asks for, from taking more than their share of a worker's time:
/// until when there is none for a server.
#[derive(Debug, Default)]
pub(crate) struct Rests(RefCell<HashMap<ServerName, Instant>>);

impl Rests {
    /// Whether a server's is over.
    pub(crate) fn is_over(&self, server: &ServerName, now: Instant) -> bool {
        self.0.borrow().get(server).is_none_or(|until| now >= *until)
    }

    /// A server's begins, after a look.
    pub(crate) fn begin(&self, server: &ServerName, look_begun: Instant, now: Instant) {
        let until = now + now.saturating_duration_since(look_begun) * REST;
        self.0.borrow_mut().insert(server.clone(), until);
    }

    /// Forgets those that are over.
    pub(crate) fn sweep(&self, now: Instant) {
        self.0.borrow_mut().retain(|_, until| now < *until);
    }
}

/// Serves without end.
pub(crate) async fn run(worker: Rc<Worker>) {
    let shared = worker.shared.clone();
    loop {
        let mut wanting = std::pin::pin!(shared.budgets.wanting().notified());
        wanting.as_mut().enable();
        let wanted = shared.budgets.wanted();
        let begun = Instant::now();
        for budget in &wanted {
            offer_idle(&worker, budget);
        }
        if wanted.is_empty() {
            wanting.await;
        } else {
            // However many tenants there are to look through, most of the worker's time is its clients'.
            tokio::time::sleep(begun.elapsed() * REST).await;
            // A look for each who comes, and again for what was in use until now.
            drop(tokio::time::timeout(LOOK, wanting).await);
        }
    }
}

/// Offers what is unused of this budget, longest unused first.
fn offer_idle(worker: &Worker, budget: &Arc<Budget>) {
    let mut unused: Vec<(Instant, Rc<Tenant>)> = Vec::new();
    for tenant in worker.tenants.borrow().values() {
        let idle = tenant.idle.borrow();
        let of_budget = idle.iter().filter(|connection| Arc::ptr_eq(connection.permit.budget(), budget));
        unused.extend(of_budget.map(|connection| (connection.idle_since, tenant.clone())));
    }
    unused.sort_by_key(|(since, _)| *since);
    let now = Instant::now();
    for (since, tenant) in unused {
        if !budget.is_wanted() {
            return;
        }
        let given = tenant.take_unused(since, |connection| {
            connection.permit.offer(Offer {
                had: now.saturating_duration_since(connection.opened),
                idle: Some(now.saturating_duration_since(since)),
                useful: false,
            })
        });
        if let Some(connection) = given {
            ServerConnection::close(connection);
            tenant.settle();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_looks_long_rests_long_from_looks_for_this_server() {
        let [full, other] = ["full", "other"].map(|name| ServerName::new(name).unwrap());
        let (rests, begun) = (Rests::default(), Instant::now());
        assert!(rests.is_over(&full, begun));
        let ended = begun + Duration::from_millis(10);
        rests.begin(&full, begun, ended);
        assert!(rests.is_over(&other, ended));
        rests.sweep(ended + Duration::from_millis(199));
        assert!(!rests.is_over(&full, ended + Duration::from_millis(199)));
        assert!(rests.is_over(&full, ended + Duration::from_millis(200)));
        rests.sweep(ended + Duration::from_millis(200));
        assert!(rests.0.borrow().is_empty());
    }
}
