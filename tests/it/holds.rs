//! A tenant that is about to be held: it has fewer connections for a moment, and loses nothing by that.

use futures_util::future::join_all;
use tokio_postgres::Client;

use crate::harness::{Fleet, Sql as _, trials, until};
use crate::map_damage::catalog;

trials! {
    own an_announced_hold_begins_though_clocks_differ_and_all_connections_come_back,
}

/// As many transactions at once as there are clients, each on a connection of its own.
async fn at_once(clients: &[Client]) {
    join_all(clients.iter().map(|client| client.run("BEGIN; SELECT 1"))).await;
    join_all(clients.iter().map(|client| client.run("COMMIT"))).await;
}

async fn an_announced_hold_begins_though_clocks_differ_and_all_connections_come_back(fleet: &mut Fleet) {
    fleet.create("announced", &["--server", "pg-1"]).await;
    let clients = join_all((0..12).map(|_| fleet.connect("announced"))).await;
    at_once(&clients).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'announced'";
    assert_eq!(server.number(open).await, 12);
    let catalog = catalog(fleet).await;
    clients[0].run("BEGIN; CREATE TABLE kept (n int)").await;
    // By the clock of whoever announced it, it begins in an hour.
    let announce = "INSERT INTO hold (tenant, begins_at_ms, expires_at_ms)
        SELECT 'announced', ms + 3600000, ms + 3660000 FROM (SELECT (extract(epoch FROM now()) * 1000)::bigint AS ms) now";
    catalog.run(announce).await;
    until("connections that nobody uses to be closed", async || {
        (server.number(open).await == 1).then_some(())
    })
    .await;
    let in_force =
        "SELECT count(*) FROM hold_ack JOIN hold ON hold.id = hold_ack.hold WHERE tenant = 'announced'";
    assert_eq!(catalog.number(in_force).await, 0, "a transaction runs on");
    clients[0].run("INSERT INTO kept VALUES (1); COMMIT").await;
    until("the hold to be in force", async || (catalog.number(in_force).await == 1).then_some(())).await;
    catalog.run("DELETE FROM hold WHERE tenant = 'announced'").await;
    at_once(&clients).await;
    assert_eq!(server.number(open).await, 12);
    assert_eq!(clients[1].number("SELECT n FROM kept").await, 1);
}
