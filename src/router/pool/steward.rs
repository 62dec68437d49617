//! Finds unused connections for those who wait for a server's budget. One for each worker, asleep while nobody waits.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pool::budget::Budget;
use crate::pool::connection::ServerConnection;
use crate::pool::shares::Offer;
use crate::tenant::Tenant;
use crate::worker::Worker;

/// How often unused connections are looked at while somebody waits.
const LOOK: Duration = Duration::from_millis(20);

/// How long it rests after a look, in times of how long that took.
const REST: u32 = 20;

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
