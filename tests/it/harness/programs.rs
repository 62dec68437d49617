//! Postgres's own programs as clients: psql and pgbench.

use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::cli::{Output, command, finish};
use super::fleet::Fleet;
use super::sql::{Sql as _, connect_url};

/// Where a program is: in the folder that the environment names, else the newest installed, else on the PATH.
pub(super) fn find(program: &str) -> PathBuf {
    if let Some(bin) = std::env::var_os("TENANTRY_PG_BIN").filter(|bin| !bin.is_empty()) {
        return PathBuf::from(bin).join(program);
    }
    let entries = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin").join(program))).filter(|(_, path)| path.is_file())
        })
        .collect();
    found.sort();
    found.pop().map_or_else(|| PathBuf::from(program), |(_, path)| path)
}

/// A program that is to connect to a tenant through the router.
fn through_router(fleet: &Fleet, program: &str, tenant: &str) -> tokio::process::Command {
    let mut command = command(find(program), &[]);
    command
        .env("PGHOST", fleet.variable("TENANTRY_ROUTER_HOST"))
        .env("PGPORT", fleet.variable("TENANTRY_ROUTER_PORT"))
        .env("PGUSER", fleet.variable("TENANTRY_USER"))
        .env("PGPASSWORD", fleet.variable("TENANTRY_PASSWORD"))
        .env("PGDATABASE", tenant);
    command
}

/// psql with libpq's own variables beside a login.
pub(crate) async fn psql(config: &Config, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let Host::Tcp(host) = &config.get_hosts()[0] else { panic!("a TCP host") };
    let mut command = command(find("psql"), &[]);
    command
        .env("PGHOST", host)
        .env("PGPORT", config.get_ports()[0].to_string())
        .env("PGUSER", config.get_user().unwrap())
        .env("PGPASSWORD", String::from_utf8_lossy(config.get_password().unwrap()).into_owned())
        .env("PGDATABASE", config.get_dbname().unwrap())
        .envs(variables.iter().copied());
    finish(command.arg("-X").args(args), None).await
}

/// Makes pgbench's tables.
pub(crate) async fn pgbench_initialize(fleet: &Fleet, tenant: &str, scale: &str) {
    let mut command = through_router(fleet, "pgbench", tenant);
    finish(command.args(["-i", "-q", "-s", scale]), None).await.exits(0);
}

/// A run of pgbench as a whole.
pub(crate) async fn pgbench(fleet: &Fleet, tenant: &str, args: &[&str]) -> Output {
    finish(through_router(fleet, "pgbench", tenant).args(args), None).await
}

/// The catalog as a backup has it.
pub(crate) async fn back_up_catalog(fleet: &Fleet) -> String {
    let url = fleet.variable("TENANTRY_CATALOG_URL");
    finish(command(find("pg_dump"), &[]).arg(url), None).await.exits(0).stdout
}

/// Puts a backup of the catalog in its place.
pub(crate) async fn restore_catalog(fleet: &Fleet, backup: &str) {
    let url = fleet.variable("TENANTRY_CATALOG_URL");
    let admin = connect_url(url, "postgres").await;
    admin.run("DROP DATABASE tenantry_catalog WITH (FORCE)").await;
    admin.run("CREATE DATABASE tenantry_catalog").await;
    // All or nothing, and before anybody else makes tables there.
    let args = ["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", url];
    finish(command(find("psql"), &[]).args(args), Some(backup)).await.exits(0);
}

/// The schema of a database past the router, as `pg_dump` writes it, without what a move puts there.
pub(crate) async fn dump_schema(fleet: &Fleet, server: &str, database: &str) -> String {
    let url = fleet.server_url(server);
    let url = format!("{}/{database}", url.rsplit_once('/').unwrap().0);
    let args =
        ["--schema-only", "--exclude-schema=tenantry", "--no-publications", "--no-subscriptions", &url];
    let dump = finish(command(find("pg_dump"), &[]).args(args), None).await.exits(0).stdout;
    // Newer versions write a random key around a dump.
    let lines = dump.lines().filter(|line| !line.contains("restrict ") && !line.contains("EVENT TRIGGER"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// A dump in `pg_dump`'s custom format as SQL.
pub(crate) async fn restored(dump: &std::path::Path) -> String {
    finish(command(find("pg_restore"), &[]).args(["-f", "-"]).arg(dump), None).await.exits(0).stdout
}
