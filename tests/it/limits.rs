//! The router's limits: each ends with an error of its own, and lets everybody else go on.

use crate::harness::{Fleet, Sql as _, code, connect, message, trials, until};

trials! {
    shared a_query_over_its_time_is_cancelled_on_the_server_and_its_session_goes_on,
    shared a_transaction_over_its_time_ends_with_its_connection_and_nothing_of_it_stays,
    shared clients_beyond_the_most_are_refused_and_the_others_go_on,
}

async fn clients_beyond_the_most_are_refused_and_the_others_go_on(fleet: &Fleet) {
    fleet.create("limits-clients", &[]).await;
    let router = fleet.router(&["clients_max=2"]).await;
    let config = router.through(&fleet.config("limits-clients"));
    let first = connect(&config).await.unwrap();
    let _second = connect(&config).await.unwrap();
    let refusal = connect(&config).await.err().expect("it is full");
    assert_eq!(code(&refusal), "53300");
    assert!(message(&refusal).contains("clients_max = 2"), "{refusal:?}");
    assert_eq!(router.metrics().await.get("tenantry_router_limits_total{limit=\"clients_max\"}"), 1.0);
    first.simple_query("SELECT 1").await.unwrap();
}

async fn a_query_over_its_time_is_cancelled_on_the_server_and_its_session_goes_on(fleet: &Fleet) {
    fleet.create("limits-query", &[]).await;
    let router = fleet.router(&["query_timeout=300ms"]).await;
    let client = connect(&router.through(&fleet.config("limits-query"))).await.unwrap();
    let error = client.simple_query("SELECT 1; SELECT pg_sleep(1000)").await.unwrap_err();
    assert_eq!(code(&error), "57014");
    assert!(message(&error).contains("query_timeout"), "{}", message(&error));
    assert_eq!(client.number("SELECT 1").await, 1);
    let error = client.query("SELECT pg_sleep($1)", &[&1000.0_f64]).await.unwrap_err();
    assert_eq!(code(&error), "57014");
    assert_eq!(client.number("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'").await, 0);
    assert_eq!(router.metrics().await.get("tenantry_router_limits_total{limit=\"query_timeout\"}"), 2.0);
}

async fn a_transaction_over_its_time_ends_with_its_connection_and_nothing_of_it_stays(fleet: &Fleet) {
    fleet.create("limits-transaction", &[]).await;
    let settings = ["transaction_timeout=400ms", "idle_transaction_timeout=100ms"];
    let router = fleet.router(&settings).await;
    let config = router.through(&fleet.config("limits-transaction"));
    let other = connect(&config).await.unwrap();
    other.run("CREATE TABLE marks (id int)").await;
    let idle = connect(&config).await.unwrap();
    idle.run("BEGIN; INSERT INTO marks VALUES (1)").await;
    until("the idle client to be disconnected", async || idle.is_closed().then_some(())).await;
    let busy = connect(&config).await.unwrap();
    let error =
        busy.simple_query("BEGIN; INSERT INTO marks VALUES (2); SELECT pg_sleep(1000)").await.unwrap_err();
    assert_eq!(code(&error), "25P04");
    until("the statement to be cancelled on the server", async || {
        let running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)%' AND pid <> pg_backend_pid()
            AND datname = current_database() AND state = 'active'";
        (other.number(running).await == 0).then_some(())
    })
    .await;
    assert_eq!(other.number("SELECT count(*) FROM marks").await, 0);
    let metrics = router.metrics().await;
    assert_eq!(metrics.get("tenantry_router_limits_total{limit=\"idle_transaction_timeout\"}"), 1.0);
    assert_eq!(metrics.get("tenantry_router_limits_total{limit=\"transaction_timeout\"}"), 1.0);
}
