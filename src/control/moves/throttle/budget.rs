//! One server's budget.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catalog::{Latency, RouterRow};
use shard_map::Server;
use tokio::sync::watch;

use super::governor::{Governor, Seen};

pub(super) struct Budget {
    pub(super) server: Server,
    /// Bytes a second; 0 while nothing is to be copied.
    rate: watch::Sender<u64>,
    /// When the next bytes may go.
    next: Mutex<Instant>,
    copied: AtomicU64,
    at_work: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    governor: Governor,
    /// By router process: when its last report was made, and what that counted.
    reports: HashMap<String, (Option<i64>, Latency)>,
}

impl Budget {
    pub(super) fn new(server: Server, most: u64) -> Self {
        let governor = Governor::new(most);
        Self {
            server,
            rate: watch::Sender::new(governor.rate()),
            next: Mutex::new(Instant::now()),
            copied: AtomicU64::new(0),
            at_work: AtomicUsize::new(0),
            state: Mutex::new(State { governor, reports: HashMap::new() }),
        }
    }

    /// Sets bytes aside, and says from when on they may go.
    pub(super) async fn reserve(&self, bytes: u64) -> Instant {
        let mut rate = *self.rate.borrow();
        if rate == 0 {
            let mut changes = self.rate.subscribe();
            // The sender is here, so it can't be gone.
            rate = changes.wait_for(|rate| *rate > 0).await.map_or(1, |rate| *rate);
        }
        self.copied.fetch_add(bytes, Relaxed);
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (*next).max(Instant::now());
        *next = at + cost;
        at
    }

    pub(super) fn work(&self, begins: bool) {
        if begins {
            self.at_work.fetch_add(1, Relaxed);
        } else {
            self.at_work.fetch_sub(1, Relaxed);
        }
    }

    /// The rate, and why it is not the most.
    pub(super) fn told(&self) -> (u64, Option<String>) {
        let why = self.state().governor.why().map(|why| format!("on server {}: {why}", self.server.name));
        (*self.rate.borrow(), why)
    }

    pub(super) fn has_neighbours(&self) -> bool {
        self.state().governor.has_neighbours()
    }

    /// A tick has passed; returns the rate from here on.
    pub(super) fn tick(&self, routers: Option<&[RouterRow]>, lag: Option<Duration>) -> u64 {
        let mut state = self.state();
        let latency =
            routers.and_then(|routers| since_last(&mut state.reports, routers, self.server.name.as_str()));
        let copied = self.copied.swap(0, Relaxed);
        let at_work = self.at_work.load(Relaxed) > 0;
        state.governor.tick(Seen { latency, copied, at_work, lag });
        let rate = state.governor.rate();
        self.rate.send_if_modified(|now| std::mem::replace(now, rate) != rate);
        rate
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What routers counted on a server since the last look; none when none of them has said anything new.
fn since_last(
    seen: &mut HashMap<String, (Option<i64>, Latency)>,
    routers: &[RouterRow],
    server: &str,
) -> Option<Latency> {
    seen.retain(|process, _| routers.iter().any(|router| router.process == *process));
    let mut sum: Option<Latency> = None;
    for router in routers {
        let Some(now) = router.report.latency.get(server) else { continue };
        let at = router.report.unix_ms;
        match seen.insert(router.process.clone(), (at, now.clone())) {
            // It counts from its start; how much of that is new is only known from the next report on.
            None => {}
            Some((before, _)) if before == at => {}
            Some((_, before)) => *sum.get_or_insert_default() += &(now - &before),
        }
    }
    // A fleet without routers has nobody who could be slowed down.
    if routers.is_empty() { Some(Latency::default()) } else { sum }
}

#[cfg(test)]
mod tests {
    use catalog::{Report, latency_bucket};

    use super::*;

    fn router(process: &str, at: i64, transactions: u64) -> RouterRow {
        let mut latency = Latency::default();
        latency.add(latency_bucket(1_000), transactions);
        let latency = [("pg-1".to_owned(), latency)].into();
        RouterRow {
            process: process.to_owned(),
            name: String::new(),
            address: String::new(),
            number: None,
            cancel_address: String::new(),
            map_version: 1,
            report: Report { latency, unix_ms: Some(at), ..Report::default() },
        }
    }

    #[test]
    fn what_routers_counted_is_taken_once() {
        let mut seen = HashMap::new();
        let mut look = |routers: &[RouterRow]| since_last(&mut seen, routers, "pg-1").map(|l| l.count());
        assert_eq!(look(&[]), Some(0));
        assert_eq!(look(&[router("a", 1, 500)]), None, "from its start on");
        assert_eq!(look(&[router("a", 2, 510), router("b", 1, 7)]), Some(10));
        assert_eq!(look(&[router("a", 2, 510), router("b", 1, 7)]), None, "nothing new");
        assert_eq!(look(&[router("a", 3, 510), router("b", 2, 9)]), Some(2));
        assert_eq!(look(&[router("b", 3, 9)]), Some(0), "one is gone, the other one idle");
        assert_eq!(look(&[router("a", 4, 600), router("b", 3, 9)]), None, "it is back");
    }

    #[test]
    fn what_is_copied_at_the_same_time_shares_a_budget() {
        let budgets = super::super::Budgets::new(8 << 20);
        let server = |name: &str| -> Server {
            serde_json::from_value(serde_json::json!({
                "name": name, "host": "h", "port": 1, "class": "shared", "state": "active", "max_connections": 10,
                "labels": {}, "identity": null,
            }))
            .unwrap()
        };
        let (one, two, three) = (server("pg-1"), server("pg-2"), server("pg-3"));
        let (first, second) = (budgets.throttle([&one, &two]), budgets.throttle([&one, &three]));
        assert_eq!(first.budgets.len() + second.budgets.len(), 4);
        assert!(std::sync::Arc::ptr_eq(&first.budgets[0], &second.budgets[0]));
        assert_eq!(budgets.in_use().len(), 3);
        drop(second);
        assert_eq!(budgets.in_use().len(), 2);
        assert_eq!(budgets.throttle([&one, &one]).budgets.len(), 1, "a copy within a server");
    }
}
