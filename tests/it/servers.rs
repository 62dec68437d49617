//! Servers are checked before they are taken into the map.

use crate::harness::{Fleet, Sql as _, connect_url, trials, until};

trials! {
    shared servers_are_shown_as_they_are_just_now,
    own a_server_that_lacks_a_setting_is_refused_with_what_to_do,
    shared a_server_that_does_not_answer_is_not_added,
    shared an_address_is_in_the_map_once,
    shared an_account_that_may_not_arm_it_is_refused,
    shared the_catalogs_own_server_takes_no_tenants,
    own a_server_of_another_fleet_is_not_taken_over,
    shared what_is_not_said_again_of_a_server_stays_as_it_is,
}

async fn the_catalogs_own_server_takes_no_tenants(fleet: &Fleet) {
    let url = fleet.variable("TENANTRY_CATALOG_URL");
    let error = fleet.cli(&["server", "add", "both", "--url", url]).await.error(4);
    assert!(error.contains("holds this fleet's catalog"), "{error}");
}

async fn a_server_of_another_fleet_is_not_taken_over(fleet: &mut Fleet) {
    fleet.create("owned", &["--server", "pg-1"]).await;
    // The same servers, as a fleet with another catalog would see them.
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    catalog.run("UPDATE fleet SET id = 'another'").await;
    let error = fleet.cli(&["server", "add", "pg-1", "--url", &fleet.server_url("pg-1")]).await.error(4);
    assert!(error.contains("belongs to another fleet"), "{error}");
    assert_eq!(fleet.connect("owned").await.number("SELECT 1::bigint").await, 1, "it serves as before");
}

async fn what_is_not_said_again_of_a_server_stays_as_it_is(fleet: &Fleet) {
    let before = fleet.cli(&["server", "show", "pg-3"]).await.ok();
    let after = fleet.cli(&["server", "add", "pg-3", "--url", &fleet.server_url("pg-3")]).await.ok();
    for key in ["class", "max_connections", "labels"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    let url = fleet.server_url("pg-3");
    let error =
        fleet.cli(&["server", "add", "pg-3", "--url", &url, "--max-connections", "99999"]).await.error(2);
    assert!(error.contains("max_connections"), "{error}");
}

async fn servers_are_shown_as_they_are_just_now(fleet: &Fleet) {
    let list = fleet.cli(&["server", "list"]).await.ok();
    let classes: Vec<(&str, &str)> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|server| (server["name"].as_str().unwrap(), server["class"].as_str().unwrap()))
        .collect();
    assert_eq!(classes, [("pg-1", "shared"), ("pg-2", "shared"), ("pg-3", "dedicated")]);
    let shown = fleet.cli(&["server", "show", "pg-3"]).await.ok();
    assert_eq!((&shown["reachable"], &shown["wal_level"]), (&true.into(), &"logical".into()));
    fleet.cli(&["server", "show", "pg-99"]).await.error(3);
}

async fn a_server_that_lacks_a_setting_is_refused_with_what_to_do(fleet: &mut Fleet) {
    // The catalog's own server is not in the map: made unfit, it can play a new one.
    let url = fleet.variable("TENANTRY_CATALOG_URL").to_owned();
    let admin = connect_url(&url, "postgres").await;
    admin.run("ALTER SYSTEM SET wal_level = 'replica'").await;
    let before = fleet.postmaster("catalog");
    crate::harness::signal(before, rustix::process::Signal::INT);
    until("dev to start it again", async || {
        (admin.is_closed() && fleet.try_postmaster("catalog").is_some_and(|now| now != before)).then_some(())
    })
    .await;
    let output = until("the control plane to be back", async || {
        let output = fleet.cli(&["server", "add", "pg-4", "--url", &url]).await;
        (output.status != 5 && !output.stderr.contains("can't be reached")).then_some(output)
    })
    .await;
    let hint = output.hint();
    let error = output.error(4);
    assert!(error.contains("wal_level is replica"), "{error}");
    assert!(hint.contains("ALTER SYSTEM SET wal_level") && hint.contains("restart"), "{hint}");
    fleet.cli(&["server", "show", "pg-4"]).await.error(3);
}

async fn a_server_that_does_not_answer_is_not_added(fleet: &Fleet) {
    let output =
        fleet.cli(&["server", "add", "silent", "--url", "postgres://postgres:x@127.0.0.1:1/postgres"]);
    let error = output.await.error(1);
    assert!(error.contains("silent") && error.contains("can't be reached"), "{error}");
    let address = fleet.variable("TENANTRY_CATALOG_URL").split_once('@').unwrap().1;
    let wrong_password = format!("postgres://postgres:hunter2@{address}");
    let output = fleet.cli(&["server", "add", "locked", "--url", &wrong_password]).await.exits(1);
    assert!(!output.stderr.contains("hunter2"), "a password is not repeated: {}", output.stderr);
    for url in ["nonsense", "postgres://", "http://127.0.0.1:5432"] {
        let error = fleet.cli(&["server", "add", "odd", "--url", url]).await.error(2);
        assert!(error.contains("url"), "{error}");
    }
    fleet.cli(&["server", "add", "Not A Name", "--url", "postgres://h"]).await.exits(2);
    for name in ["silent", "locked", "odd"] {
        fleet.cli(&["server", "show", name]).await.error(3);
    }
}

async fn an_address_is_in_the_map_once(fleet: &Fleet) {
    let url = fleet.server_url("pg-1");
    let error = fleet.cli(&["server", "add", "twin", "--url", &url]).await.error(4);
    assert!(error.contains("pg-1"), "{error}");
    fleet.cli(&["server", "show", "twin"]).await.error(3);
}

async fn an_account_that_may_not_arm_it_is_refused(fleet: &Fleet) {
    let catalog = fleet.variable("TENANTRY_CATALOG_URL").to_owned();
    let admin = connect_url(&catalog, "postgres").await;
    admin.run("CREATE ROLE plain LOGIN PASSWORD 'plain'").await;
    let address = catalog.split_once('@').unwrap().1;
    let url = format!("postgres://plain:plain@{address}");
    let error = fleet.cli(&["server", "add", "plain", "--url", &url]).await.error(4);
    admin.run("DROP ROLE plain").await;
    assert!(error.contains("superuser"), "{error}");
}
