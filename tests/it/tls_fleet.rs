//! A fleet whose catalog and servers take nobody without TLS, and whose parts look at each other's certificates.

use tokio_postgres::Client;

use crate::harness::tls::{Authority, Certificate, Files};
use crate::harness::{Fleet, Sql as _, connect, connect_url, trials, until};
use crate::migrations;
use crate::moves::move_to;
use crate::tls::write_file;

trials! {
    own a_fleet_works_where_nobody_is_taken_without_tls,
}

/// Lets a server show this certificate, and take none but these without TLS; returns its data directory.
async fn give_tls(admin: &Client, shown: &Certificate, ca: &str, rules: &str) -> String {
    for (file, text) in [("server.crt", shown.pem.as_str()), ("server.key", &shown.key), ("ca.crt", ca)] {
        write_file(admin, file, text).await;
    }
    let file = admin.column("SHOW hba_file").await.remove(0);
    let before = admin.column("SELECT pg_read_file(current_setting('hba_file'))").await.remove(0);
    write_file(admin, &file, &format!("{rules}\n{before}").replace('\t', " ")).await;
    admin.run("ALTER SYSTEM SET ssl = on").await;
    admin.run("SELECT pg_reload_conf()").await;
    until("the server to do TLS", async || {
        let rule = "SELECT count(*) FROM pg_hba_file_rules WHERE type = 'hostnossl' AND error IS NULL";
        let read = admin.number(rule).await > 0;
        (read && admin.column("SHOW ssl").await == ["on"]).then_some(())
    })
    .await;
    admin.column("SHOW data_directory").await.remove(0)
}

/// Has both roles started again by their configurations as they are now.
async fn restart(fleet: &Fleet) {
    for role in ["control", "router"] {
        let killed = fleet.process(role);
        fleet.kill_process(role);
        until("dev to start it again", async || fleet.process(role).filter(|new| Some(*new) != killed)).await;
    }
    until("both to serve again", async || (fleet.cli(&["doctor"]).await.status == 0).then_some(())).await;
}

async fn a_fleet_works_where_nobody_is_taken_without_tls(fleet: &mut Fleet) {
    let (files, authority) = (Files::of(fleet, "fleet"), Authority::new());
    let shown = authority.issue("server", &["127.0.0.1"]);
    let ca = files.write("ca.crt", &authority.pem()).display().to_string();
    let bad = files.write("bad.crt", &Authority::new().pem()).display().to_string();

    let plain = fleet.variable("TENANTRY_CATALOG_URL").to_owned();
    let admin = connect_url(&plain, "postgres").await;
    give_tls(&admin, &shown, &authority.pem(), "hostnossl tenantry_catalog all all reject").await;
    let mut on_servers = String::new();
    for server in ["pg-1", "pg-2", "pg-3"] {
        let admin = fleet.direct(server, "postgres").await;
        let user = admin.column("SELECT current_user").await.remove(0);
        let rules = format!("hostnossl all {user} all scram-sha-256\nhostnossl all all all reject");
        let data = give_tls(&admin, &shown, &authority.pem(), &rules).await;
        if server == "pg-3" {
            on_servers = format!("{data}/ca.crt");
        }
    }
    let url = |ca: &str| format!("{plain}?sslmode=verify-full&sslrootcert={ca}");
    let secret = fleet.path().join("secrets/catalog_url");
    std::fs::write(&secret, url(&ca)).unwrap();
    let tls = |ca: &str| format!("server_tls_mode = \"verify-full\"\nserver_tls_ca_file = \"{ca}\"\n");
    let config = |role: &str| fleet.path().join(format!("{role}.toml"));
    let control = std::fs::read_to_string(config("control")).unwrap();
    let streams = format!("server_tls_ca_file_on_servers = \"{on_servers}\"\n");
    std::fs::write(config("control"), format!("{}{streams}{control}", tls(&ca))).unwrap();
    let router = std::fs::read_to_string(config("router")).unwrap();
    std::fs::write(config("router"), format!("{}{router}", tls(&ca))).unwrap();
    restart(fleet).await;

    fleet.create("secured", &["--server", "pg-1"]).await;
    let migration = migrations::Files::new(&[("V1__table.sql", "CREATE TABLE t (a int PRIMARY KEY)")]);
    fleet.cli(&["migrate", "run", "--dir", migration.path()]).await.ok();
    let client =
        until("the router to hear of it", async || connect(&fleet.config("secured")).await.ok()).await;
    client.run("INSERT INTO t SELECT generate_series(1, 1000)").await;
    move_to(fleet, "secured", "pg-3").await;
    assert_eq!(client.number("SELECT count(*) FROM t").await, 1000);
    assert_eq!(client.column("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await, ["t"]);

    // An authority that none of them is of: nothing is told to whom it can't be told from.
    let other = files.write("control.toml", &format!("{}{control}", tls(&bad))).display().to_string();
    let found = fleet.cli_in(&[("TENANTRY_MAP_CONFIG", &other)], &["map", "verify"]).await.exits(1);
    let found = found.json();
    for finding in found.as_array().unwrap() {
        assert_eq!(finding["kind"], "unreachable_server", "{finding}");
        let detail = finding["detail"].as_str().unwrap();
        assert!(detail.contains("TLS: invalid peer certificate"), "{detail}");
    }
    assert_eq!(found.as_array().unwrap().len(), 3);
    std::fs::write(&secret, url(&bad)).unwrap();
    let line = fleet.cli(&["map", "verify"]).await.error(5);
    assert!(line.contains("the catalog can't be reached: TLS: invalid peer certificate"), "{line}");
    std::fs::write(&secret, format!("{plain}?sslmode=verify-full")).unwrap();
    let line = fleet.cli(&["map", "verify"]).await;
    assert!(line.stderr.contains("sslrootcert: verify-full needs a file"), "{}", line.stderr);
}
