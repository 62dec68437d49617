//! Many clients, few server connections; and nothing is left of a client that goes away.

use futures_util::future::join_all;

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, trials, until};

trials! {
    shared many_clients_all_get_their_turn,
    shared a_client_that_waits_in_a_transaction_does_not_stop_the_others,
    shared a_client_that_vanishes_leaves_no_open_transaction,
    shared a_client_that_vanishes_stops_its_query,
    shared one_tenant_cannot_take_the_connections_of_another,
    shared tenants_are_told_apart_by_name_only,
    shared the_tenant_may_be_named_in_the_user,
}

async fn many_clients_all_get_their_turn(fleet: &Fleet) {
    fleet.create("hundred", &["--server", "pg-1"]).await;
    let owner = fleet.connect("hundred").await;
    owner.run("CREATE TABLE turns (client int, turn int)").await;
    const CLIENTS: i32 = 100;
    const TURNS: i32 = 5;
    let clients = join_all((0..CLIENTS).map(|_| fleet.connect("hundred"))).await;
    let taking = clients.into_iter().zip(0..).map(async |(mut client, number): (_, i32)| {
        for turn in 0..TURNS {
            let transaction = client.transaction().await.unwrap();
            let sql = "INSERT INTO turns SELECT $1, $2 FROM pg_sleep(0.002)";
            transaction.execute(sql, &[&number, &turn]).await.unwrap();
            transaction.commit().await.unwrap();
        }
    });
    join_all(taking).await;
    let each = "SELECT count(*) FROM (SELECT client FROM turns GROUP BY 1 HAVING count(DISTINCT turn) = 5) x";
    assert_eq!(owner.number(each).await, i64::from(CLIENTS));
    assert_eq!(owner.number("SELECT count(*) FROM turns").await, i64::from(CLIENTS * TURNS));
    let server = fleet.direct("pg-1", "postgres").await;
    let open = server.number("SELECT count(*) FROM pg_stat_activity WHERE datname = 'hundred'").await;
    assert!(open <= 20, "{open} server connections");
}

async fn a_client_that_waits_in_a_transaction_does_not_stop_the_others(fleet: &Fleet) {
    fleet.create("patient", &[]).await;
    let sitters = join_all((0..5).map(|_| fleet.connect("patient"))).await;
    for sitter in &sitters {
        sitter.run("BEGIN; SELECT 1").await;
    }
    let busy = fleet.connect("patient").await;
    for _ in 0..20 {
        busy.run("SELECT 1").await;
    }
    for sitter in &sitters {
        sitter.run("COMMIT").await;
    }
}

async fn a_client_that_vanishes_leaves_no_open_transaction(fleet: &Fleet) {
    fleet.create("halfway", &["--server", "pg-1"]).await;
    let witness = fleet.connect("halfway").await;
    witness.run("CREATE TABLE t (n int)").await;
    let mut raw = Raw::login(&fleet.config("halfway"), &[]).await;
    raw.query("BEGIN").query("INSERT INTO t VALUES (1)");
    assert_eq!(raw.replies(2).await, ["C:BEGIN", "Z:T", "C:INSERT 0 1", "Z:T"]);
    drop(raw);
    let server = fleet.direct("pg-1", "postgres").await;
    let open = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = 'halfway' AND state LIKE 'idle in transaction%'";
    until("the transaction to be gone", async || (server.number(open).await == 0).then_some(())).await;
    assert_eq!(witness.number("SELECT count(*) FROM t").await, 0);
}

async fn a_client_that_vanishes_stops_its_query(fleet: &Fleet) {
    fleet.create("sleeper", &["--server", "pg-1"]).await;
    let mut raw = Raw::login(&fleet.config("sleeper"), &[]).await;
    raw.query("SELECT pg_sleep(3600)").flush().await;
    let server = fleet.direct("pg-1", "postgres").await;
    let running = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'sleeper' AND state = 'active'";
    until("the query to run", async || (server.number(running).await == 1).then_some(())).await;
    drop(raw);
    until("the query to be stopped", async || (server.number(running).await == 0).then_some(())).await;
}

async fn one_tenant_cannot_take_the_connections_of_another(fleet: &Fleet) {
    fleet.create("greedy", &["--server", "pg-1"]).await;
    fleet.create("modest-one", &["--server", "pg-1"]).await;
    // As many open transactions as one tenant may have, and more clients that wait.
    let greedy = join_all((0..30).map(|_| fleet.connect("greedy"))).await;
    for client in &greedy[..15] {
        client.run("BEGIN; SELECT 1").await;
    }
    let modest = fleet.connect("modest-one").await;
    for _ in 0..20 {
        modest.run("SELECT 1").await;
    }
    for client in &greedy[..15] {
        client.run("COMMIT").await;
    }
    join_all(greedy.iter().map(|client| client.run("SELECT 1"))).await;
}

async fn tenants_are_told_apart_by_name_only(fleet: &Fleet) {
    let names = ["apart-1", "apart-2", "apart-3"];
    for name in names {
        fleet.create(name, &[]).await;
        fleet.connect(name).await.run(&format!("CREATE TABLE me AS SELECT '{name}'::text AS name")).await;
    }
    for _ in 0..3 {
        for name in names {
            assert_eq!(fleet.connect(name).await.column("SELECT name FROM me").await, [name]);
        }
    }
}

async fn the_tenant_may_be_named_in_the_user(fleet: &Fleet) {
    fleet.create("dotted", &[]).await;
    let user = format!("{}.dotted", fleet.variable("TENANTRY_USER"));
    // As a driver does that is given no database: it asks for one of the user's name.
    let config = fleet.config_as(&user, fleet.variable("TENANTRY_PASSWORD"), &user);
    let client = connect(&config).await.unwrap();
    assert_eq!(client.column("SELECT current_database()").await, ["dotted"]);
}
