//! What the router counts. Labels are closed sets or names of servers.

pub(crate) mod local;

use catalog::metrics::{Described, Maker};
use catalog::tls::CertificateEnds;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};

use crate::busiest;

use crate::error::ClientError;

/// The SQLSTATEs that are counted by themselves; the rest by class, or as "other".
const SQLSTATES: [&str; 40] = [
    "08006", "08007", "08P01", "0A000", "21000", "22001", "22003", "22007", "22012", "22023", "22P02",
    "23502", "23503", "23505", "23514", "25006", "25P02", "25P03", "26000", "28000", "28P01", "34000",
    "3D000", "40001", "40P01", "42501", "42601", "42703", "42883", "42P01", "42P05", "42P07", "53100",
    "53300", "54000", "55006", "55P03", "57014", "57P01", "57P03",
];
const CLASSES: [&str; 14] =
    ["08", "0A", "22", "23", "25", "28", "3D", "40", "42", "53", "54", "55", "57", "XX"];
/// Upper ends of the buckets for times, in seconds.
const TIMES: [f64; 17] =
    [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// All metrics of a router.
pub(crate) struct Metrics {
    pub(crate) clients: IntGauge,
    pub(crate) clients_queued: IntGauge,
    pub(crate) logins: IntCounterVec,
    pub(crate) transactions: IntCounterVec,
    pub(crate) transaction_duration: HistogramVec,
    pub(crate) queue_wait: Histogram,
    servers: Servers,
    pub(crate) pool_hits: IntCounter,
    pub(crate) pool_misses: IntCounter,
    errors: IntCounterVec,
    limits: IntCounterVec,
    pub(crate) hold_duration: Histogram,
    pub(crate) holds: IntGauge,
    pub(crate) pins: IntCounterVec,
    pub(crate) map_version: IntGauge,
    pub(crate) bytes_in: IntCounter,
    pub(crate) bytes_out: IntCounter,
    pub(crate) cancels: CancelMetrics,
    pub(crate) certificate_ends: CertificateEnds,
}

/// Cancel requests.
pub(crate) struct CancelMetrics {
    pub(crate) sent: IntCounter,
    pub(crate) passed_on: IntCounterVec,
    pub(crate) refused: IntCounterVec,
}

impl CancelMetrics {
    fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            sent: make.counter("tenantry_router_cancels_total", "Cancel requests passed on to a server.")?,
            passed_on: make.counters(
                "tenantry_router_cancels_passed_on_total",
                "Cancel requests passed on to the router of their session, `ok` or `failed`.",
                &["outcome"],
            )?,
            refused: make.counters(
                "tenantry_router_cancels_refused_total",
                "Cancel requests with another key than their session's (`key`), or for a session that is nowhere (`nobody`): a \
                 late one is nothing unusual, many are somebody who guesses.",
                &["reason"],
            )?,
        })
    }
}

/// What is counted of connections to servers.
struct Servers {
    connections: IntGaugeVec,
    connects: IntCounterVec,
    up: IntGaugeVec,
    budget_wait: HistogramVec,
}

impl Servers {
    fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let budget_wait = (
            "tenantry_router_budget_wait_seconds",
            "How long tenants waited for one of a server's connections, if they did.",
        );
        Ok(Self {
            connections: make.gauges(
                "tenantry_router_server_connections",
                "Connections to servers, `active` or `idle`.",
                &["server", "state"],
            )?,
            connects: make.counters(
                "tenantry_router_server_connects_total",
                "Attempts to connect to a server.",
                &["server", "outcome"],
            )?,
            up: make.gauges(
                "tenantry_router_server_up",
                "0 while a server takes no logins: it does not answer, or is starting up.",
                &["server"],
            )?,
            budget_wait: make.histograms(budget_wait, &["server"], &TIMES)?,
        })
    }
}

/// Counters of bytes: from clients, and to clients.
fn bytes(make: &Maker<'_>) -> prometheus::Result<[IntCounter; 2]> {
    let help = "Bytes from clients (`in`) and to clients (`out`).";
    let bytes = make.counters("tenantry_router_bytes_total", help, &["direction"])?;
    Ok(["in", "out"].map(|direction| bytes.with_label_values(&[direction])))
}

impl Metrics {
    pub(crate) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        let [bytes_in, bytes_out] = bytes(make)?;
        let duration = ("tenantry_router_transaction_duration_seconds", "Time of transactions.");
        Ok(Self {
            clients: make.gauge("tenantry_router_clients", "Clients connected.")?,
            clients_queued: make
                .gauge("tenantry_router_clients_queued", "Clients that wait for a server connection.")?,
            logins: make.counters(
                "tenantry_router_logins_total",
                "Logins: `ok`, `wrong_password`, `refused`, `tls_failed`, `abandoned` by the client, `ended` to make room \
                 for others.",
                &["outcome"],
            )?,
            transactions: make.counters("tenantry_router_transactions_total", "Transactions.", &["server"])?,
            transaction_duration: make.histograms(duration, &["server"], &TIMES)?,
            queue_wait: make.histogram(
                "tenantry_router_queue_wait_seconds",
                "How long transactions waited for a server connection, if they did.",
                &TIMES,
            )?,
            servers: Servers::new(make)?,
            pool_hits: make.counter(
                "tenantry_router_pool_hits_total",
                "Transactions that found a server connection at once.",
            )?,
            pool_misses: make.counter(
                "tenantry_router_pool_misses_total",
                "Transactions that waited for a server connection.",
            )?,
            errors: make.counters(
                "tenantry_router_errors_total",
                "Errors that clients got, by SQLSTATE, its class (two characters), or `other`.",
                &["sqlstate"],
            )?,
            limits: make.counters(
                "tenantry_router_limits_total",
                "Times that a limit was hit, by its key in the configuration.",
                &["limit"],
            )?,
            hold_duration: make.histogram(
                "tenantry_router_hold_duration_seconds",
                "How long holds lasted.",
                &TIMES,
            )?,
            holds: make.gauge("tenantry_router_holds", "Tenants with clients here that are held.")?,
            pins: make.counters(
                "tenantry_router_pins_total",
                "Times that a client began to need its server connection for itself.",
                &["reason"],
            )?,
            map_version: make.gauge("tenantry_router_map_version", "Version of the shard map served by.")?,
            bytes_in,
            bytes_out,
            cancels: CancelMetrics::new(make)?,
            certificate_ends: CertificateEnds::register(
                "tenantry_router_certificate_expiry_timestamp_seconds",
                make,
            )?,
        })
    }

    /// Counts an error that a client got.
    pub(crate) fn error(&self, sqlstate: &str) {
        let label = SQLSTATES
            .iter()
            .find(|known| **known == sqlstate)
            .or_else(|| CLASSES.iter().find(|class| sqlstate.starts_with(**class)))
            .unwrap_or(&"other");
        self.errors.with_label_values(&[label]).inc();
    }

    /// Counts a refusal of the router's own, and the limit behind it.
    pub(crate) fn refused(&self, error: &ClientError) {
        self.error(error.sqlstate());
        if let Some(limit) = error.limit() {
            self.limit(limit);
        }
    }

    /// Counts that a limit was hit; `limit` is its key in the configuration.
    pub(crate) fn limit(&self, limit: &'static str) {
        self.limits.with_label_values(&[limit]).inc();
    }
}

/// What all of them tell.
///
/// # Errors
/// When two have one name.
pub fn metrics() -> prometheus::Result<Vec<Described>> {
    let registry = Registry::new();
    let make = Maker::new(&registry);
    catalog::timings(&make)?;
    Metrics::new(&make)?;
    let mut all: Vec<Described> = make.made().into_iter().chain(busiest::metrics()).collect();
    all.sort();
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_stay_a_closed_set() {
        let registry = Registry::new();
        let metrics = Metrics::new(&Maker::new(&registry)).unwrap();
        for state in ["40001", "40999", "ZZ000", "", "evil\n"] {
            metrics.error(state);
        }
        let families = registry.gather();
        let errors = families.iter().find(|f| f.name() == "tenantry_router_errors_total").unwrap();
        let labels: Vec<_> =
            errors.get_metric().iter().map(|m| m.get_label()[0].value().to_owned()).collect();
        assert_eq!(labels, ["40", "40001", "other"]);
    }
}
