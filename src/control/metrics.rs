//! The control plane's metrics, by Prometheus's conventions. Labels are server names or closed sets.

use std::sync::Arc;
use std::time::Duration;

use catalog::metrics::{Described, Maker};
use catalog::tls::CertificateEnds;
use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use shard_map::{Selector, TenantState};
use tokio_util::sync::CancellationToken;

use crate::context::Context;

/// How often figures that stand in the catalog are read.
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);
/// Upper ends of the buckets for holds, in seconds.
const HOLDS: [f64; 9] = [0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0];

/// Metrics of one instance.
pub(crate) struct Metrics {
    pub(crate) rows_copied: IntCounter,
    pub(crate) bytes_copied: IntCounter,
    pub(crate) cutovers: IntCounterVec,
    pub(crate) hold_seconds: Histogram,
    pub(crate) wal_retained: IntGaugeVec,
    pub(crate) copy_rate: IntGaugeVec,
    pub(crate) requests: IntCounterVec,
    pub(crate) sizes: IntGaugeVec,
    pub(crate) stock: IntGaugeVec,
    pub(crate) draining: IntGaugeVec,
    pub(crate) map_findings: IntGaugeVec,
    lanes: IntGaugeVec,
    read: Read,
}

/// What is read now and then: it stands in the catalog or in certificates, or is what this instance is.
struct Read {
    leading: IntGauge,
    catalog_up: IntGauge,
    tenants: IntGaugeVec,
    operations: IntGaugeVec,
    routers: IntGauge,
    schema_tenants: IntGaugeVec,
    schema_skew: IntGauge,
    targets: IntGaugeVec,
    certificate_ends: CertificateEnds,
}

impl Read {
    fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            leading: make.gauge("tenantry_control_leading", "1 while this instance leads.")?,
            catalog_up: make.gauge("tenantry_control_catalog_up", "1 while the catalog answers.")?,
            tenants: make.gauges("tenantry_tenants", "Tenants.", &["server", "state"])?,
            operations: make.gauges(
                "tenantry_operations",
                "Operations on record; moves that somebody paused are `paused`, not `running`.",
                &["kind", "state"],
            )?,
            routers: make.gauge("tenantry_routers", "Routers that reported lately.")?,
            schema_tenants: make.gauges(
                "tenantry_schema_tenants",
                "Tenants by the version of their schema, `none` for those that no migration ran at.",
                &["version"],
            )?,
            schema_skew: make.gauge(
                "tenantry_schema_skew",
                "Versions between the oldest and the newest schema in the fleet; 0 when all are alike.",
            )?,
            targets: make.gauges(
                "tenantry_migration_tenants",
                "Tenants of the newest migration run: `done`, `failed`, `pending`, `gone`.",
                &["state"],
            )?,
            certificate_ends: CertificateEnds::register(
                "tenantry_control_certificate_expiry_timestamp_seconds",
                make,
            )?,
        })
    }
}

impl Metrics {
    /// Makes and registers them all.
    ///
    /// # Errors
    /// When there is one of them already.
    pub(crate) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            rows_copied: make.counter("tenantry_move_rows_copied_total", "Rows copied by moves.")?,
            bytes_copied: make.counter("tenantry_move_bytes_copied_total", "Bytes copied by moves.")?,
            cutovers: cutovers(make)?,
            hold_seconds: make.histogram(
                "tenantry_move_hold_duration_seconds",
                "Time from hold to release of cutovers, those taken back included.",
                &HOLDS,
            )?,
            wal_retained: make.gauges(
                "tenantry_move_wal_retained_bytes",
                "Most log that a server keeps for one move under way, at the leader's last look.",
                &["server"],
            )?,
            copy_rate: make.gauges(
                "tenantry_copy_bytes_per_second_max",
                "What moves, clones and dumps may copy now; 0 in the short pauses in which neighbours are measured; \
                 only while something is copied there.",
                &["server"],
            )?,
            requests: make.counters("tenantry_control_requests_total", "Requests to the API.", &["status"])?,
            sizes: make.gauges(
                "tenantry_control_tenant_sizes",
                "Tenants `near` and `over` the size that their quota allows, at the last look.",
                &["state"],
            )?,
            stock: make.gauges(
                "tenantry_control_stock",
                "Prepared databases that wait for a tenant.",
                &["server"],
            )?,
            draining: make.gauges(
                "tenantry_draining_tenants",
                "Tenants left on servers that drain, `pending`, `moving`, `busy`, `set_aside` or `not_movable`, at the \
                 leader's last look.",
                &["server", "standing"],
            )?,
            map_findings: make.gauges(
                "tenantry_control_map_findings",
                "Differences between the catalog and the servers at the leader's last look, by kind.",
                &["kind"],
            )?,
            lanes: make.gauges(
                "tenantry_migration_slots",
                "Tenants that the migration run under way allows itself at once there; 0 while it is paused.",
                &["server"],
            )?,
            read: Read::new(make)?,
        })
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
        self.read.schema_tenants.reset();
        let mut known: Vec<i64> = Vec::new();
        for version in versions {
            let label = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
            self.read.schema_tenants.with_label_values(&[&label]).inc();
            known.push(version.map_or(0, i64::from));
        }
        let (oldest, newest) = (known.iter().min().copied(), known.iter().max().copied());
        self.read.schema_skew.set(newest.unwrap_or(0) - oldest.unwrap_or(0));
    }
}

fn cutovers(make: &Maker<'_>) -> prometheus::Result<IntCounterVec> {
    let help = "Cutovers, `decided` or `taken_back`.";
    let cutovers = make.counters("tenantry_move_cutovers_total", help, &["outcome"])?;
    // From 0 on, so that the first one is an increase.
    for outcome in ["decided", "taken_back"] {
        cutovers.with_label_values(&[outcome]);
    }
    Ok(cutovers)
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
    Ok(make.made())
}

/// Keeps the figures up to date that stand in the catalog or in certificates, until `stop`.
pub(crate) async fn refresh(context: Arc<Context>, stop: CancellationToken) {
    loop {
        let refreshed = read(&context).await;
        context.metrics.read.catalog_up.set(i64::from(refreshed.is_ok()));
        context.metrics.read.leading.set(i64::from(context.term.borrow().is_some()));
        let ends = &context.metrics.read.certificate_ends;
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
    metrics.read.tenants.reset();
    let served = tenants.iter().filter(|row| row.tenant.state != TenantState::Deleted);
    metrics.set_schema_versions(served.map(|row| row.schema_version));
    for row in tenants {
        metrics
            .read
            .tenants
            .with_label_values(&[row.tenant.server.as_str(), row.tenant.state.as_str()])
            .inc();
    }
    metrics.read.operations.reset();
    for (kind, state, count) in operations {
        metrics.read.operations.with_label_values(&[kind.as_str(), state.as_str()]).set(count);
    }
    if let Some(run) = context.catalog.runs(None, 1).await?.first() {
        let progress = context.catalog.run_progress(run.id).await?;
        for (state, count) in progress.by_state() {
            metrics.read.targets.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
    metrics.read.routers.set(i64::try_from(routers.len()).unwrap_or(i64::MAX));
    Ok(())
}
