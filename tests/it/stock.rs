//! Tenants that are made from prepared databases: as good as any other, and never two from one.

use serde_json::Value;

use crate::harness::{Fleet, Sql as _, connect, trials, until};
use crate::migrations::Files;

trials! {
    own a_prepared_database_becomes_a_tenant_like_any_other,
}

pub(crate) const SHARED: [&str; 2] = ["pg-1", "pg-2"];

pub(crate) async fn keep(fleet: &Fleet, count: u32) {
    let path = fleet.path().join("policy.toml");
    std::fs::write(&path, format!("[placement]\nstock_per_server = {count}\n")).unwrap();
    fleet.cli(&["map", "apply", path.to_str().unwrap()]).await.ok();
}

/// The oids of a server's prepared databases that are ready, once there are so many, all with this table, and nothing
/// half made is left.
pub(crate) async fn ready(fleet: &Fleet, server: &str, count: usize, table: Option<&str>) -> Vec<String> {
    until("the stock to be filled", async || {
        let registry = fleet.direct(server, "tenantry").await;
        let databases =
            registry.column("SELECT datname::text FROM pg_database WHERE datname LIKE '%\\_\\_stock'").await;
        let roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE '%\\_\\_stock\\_\\_%'";
        let unready = "SELECT count(*) FROM stock WHERE state <> 'ready'";
        if databases.len() != count
            || registry.number(roles).await != 3 * count as i64
            || registry.number(unready).await != 0
        {
            return None;
        }
        for (database, table) in databases.iter().zip(table.into_iter().cycle()) {
            let has = format!("SELECT count(*) FROM pg_class WHERE relname = '{table}'");
            if fleet.direct(server, database).await.number(&has).await != 1 {
                return None;
            }
        }
        let oids = "SELECT d.oid::text FROM stock s JOIN pg_database d ON d.datname = s.name";
        Some(registry.column(oids).await)
    })
    .await
}

pub(crate) async fn oid(fleet: &Fleet, server: &str, database: &str) -> String {
    let sql = format!("SELECT oid::text FROM pg_database WHERE datname = '{database}'");
    fleet.direct(server, "tenantry").await.column(&sql).await.remove(0)
}

async fn a_prepared_database_becomes_a_tenant_like_any_other(fleet: &mut Fleet) {
    let files = Files::new(&[("V1__first.sql", "CREATE TABLE first (value int)")]);
    fleet.cli(&["migrate", "run", "--dir", files.path()]).await.ok();
    keep(fleet, 1).await;
    let mut prepared = Vec::new();
    for server in SHARED {
        prepared.extend(ready(fleet, server, 1, Some("first")).await);
    }
    assert_eq!(fleet.cli(&["map", "verify"]).await.ok(), Value::Array(Vec::new()), "they are on record");

    let shown = fleet.create("ready-made", &[]).await;
    assert_eq!((&shown["state"], &shown["schema_version"]), (&"open".into(), &1.into()), "{shown}");
    let server = shown["server"].as_str().unwrap();
    assert!(prepared.contains(&oid(fleet, server, "ready-made").await), "it was not claimed");
    fleet
        .connect("ready-made")
        .await
        .run("INSERT INTO first VALUES (7); CREATE TABLE later AS SELECT 8 AS value")
        .await;
    for (access, may_write) in [("app", true), ("readonly", false)] {
        let user = fleet.user(&format!("stock-{access}"), "ready-made", &["--access", access]).await;
        let client = connect(&user).await.unwrap();
        assert_eq!(client.number("SELECT sum(value) FROM (TABLE first UNION ALL TABLE later) t").await, 15);
        match may_write {
            true => client.run("UPDATE first SET value = 7").await,
            false => assert_eq!(client.fails("UPDATE first SET value = 7").await, "42501"),
        }
    }
    let taken = fleet.cli(&["tenant", "create", "ready-made", "--wait"]).await.error(4);
    assert!(taken.contains("exists"), "{taken}");

    // What has an older schema is brought to the new one before anybody gets it.
    for server in SHARED {
        ready(fleet, server, 1, Some("first")).await;
    }
    files.add("V2__second.sql", "CREATE TABLE second ()");
    fleet.cli(&["migrate", "run", "--dir", files.path()]).await.ok();
    let shown = fleet.create("newer", &[]).await;
    assert_eq!(shown["schema_version"], 2, "{shown}");
    fleet.connect("newer").await.run("TABLE second").await;
    for server in SHARED {
        ready(fleet, server, 1, Some("second")).await;
    }
    keep(fleet, 0).await;
    for server in SHARED {
        ready(fleet, server, 0, None).await;
    }
}
