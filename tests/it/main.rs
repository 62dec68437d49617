//! What users rely on, tried on whole fleets of real Postgres servers. One binary: a file for each area of behaviour.
//!
//! `harness` has the fleets. Most tests share one and bring tenants of their own; those that kill or stop something
//! have a fleet to themselves.

#![allow(clippy::unwrap_used)]

mod harness;

mod admin;
mod api;
mod audit;
mod book;
mod budgets;
mod cancels;
mod catalog_failover;
mod config;
mod copying;
mod corners;
#[cfg(feature = "failpoints")]
mod crashes;
mod cut_off;
mod dashboards;
mod demo;
mod dev;
mod doctor;
mod drain;
mod errors;
#[cfg(feature = "failpoints")]
mod faults;
mod frameworks;
#[cfg(feature = "failpoints")]
mod frozen;
mod holds;
mod hostile;
mod instances;
mod last_dumps;
mod lifecycle;
#[cfg(feature = "failpoints")]
mod lifecycle_crashes;
mod limits;
mod logins;
mod logs;
mod lost_registry;
mod lost_server;
#[cfg(feature = "failpoints")]
mod map_crashes;
mod map_damage;
mod map_files;
mod metrics;
mod migrations;
mod migrations_disturbed;
mod migrations_refused;
mod moves;
#[cfg(feature = "failpoints")]
mod moves_copy;
mod moves_refused;
mod moves_reverse;
#[cfg(feature = "failpoints")]
mod moves_reverse_crashes;
mod moves_rights;
mod moves_schema;
#[cfg(feature = "failpoints")]
mod moves_verify;
mod openings;
mod outage;
#[cfg(feature = "failpoints")]
mod pace;
mod page_browser;
mod page_crowd;
mod page_migrations;
#[cfg(feature = "failpoints")]
mod page_moves;
mod page_served;
mod page_tenants;
mod page_trouble;
mod pooling;
mod prepared;
mod provisioning;
mod quotas;
mod recovery;
mod reload;
mod restart;
mod runbooks;
mod server_failover;
mod servers;
mod sessions;
mod shared_roles;
#[cfg(feature = "failpoints")]
mod sleepwalker;
mod stock;
#[cfg(feature = "failpoints")]
mod stock_crashes;
#[cfg(feature = "failpoints")]
mod stragglers;
mod systemd;
mod tls;
mod tls_fleet;
mod top;
mod torture;
mod two_controllers;
mod users;
mod versions;

fn main() -> std::process::ExitCode {
    // What the tests' own HTTP clients are built with.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut areas = vec![
        provisioning::trials(),
        quotas::trials(),
        stock::trials(),
        lifecycle::trials(),
        last_dumps::trials(),
        limits::trials(),
        logs::trials(),
        logins::trials(),
        server_failover::trials(),
        servers::trials(),
        users::trials(),
        prepared::trials(),
        sessions::trials(),
        shared_roles::trials(),
        tls::trials(),
        tls_fleet::trials(),
        top::trials(),
        errors::trials(),
        corners::trials(),
        frameworks::trials(),
        holds::trials(),
        hostile::trials(),
        instances::trials(),
        cancels::trials(),
        copying::trials(),
        pooling::trials(),
        budgets::trials(),
        openings::trials(),
        outage::trials(),
        migrations::trials(),
        migrations_disturbed::trials(),
        migrations_refused::trials(),
        moves::trials(),
        moves_refused::trials(),
        moves_reverse::trials(),
        moves_rights::trials(),
        moves_schema::trials(),
        versions::trials(),
        recovery::trials(),
        catalog_failover::trials(),
        cut_off::trials(),
        two_controllers::trials(),
        torture::trials(),
        map_damage::trials(),
        lost_registry::trials(),
        lost_server::trials(),
        drain::trials(),
        map_files::trials(),
        reload::trials(),
        restart::trials(),
        systemd::trials(),
        metrics::trials(),
        dashboards::trials(),
        book::trials(),
        runbooks::trials(),
        admin::trials(),
        api::trials(),
        audit::trials(),
        config::trials(),
        dev::trials(),
        doctor::trials(),
        demo::trials(),
    ];
    areas.extend(of_the_page());
    areas.extend(with_failpoints());
    harness::run(areas)
}

/// Those of the page for operators.
fn of_the_page() -> Vec<Vec<harness::Test>> {
    vec![
        page_browser::trials(),
        page_crowd::trials(),
        page_migrations::trials(),
        page_served::trials(),
        page_tenants::trials(),
        page_trouble::trials(),
    ]
}

/// Those that need points at which the control plane dies or stands.
#[cfg(feature = "failpoints")]
fn with_failpoints() -> Vec<Vec<harness::Test>> {
    vec![
        lifecycle_crashes::trials(),
        moves_copy::trials(),
        moves_verify::trials(),
        moves_reverse_crashes::trials(),
        pace::trials(),
        page_moves::trials(),
        sleepwalker::trials(),
        map_crashes::trials(),
        crashes::trials(),
        faults::trials(),
        frozen::trials(),
        stock_crashes::trials(),
        stragglers::trials(),
    ]
}

/// None, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
fn with_failpoints() -> Vec<Vec<harness::Test>> {
    Vec::new()
}
