//! The control plane's metrics, by Prometheus's conventions. Labels are server names or closed sets.

use std::sync::Arc;
use std::time::Duration;

use catalog::tls::CertificateEnds;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use shard_map::{Selector, TenantState};
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How often figures that stand in the catalog are read.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// Metrics of one instance.
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) rows_copied: IntCounter,
    pub(crate) bytes_copied: IntCounter,
    pub(crate) cutovers: IntCounterVec,
    pub(crate) hold_seconds: Histogram,
    pub(crate) requests: IntCounterVec,
    pub(crate) sizes: IntGaugeVec,
    pub(crate) stock: IntGaugeVec,
    pub(crate) draining: IntGaugeVec,
    pub(crate) wal_retained: IntGaugeVec,
    pub(crate) copy_rate: IntGaugeVec,
    leading: IntGauge,
    catalog_up: IntGauge,
    tenants: IntGaugeVec,
    operations: IntGaugeVec,
    routers: IntGauge,
    pub(crate) map_findings: IntGaugeVec,
    schema_tenants: IntGaugeVec,
    schema_skew: IntGauge,
    lanes: IntGaugeVec,
    targets: IntGaugeVec,
    certificate_ends: CertificateEnds,
}

impl Metrics {
    /// Makes and registers them all.
    ///
    /// # Errors
    /// When `registry` has one of them already.
    pub(crate) fn new(registry: Registry) -> prometheus::Result<Self> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauges =
            |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            rows_copied: IntCounter::new("tenantry_move_rows_copied_total", "Rows copied by moves.")?,
            bytes_copied: IntCounter::new("tenantry_move_bytes_copied_total", "Bytes copied by moves.")?,
            cutovers: counters(
                "tenantry_move_cutovers_total",
                "Cutovers of moves, by outcome.",
                &["outcome"],
            )?,
            hold_seconds: Histogram::with_opts(
                HistogramOpts::new(
                    "tenantry_move_hold_duration_seconds",
                    "Time from hold to release of cutovers, those taken back included.",
                )
                .buckets(vec![0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0]),
            )?,
            requests: counters(
                "tenantry_control_requests_total",
                "Requests to the API, by status.",
                &["status"],
            )?,
            sizes: gauges(
                "tenantry_control_tenant_sizes",
                "Tenants near and over the size that their quota allows, at the last look.",
                &["state"],
            )?,
            stock: stock()?,
            draining: draining()?,
            wal_retained: wal_retained()?,
            copy_rate: copy_rate()?,
            leading: IntGauge::new("tenantry_control_leading", "1 while this instance leads.")?,
            catalog_up: IntGauge::new("tenantry_control_catalog_up", "1 while the catalog answers.")?,
            tenants: gauges("tenantry_tenants", "Tenants, by server and state.", &["server", "state"])?,
            operations: gauges("tenantry_operations", "Operations, by kind and state.", &["kind", "state"])?,
            routers: IntGauge::new("tenantry_routers", "Routers that reported lately.")?,
            map_findings: gauges(
                "tenantry_control_map_findings",
                "Differences between the catalog and the servers at the last look, by kind.",
                &["kind"],
            )?,
            schema_tenants: gauges(
                "tenantry_schema_tenants",
                "Tenants by the version of their schema; `none` for those that no migration ran at.",
                &["version"],
            )?,
            schema_skew: IntGauge::new(
                "tenantry_schema_skew",
                "Versions between the oldest and the newest schema in the fleet; 0 when all are alike.",
            )?,
            lanes: gauges(
                "tenantry_migration_slots",
                "Tenants that the run under way may migrate at once, by server; 0 while it is paused there.",
                &["server"],
            )?,
            targets: gauges(
                "tenantry_migration_tenants",
                "Tenants of the newest migration run, by how far they are.",
                &["state"],
            )?,
            certificate_ends: certificate_ends(&registry)?,
            registry,
        };
        metrics.register()?;
        Ok(metrics)
    }

    fn register(&self) -> prometheus::Result<()> {
        let registry = &self.registry;
        registry.register(Box::new(self.rows_copied.clone()))?;
        registry.register(Box::new(self.bytes_copied.clone()))?;
        registry.register(Box::new(self.cutovers.clone()))?;
        registry.register(Box::new(self.hold_seconds.clone()))?;
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.sizes.clone()))?;
        registry.register(Box::new(self.stock.clone()))?;
        registry.register(Box::new(self.draining.clone()))?;
        registry.register(Box::new(self.wal_retained.clone()))?;
        registry.register(Box::new(self.copy_rate.clone()))?;
        registry.register(Box::new(self.leading.clone()))?;
        registry.register(Box::new(self.catalog_up.clone()))?;
        registry.register(Box::new(self.tenants.clone()))?;
        registry.register(Box::new(self.operations.clone()))?;
        registry.register(Box::new(self.map_findings.clone()))?;
        registry.register(Box::new(self.schema_tenants.clone()))?;
        registry.register(Box::new(self.schema_skew.clone()))?;
        registry.register(Box::new(self.lanes.clone()))?;
        registry.register(Box::new(self.targets.clone()))?;
        registry.register(Box::new(self.routers.clone()))
    }

    /// How many tenants a run may migrate at once on a server.
    pub(crate) fn set_lane(&self, server: &str, slots: usize) {
        self.lanes.with_label_values(&[server]).set(i64::try_from(slots).unwrap_or(i64::MAX));
    }

    /// No run is at this server any more.
    pub(crate) fn forget_lane(&self, server: &str) {
        // An error says that it was never there.
        drop(self.lanes.remove_label_values(&[server]));
    }

    /// Versions of all tenants' schemas.
    fn set_schema_versions(&self, versions: impl Iterator<Item = Option<i32>>) {
        self.schema_tenants.reset();
        let mut known: Vec<i64> = Vec::new();
        for version in versions {
            let label = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
            self.schema_tenants.with_label_values(&[&label]).inc();
            known.push(version.map_or(0, i64::from));
        }
        let (oldest, newest) = (known.iter().min().copied(), known.iter().max().copied());
        self.schema_skew.set(newest.unwrap_or(0) - oldest.unwrap_or(0));
    }

    /// All metrics in Prometheus's text format.
    pub(crate) fn encode(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

fn certificate_ends(registry: &Registry) -> prometheus::Result<CertificateEnds> {
    CertificateEnds::register("tenantry_control_certificate_expiry_timestamp_seconds", registry)
}

fn stock() -> prometheus::Result<IntGaugeVec> {
    let help = "Prepared databases that wait for a tenant, by server.";
    IntGaugeVec::new(Opts::new("tenantry_control_stock", help), &["server"])
}

fn draining() -> prometheus::Result<IntGaugeVec> {
    let help = "Tenants left on servers that drain, by server and by how they stand to that.";
    IntGaugeVec::new(Opts::new("tenantry_draining_tenants", help), &["server", "standing"])
}

fn wal_retained() -> prometheus::Result<IntGaugeVec> {
    let help = "Most log that a server keeps for one move under way, by server.";
    IntGaugeVec::new(Opts::new("tenantry_move_wal_retained_bytes", help), &["server"])
}

fn copy_rate() -> prometheus::Result<IntGaugeVec> {
    let help = "Bytes a second that may be copied from or to a server now, by server; only where something is copied.";
    IntGaugeVec::new(Opts::new("tenantry_copy_bytes_per_second_max", help), &["server"])
}

/// Keeps the figures up to date that stand in the catalog or in certificates, until `stop`.
pub(crate) async fn refresh(context: Arc<Context>, stop: CancellationToken) {
    loop {
        let refreshed = read(&context).await;
        context.metrics.catalog_up.set(i64::from(refreshed.is_ok()));
        context.metrics.leading.set(i64::from(context.term.borrow().is_some()));
        let ends = &context.metrics.certificate_ends;
        ends.set("clients", context.api_tls.as_ref().and_then(|tls| tls.end()));
        ends.set("servers", context.config.server_tls().certificate_end());
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(REFRESH_INTERVAL) => {}
        }
    }
}

async fn read(context: &Context) -> catalog::Result<()> {
    let metrics = &context.metrics;
    let tenants = context.catalog.tenants(None, &Selector::default()).await?;
    let operations = context.catalog.count_operations().await?;
    let routers = context.catalog.live_routers(context.config.router_timeout).await?;
    context.doctor.remember(context.catalog.servers().await?);
    // What is no longer there must not keep its last figure.
    metrics.tenants.reset();
    let served = tenants.iter().filter(|row| row.tenant.state != TenantState::Deleted);
    metrics.set_schema_versions(served.map(|row| row.schema_version));
    for row in tenants {
        metrics.tenants.with_label_values(&[row.tenant.server.as_str(), row.tenant.state.as_str()]).inc();
    }
    metrics.operations.reset();
    for (kind, state, count) in operations {
        metrics.operations.with_label_values(&[kind.as_str(), state.as_str()]).set(count);
    }
    if let Some(run) = context.catalog.runs(None, 1).await?.first() {
        let progress = context.catalog.run_progress(run.id).await?;
        for (state, count) in progress.by_state() {
            metrics.targets.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    metrics.routers.set(i64::try_from(routers.len()).unwrap_or(i64::MAX));
    Ok(())
}
