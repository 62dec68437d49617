//! `tenantry dev`: what it tells, what it refuses, and that it comes back with its data.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Fleet, Place, Sql as _, leftovers, tenantry, trials};

trials! {
    own a_fleet_comes_back_with_its_data_and_a_second_dev_is_refused,
    shared everything_that_a_shell_needs_is_in_env,
    shared secrets_are_for_their_owner_only,
    shared psql_is_connected_through_the_router,
    plain missing_postgres_programs_are_named,
    plain a_port_in_use_is_named_before_anything_is_started,
    plain arguments_that_cannot_be_meant_are_refused,
}

async fn a_fleet_comes_back_with_its_data_and_a_second_dev_is_refused(fleet: &mut Fleet) {
    fleet.create("lasting", &["--server", "pg-2"]).await;
    fleet.connect("lasting").await.run("CREATE TABLE t AS SELECT 7 AS n").await;
    let dir = fleet.path().to_str().unwrap().to_owned();
    let output = tenantry(&["dev", "--dir", &dir], &[]).await;
    assert!(output.stdout.is_empty(), "{}", output.stdout);
    let hint = output.hint();
    let error = output.error(1);
    assert!(error.contains(&dir) && error.contains("another"), "{error}");
    assert!(hint.contains("--dir"), "{hint}");
    fleet.connect("lasting").await.run("SELECT 1").await;

    fleet.stop_in_order().await;
    assert!(leftovers(fleet.path()).is_empty());
    fleet.start_again().await;
    assert_eq!(fleet.connect("lasting").await.number("SELECT n FROM t").await, 7);
    assert_eq!(fleet.tenant("lasting").await["server"], "pg-2");

    fleet.kill().await;
    let fewer = tenantry(&["dev", "--dir", &dir, "--servers", "2"], &[]).await.error(2);
    assert!(fewer.contains("3 servers"), "{fewer}");
    fleet.start_again().await;
    assert_eq!(fleet.connect("lasting").await.number("SELECT n FROM t").await, 7);
}

async fn everything_that_a_shell_needs_is_in_env(fleet: &Fleet) {
    let names = [
        "TENANTRY_API",
        "TENANTRY_TOKEN",
        "TENANTRY_ROUTER_HOST",
        "TENANTRY_ROUTER_PORT",
        "TENANTRY_USER",
        "TENANTRY_PASSWORD",
        "TENANTRY_CATALOG_URL",
        "TENANTRY_SERVER_1",
        "TENANTRY_SERVER_1_URL",
        "TENANTRY_SERVER_3_URL",
    ];
    for name in names {
        assert!(!fleet.variable(name).is_empty(), "{name}");
    }
    let servers: Vec<&str> = (1..=3).map(|i| fleet.variable(&format!("TENANTRY_SERVER_{i}"))).collect();
    assert_eq!(servers, ["pg-1", "pg-2", "pg-3"]);
    let script = format!(". {}/env && printf %s \"$TENANTRY_API\"", fleet.path().display());
    let output = tokio::process::Command::new("sh").args(["-c", &script]).output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), fleet.variable("TENANTRY_API"));
    let superuser = "SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user";
    assert_eq!(fleet.direct("pg-2", "postgres").await.column(superuser).await, ["true"]);
    let ready = std::fs::read_to_string(fleet.path().join("dev.out")).unwrap();
    assert_eq!(ready, "ready\n", "one line, once");
}

async fn secrets_are_for_their_owner_only(fleet: &Fleet) {
    let mut files = vec![fleet.path().join("env")];
    let secrets = std::fs::read_dir(fleet.path().join("secrets")).unwrap();
    files.extend(secrets.map(|entry| entry.unwrap().path()));
    assert!(files.len() > 3, "{files:?}");
    for file in files {
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:o}", file.display());
    }
    let secrets = ["TENANTRY_TOKEN", "TENANTRY_PASSWORD"].map(|name| fleet.variable(name));
    for log in std::fs::read_dir(fleet.path().join("log")).unwrap() {
        let text = String::from_utf8_lossy(&std::fs::read(log.unwrap().path()).unwrap()).into_owned();
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "a log tells a secret");
    }
}

async fn psql_is_connected_through_the_router(fleet: &Fleet) {
    fleet.create("terminal", &[]).await;
    let output = fleet.psql("terminal", &["-Atc", "SELECT 1 / 0"]).await;
    assert_eq!(output.status, 1, "psql's own status: {}", output.stderr);
    let output = fleet.psql("terminal", &["-Atc", "SELECT current_database()"]).await.exits(0);
    assert_eq!(output.stdout.trim(), "terminal");
    let output = fleet.psql("terminal", &["-c", "CREATE TABLE t (n int)", "-c", "\\d t"]).await.exits(0);
    assert!(output.stdout.contains("integer"), "{}", output.stdout);
}

async fn missing_postgres_programs_are_named() {
    let place = Place::make().unwrap();
    let dir = place.path().join("fleet");
    let (dir, empty) = (dir.to_str().unwrap(), place.path().to_str().unwrap());
    let output = tenantry(&["dev", "--dir", dir, "--pg-bin", empty], &[]).await;
    assert!(output.hint().contains("initdb"), "{}", output.stderr);
    let error = output.error(1);
    assert!(error.contains(empty) && error.contains("postgres"), "{error}");
    let error = tenantry(&["dev", "--dir", dir], &[("TENANTRY_PG_BIN", empty)]).await.error(1);
    assert!(error.contains("TENANTRY_PG_BIN"), "{error}");
}

async fn a_port_in_use_is_named_before_anything_is_started() {
    let place = Place::make().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for flag in ["--router-port", "--api-port", "--base-port"] {
        let dir = place.path().join(flag);
        let output = tenantry(&["dev", "--dir", dir.to_str().unwrap(), flag, &port], &[]).await;
        assert!(output.stdout.is_empty(), "{}", output.stdout);
        let error = output.error(1);
        assert!(error.contains("port") && error.contains("is in use"), "{error}");
    }
    let dir = place.path().join("twice");
    let twice = ["dev", "--dir", dir.to_str().unwrap(), "--router-port", "12001", "--api-port", "12001"];
    let error = tenantry(&twice, &[]).await.error(2);
    assert!(error.contains("both"), "{error}");
    assert!(leftovers(place.path()).is_empty());
}

async fn arguments_that_cannot_be_meant_are_refused() {
    let place = Place::make().unwrap();
    let dir = place.path().to_str().unwrap();
    for args in [&["--servers", "0"][..], &["--servers", "many"], &["--router-port", "0"], &["--nonsense"]] {
        tenantry(&[&["dev", "--dir", dir], args].concat(), &[]).await.exits(2);
    }
    tenantry(&["dev"], &[]).await.exits(2);
    let unwritable = "/proc/nowhere";
    let error = tenantry(&["dev", "--dir", unwritable], &[]).await.error(1);
    assert!(error.contains(unwritable), "{error}");
}
