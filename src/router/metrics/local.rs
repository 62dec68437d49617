//! One worker's part of what is counted for each transaction, added to the whole before that is read.
//!
//! Counting on the path of a query in atomics that all workers share costs more the more workers there are. So a worker
//! counts for itself, and adds up once a second, before each scrape, and at its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use catalog::{LATENCY_BUCKETS, Latency, latency_bucket};
use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Histogram, IntCounter, IntGauge};

use crate::metrics::Metrics;

/// A gauge that several workers move.
pub(crate) struct LocalGauge {
    gauge: IntGauge,
    change: Cell<i64>,
}

impl LocalGauge {
    fn new(gauge: IntGauge) -> Self {
        Self { gauge, change: Cell::new(0) }
    }

    pub(crate) fn inc(&self) {
        self.change.set(self.change.get() + 1);
    }

    pub(crate) fn dec(&self) {
        self.change.set(self.change.get() - 1);
    }

    fn flush(&self) {
        let change = self.change.replace(0);
        if change != 0 {
            self.gauge.add(change);
        }
    }
}

/// What is counted for one server, looked up once a worker.
pub(crate) struct ServerMetrics {
    pub(crate) transactions: LocalIntCounter,
    pub(crate) duration: LocalHistogram,
    pub(crate) idle: LocalGauge,
    pub(crate) active: LocalGauge,
    pub(crate) connects_ok: IntCounter,
    pub(crate) connects_failed: IntCounter,
    pub(crate) up: IntGauge,
    pub(crate) budget_wait: Histogram,
    /// Times of transactions, but for those of tenants that are being copied: since the start, for the router's report.
    latency: Box<[Cell<u64>; LATENCY_BUCKETS]>,
}

impl ServerMetrics {
    fn new(metrics: &Metrics, name: &str) -> Self {
        let servers = &metrics.servers;
        Self {
            transactions: metrics.transactions.with_label_values(&[name]).local(),
            duration: metrics.transaction_duration.with_label_values(&[name]).local(),
            idle: LocalGauge::new(servers.connections.with_label_values(&[name, "idle"])),
            active: LocalGauge::new(servers.connections.with_label_values(&[name, "active"])),
            connects_ok: servers.connects.with_label_values(&[name, "ok"]),
            connects_failed: servers.connects.with_label_values(&[name, "failed"]),
            up: servers.up.with_label_values(&[name]),
            budget_wait: servers.budget_wait.with_label_values(&[name]),
            latency: Box::new([const { Cell::new(0) }; LATENCY_BUCKETS]),
        }
    }

    /// Counts a transaction of a tenant that is not being copied.
    pub(crate) fn count_latency(&self, micros: u64) {
        let bucket = &self.latency[usize::from(latency_bucket(micros))];
        bucket.set(bucket.get() + 1);
    }

    fn latency(&self) -> Latency {
        let mut latency = Latency::default();
        for (bucket, count) in (0..).zip(self.latency.iter()) {
            if count.get() > 0 {
                latency.add(bucket, count.get());
            }
        }
        latency
    }
}

/// One worker's part.
pub(crate) struct LocalMetrics {
    pub(crate) pool_hits: LocalIntCounter,
    pub(crate) bytes_in: LocalIntCounter,
    pub(crate) bytes_out: LocalIntCounter,
    servers: RefCell<HashMap<String, Rc<ServerMetrics>>>,
}

impl LocalMetrics {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self {
            pool_hits: metrics.pool_hits.local(),
            bytes_in: metrics.bytes_in.local(),
            bytes_out: metrics.bytes_out.local(),
            servers: RefCell::default(),
        }
    }

    /// The metrics of one server.
    pub(crate) fn server(&self, metrics: &Metrics, name: &str) -> Rc<ServerMetrics> {
        let mut servers = self.servers.borrow_mut();
        if let Some(known) = servers.get(name) {
            return known.clone();
        }
        let new = Rc::new(ServerMetrics::new(metrics, name));
        servers.insert(name.to_owned(), new.clone());
        new
    }

    /// Times of transactions on a server; none before it was used.
    pub(crate) fn latency(&self, server: &str) -> Option<Latency> {
        self.servers.borrow().get(server).map(|server| server.latency())
    }

    /// Adds what was counted to the whole.
    pub(crate) fn flush(&self) {
        for counter in [&self.pool_hits, &self.bytes_in, &self.bytes_out] {
            counter.flush();
        }
        for server in self.servers.borrow().values() {
            server.transactions.flush();
            server.duration.flush();
            server.idle.flush();
            server.active.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use catalog::metrics::Maker;

    use super::*;

    #[test]
    fn what_workers_count_adds_up_when_it_is_flushed() {
        let metrics = Metrics::new(&Maker::new(&prometheus::Registry::new())).unwrap();
        let workers = [LocalMetrics::new(&metrics), LocalMetrics::new(&metrics)];
        for worker in &workers {
            let server = worker.server(&metrics, "pg-1");
            server.transactions.inc();
            server.duration.observe(0.5);
            server.active.inc();
            worker.bytes_in.inc_by(10);
            worker.flush();
            worker.flush();
        }
        assert_eq!(metrics.transactions.with_label_values(&["pg-1"]).get(), 2);
        assert_eq!(metrics.transaction_duration.with_label_values(&["pg-1"]).get_sample_count(), 2);
        assert_eq!(metrics.servers.connections.with_label_values(&["pg-1", "active"]).get(), 2);
        assert_eq!(metrics.bytes_in.get(), 20);
        // A connection that one worker opened closes there.
        workers[1].server(&metrics, "pg-1").active.dec();
        workers[1].flush();
        assert_eq!(metrics.servers.connections.with_label_values(&["pg-1", "active"]).get(), 1);
    }
}
