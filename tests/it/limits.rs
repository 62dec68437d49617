//! The router's limits: each ends with an error of its own, and lets everybody else go on.

use rustix::process::{Resource, Rlimit, prlimit};
use tokio::net::TcpStream;
use tokio_postgres::Config;

use crate::harness::raw::Raw;
use crate::harness::{DEADLINE, Fleet, Router, Sql as _, code, connect, message, trials, until};

trials! {
    shared a_query_over_its_time_is_cancelled_on_the_server_and_its_session_goes_on,
    shared a_transaction_over_its_time_ends_with_its_connection_and_nothing_of_it_stays,
    shared clients_beyond_the_most_are_refused_and_the_others_go_on,
    shared clients_of_a_tenant_of_a_user_and_from_an_address_are_limited,
    shared a_router_takes_as_many_descriptors_as_it_may,
    shared a_router_without_descriptors_serves_its_clients_and_recovers,
    shared a_message_that_is_too_long_ends_its_session_alone,
}

async fn clients_beyond_the_most_are_refused_and_the_others_go_on(fleet: &Fleet) {
    fleet.create("limits-clients", &[]).await;
    let router = fleet.router(&["clients_max=2"]).await;
    let config = router.through(&fleet.config("limits-clients"));
    let first = connect(&config).await.unwrap();
    let second = connect(&config).await.unwrap();
    is_refused(&router, &config, "clients_max = 2").await;
    first.simple_query("SELECT 1").await.unwrap();
    drop(second);
    until("the place to be free again", async || connect(&config).await.ok()).await;
}

/// Whether one more client is refused for this limit, and that is counted.
async fn is_refused(router: &Router, config: &Config, limit: &str) {
    let refusal = connect(config).await.expect_err("a refusal");
    assert_eq!(code(&refusal), "53300");
    assert!(message(&refusal).contains(limit), "{refusal:?}");
    let key = limit.split(' ').next().unwrap();
    let sample = format!("tenantry_router_limits_total{{limit=\"{key}\"}}");
    assert_eq!(router.metrics().await.get(&sample), 1.0);
}

async fn clients_of_a_tenant_of_a_user_and_from_an_address_are_limited(fleet: &Fleet) {
    fleet.create("limits-one", &[]).await;
    fleet.create("limits-two", &[]).await;
    let one = fleet.config("limits-one");
    let two = fleet.config("limits-two");
    let user = fleet.user("limits-user", "limits-one", &[]).await;

    let router = fleet.router(&["clients_per_tenant_max=1"]).await;
    let _first = connect(&router.through(&one)).await.unwrap();
    is_refused(&router, &router.through(&user), "clients_per_tenant_max = 1").await;
    connect(&router.through(&two)).await.unwrap().run("SELECT 1").await;

    let router = fleet.router(&["clients_per_user_max=1"]).await;
    let _first = connect(&router.through(&one)).await.unwrap();
    is_refused(&router, &router.through(&two), "clients_per_user_max = 1").await;
    connect(&router.through(&user)).await.unwrap().run("SELECT 1").await;

    let router = fleet.router(&["clients_per_address_max=1"]).await;
    let _first = connect(&router.through(&one)).await.unwrap();
    is_refused(&router, &router.through(&user), "clients_per_address_max = 1").await;
}

async fn a_message_that_is_too_long_ends_its_session_alone(fleet: &Fleet) {
    fleet.create("limits-message", &[]).await;
    let router = fleet.router(&["message_bytes_max=65536"]).await;
    let config = router.through(&fleet.config("limits-message"));
    let other = connect(&config).await.unwrap();
    let client = connect(&config).await.unwrap();
    client.run(&format!("SELECT length('{}')", "x".repeat(60_000))).await;
    let mut raw = Raw::login(&config, &[]).await;
    raw.query(&format!("SELECT length('{}')", "x".repeat(70_000)));
    raw.flush().await;
    assert_eq!(raw.reply().await.as_deref(), Some("E:54000"));
    assert_eq!(raw.reply().await, None);
    let metrics = router.metrics().await;
    assert_eq!(metrics.get("tenantry_router_limits_total{limit=\"message_bytes_max\"}"), 1.0);
    other.run("SELECT 1").await;
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

async fn a_router_takes_as_many_descriptors_as_it_may(fleet: &Fleet) {
    let router = fleet.router(&["clients_max=1000000"]).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", router.pid().as_raw_nonzero())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = files.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "the soft limit is the hard one");
    let is_enough = numbers[0].parse::<u64>().is_ok_and(|limit| limit >= 1_001_000);
    assert_eq!(router.log().contains("too few file descriptors"), !is_enough);
}

async fn a_router_without_descriptors_serves_its_clients_and_recovers(fleet: &Fleet) {
    const ROOM: u64 = 6;
    for tenant in ["limits-files", "limits-files-other"] {
        fleet.create(tenant, &[]).await;
    }
    // Most workers have no login that they could end.
    let router = fleet.router(&["login_timeout=1h", "queue_timeout=1h", "workers=16"]).await;
    let config = router.through(&fleet.config("limits-files"));
    let client = connect(&config).await.unwrap();
    client.run("CREATE TABLE t (n int)").await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", router.pid().as_raw_nonzero())).unwrap().count();
    let few = Some(open as u64 + ROOM);
    prlimit(Some(router.pid()), Resource::Nofile, Rlimit { current: few, maximum: few }).unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 * ROOM {
        silent.push(TcpStream::connect(("127.0.0.1", router.port)).await.unwrap());
        client.run("INSERT INTO t VALUES (1)").await;
    }
    router.logs(&["can't accept connections", "Too many open files"]).await;
    // Who comes now gets the place of the one that has been silent for longest.
    for _ in 0..ROOM {
        let got_in = until("a client to get in", async || connect(&config).await.ok());
        let got_in = tokio::time::timeout(DEADLINE, got_in).await.expect("not to be forgotten");
        got_in.run("INSERT INTO t VALUES (2)").await;
    }
    // Its tenant has no server connection yet.
    let other = router.through(&fleet.config("limits-files-other"));
    let got_in = until("a client of another tenant to get in", async || connect(&other).await.ok());
    let got_in = tokio::time::timeout(DEADLINE, got_in).await.expect("not to be forgotten");
    got_in.run("SELECT 1").await;
    drop(silent);
    connect(&other).await.unwrap().run("SELECT 1").await;
    assert!(!router.log().contains("takes no logins"), "no server's fault: {}", router.log());
    assert_eq!(client.number("SELECT count(*) FROM t").await, i64::try_from(11 * ROOM).unwrap());
    router.metrics().await;
}
