//! Limits on how long a request, a transaction or a pause in one may take.
//!
//! The worker looks at its clients at intervals, so that a transaction costs no timer; a limit is kept to within an
//! eighth of it, or a second. Without a limit in the configuration nobody looks.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::config::RouterConfig;
use crate::session::client::{Client, End};
use crate::worker::Worker;

/// Shortest and longest time between two looks.
const LOOK_MIN: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_secs(1);
/// How long a server may take to answer to a cancel request, before its client's session ends.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client is doing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doing {
    /// When its transaction began.
    pub(crate) began: Instant,
    /// Whether the server owes it an answer.
    pub(crate) is_busy: bool,
    /// Since when that is so, or is not.
    pub(crate) since: Instant,
}

/// A limit that a client is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Query(Duration),
    Uncancelled(Duration),
    Transaction(Duration),
    IdleTransaction(Duration),
}

/// The limits of the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TimeLimits {
    query: Option<Duration>,
    transaction: Option<Duration>,
    idle_transaction: Option<Duration>,
}

impl TimeLimits {
    fn of(config: &RouterConfig) -> Self {
        Self {
            query: config.query_timeout,
            transaction: config.transaction_timeout,
            idle_transaction: config.idle_transaction_timeout,
        }
    }

    /// With a tenant's own limit for statements, if that is the stricter one.
    fn within(self, statement_timeout: Option<Duration>) -> Self {
        let query = [self.query, statement_timeout].into_iter().flatten().min();
        Self { query, ..self }
    }

    fn pause(&self) -> Option<Duration> {
        let all = [self.query, self.transaction, self.idle_transaction];
        let shortest = all.into_iter().flatten().min()?;
        Some((shortest / 8).clamp(LOOK_MIN, LOOK_MAX))
    }

    fn exceeded(&self, doing: Doing, now: Instant) -> Option<Over> {
        let since = now.saturating_duration_since(doing.since);
        let began = now.saturating_duration_since(doing.began);
        let over = |limit: Option<Duration>, time| limit.filter(|limit| time > *limit);
        if let Some(limit) = over(self.transaction, began) {
            return Some(Over::Transaction(limit));
        }
        if !doing.is_busy {
            return over(self.idle_transaction, since).map(Over::IdleTransaction);
        }
        let limit = over(self.query, since)?;
        Some(if since > limit + CANCEL_TIMEOUT { Over::Uncancelled(limit) } else { Over::Query(limit) })
    }
}

impl Worker {
    /// Looks after its clients' time limits, without end.
    pub(crate) async fn watch_time_limits(self: Rc<Self>) {
        loop {
            let limits = TimeLimits::of(&self.shared.config());
            // A reload may bring the first limit, or a tenant's quota.
            let pause = |worker: &Self| limits.within(worker.statement_timeout_min.get()).pause();
            tokio::time::sleep(pause(&self).unwrap_or(LOOK_MAX)).await;
            if pause(&self).is_some() {
                self.enforce(limits);
            }
        }
    }

    fn enforce(&self, limits: TimeLimits) {
        let now = Instant::now();
        for tenant in self.tenants.borrow().values() {
            let limits = limits.within(tenant.quota.get().statement_timeout);
            tenant.clients.borrow().values().for_each(|client| self.hold_to(client, limits, now));
        }
    }

    fn hold_to(&self, client: &Client, limits: TimeLimits, now: Instant) {
        match client.doing().and_then(|doing| limits.exceeded(doing, now)) {
            None => {}
            Some(Over::Query(limit)) => self.cancel_overdue(client, limit),
            Some(Over::Uncancelled(limit)) => client.end(End::QueryTimeout(limit)),
            Some(Over::Transaction(limit)) => client.end(End::TransactionTimeout(limit)),
            Some(Over::IdleTransaction(limit)) => client.end(End::IdleTransaction(limit)),
        }
    }

    /// Has the server end what a client runs; the answer to that tells the client why.
    fn cancel_overdue(&self, client: &Client, limit: Duration) {
        if client.overdue.get().is_some() {
            return;
        }
        if let Some(target) = client.running() {
            client.overdue.set(Some(limit));
            self.shared.metrics.cancels.sent.inc();
            self.spawn_to_end(crate::cancel::cancel(target, self.shared.config().connect_timeout));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_counts_from_its_own_beginning() {
        let second = Duration::from_secs(1);
        let limits = TimeLimits {
            query: Some(second),
            transaction: Some(10 * second),
            idle_transaction: Some(2 * second),
        };
        let began = Instant::now();
        let doing = |is_busy, since| Doing { began, is_busy, since: began + since };
        let at = |doing, time| limits.exceeded(doing, began + time);
        assert_eq!(at(doing(true, 3 * second), 4 * second), None);
        assert_eq!(at(doing(true, 3 * second), 5 * second), Some(Over::Query(second)));
        assert_eq!(at(doing(true, second), 9 * second), Some(Over::Uncancelled(second)));
        assert_eq!(at(doing(false, 3 * second), 5 * second), None);
        assert_eq!(at(doing(false, 3 * second), 6 * second), Some(Over::IdleTransaction(2 * second)));
        assert_eq!(at(doing(false, 10 * second), 11 * second), Some(Over::Transaction(10 * second)));
        assert_eq!(limits.pause(), Some(second / 8));
        assert_eq!(TimeLimits::default().pause(), None);
    }
}
