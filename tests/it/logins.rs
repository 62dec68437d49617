//! Logins: who waits, who is refused, and what a refusal tells.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::raw::{Raw, exchange};
use crate::harness::{Fleet, Sql as _, code, connect, message, trials, until};

trials! {
    shared logins_that_never_finish_keep_nobody_out,
    shared a_login_that_takes_too_long_is_told_the_limit,
    shared an_address_that_fails_too_often_is_refused_and_others_are_not,
    shared a_proxy_tells_the_address_and_nobody_else_does,
    shared each_refused_login_is_the_same_exchange,
    shared a_tenant_out_of_reach_is_answered_like_a_wrong_password,
    shared the_option_and_the_user_name_a_tenant_before_the_database,
}

async fn logins_that_never_finish_keep_nobody_out(fleet: &Fleet) {
    fleet.create("logins-pending", &[]).await;
    let router = fleet.router(&["logins_max=20", "login_timeout=1h"]).await;
    let config = router.through(&fleet.config("logins-pending"));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(("127.0.0.1", router.port)).await.unwrap());
    }
    // Each worker accepts for itself, in whatever order.
    let hits = "tenantry_router_limits_total{limit=\"logins_max\"}";
    until("the ended to be counted", async || (router.metrics().await.get(hits) >= 80.0).then_some(())).await;
    connect(&config).await.unwrap().run("SELECT 1").await;
    // Each of these had to go for a later one.
    let is_closed = |stream: &&TcpStream| match stream.try_read(&mut [0; 8]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    let ended = async || (silent.iter().filter(is_closed).count() >= 80).then_some(());
    until("the ended to be closed", ended).await;
}

async fn a_login_that_takes_too_long_is_told_the_limit(fleet: &Fleet) {
    let router = fleet.router(&["login_timeout=50ms"]).await;
    let mut stream = TcpStream::connect(("127.0.0.1", router.port)).await.unwrap();
    stream.write_all(&[0, 0]).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("57P05") && answer.contains("login_timeout = 50ms"), "{answer}");
    let metrics = router.metrics().await;
    assert_eq!(metrics.get("tenantry_router_limits_total{limit=\"login_timeout\"}"), 1.0);
}

async fn an_address_that_fails_too_often_is_refused_and_others_are_not(fleet: &Fleet) {
    fleet.create("logins-failed", &[]).await;
    // Each proxied client has an address of its own.
    let proxied = ["proxy_protocol=true", "proxy_protocol_from=[\"127.0.0.1/32\"]"];
    let router = fleet.router(&[&proxied[..], &["login_failures_per_address_max=3"]].concat()).await;
    let good = router.through(&fleet.config("logins-failed"));
    let mut bad = good.clone();
    bad.password("wrong");
    let open = async |host: u8, config| Raw::open_proxied(&header([10, 0, 0, host]), config).await;
    for _ in 0..20 {
        open(1, &good).await.expect("those that succeed don't count");
    }
    for _ in 0..3 {
        assert_eq!(open(1, &bad).await.err().as_deref(), Some("28P01"));
    }
    assert_eq!(open(1, &good).await.err().as_deref(), Some("53400"));
    open(2, &good).await.expect("another address");
    let hits = "tenantry_router_limits_total{limit=\"login_failures_per_address_max\"}";
    assert_eq!(router.metrics().await.get(hits), 1.0);
}

/// The header of a proxy that passes on a connection from this address.
fn header(from: [u8; 4]) -> Vec<u8> {
    let addresses = [&from[..], &[10, 9, 9, 9], &1234_u16.to_be_bytes(), &5432_u16.to_be_bytes()].concat();
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".as_slice(), &addresses].concat()
}

async fn a_proxy_tells_the_address_and_nobody_else_does(fleet: &Fleet) {
    fleet.create("logins-proxied", &[]).await;
    let config = fleet.config("logins-proxied");
    let from_here = ["proxy_protocol=true", "proxy_protocol_from=[\"127.0.0.0/8\"]"];
    let from_elsewhere = ["proxy_protocol=true", "proxy_protocol_from=[\"192.0.2.0/24\"]"];
    let one_each = ["clients_per_address_max=1"];

    let behind = fleet.router(&[&from_here[..], &one_each].concat()).await;
    let through = behind.through(&config);
    let _first = Raw::open_proxied(&header([10, 0, 0, 1]), &through).await.unwrap();
    let again = Raw::open_proxied(&header([10, 0, 0, 1]), &through).await;
    assert_eq!(again.err().as_deref(), Some("53300"), "the address is the header's");
    let _other = Raw::open_proxied(&header([10, 0, 0, 2]), &through).await.unwrap();
    assert_eq!(code(&connect(&through).await.err().unwrap()), "08P01", "without a header");

    let open = fleet.router(&from_elsewhere).await;
    let through = open.through(&config);
    connect(&through).await.unwrap().run("SELECT 1").await;
    let refused = Raw::open_proxied(&header([10, 0, 0, 1]), &through).await;
    assert_eq!(refused.err().as_deref(), Some("54000"), "a header from who is no proxy");
}

async fn the_option_and_the_user_name_a_tenant_before_the_database(fleet: &Fleet) {
    for tenant in ["logins-a", "logins-b"] {
        fleet.create(tenant, &[]).await;
        fleet.connect(tenant).await.run(&format!("CREATE TABLE is_{} ()", tenant.replace('-', "_"))).await;
    }
    let reached = async |config: &tokio_postgres::Config| {
        let sql = "SELECT relname FROM pg_class WHERE relname LIKE 'is_logins%'";
        connect(config).await.unwrap().column(sql).await.remove(0)
    };
    let mut config = fleet.config("logins-a");
    assert_eq!(reached(&config).await, "is_logins_a");
    config.user(format!("{}.logins-b", fleet.variable("TENANTRY_USER")));
    assert_eq!(reached(&config).await, "is_logins_b");
    config.options("-c tenant=logins-a");
    assert_eq!(reached(&config).await, "is_logins_a");
    config.options("-c tenant=logins-nowhere");
    let refusal = connect(&config).await.err().unwrap();
    assert!(message(&refusal).contains("logins-nowhere"), "{refusal:?}");
}

async fn each_refused_login_is_the_same_exchange(fleet: &Fleet) {
    fleet.create("exchange-in", &[]).await;
    let mut known = fleet.user("exchanger", "exchange-in", &[]).await;
    let password = String::from_utf8(known.get_password().unwrap().to_vec()).unwrap();
    known.password("wrong");
    let out_of_reach = fleet.config_as("exchanger", &password, "exchange-nowhere");
    let unknown = |user: &str| fleet.config_as(user, "wrong", "exchange-in");
    let other = fleet.router(&[]).await;
    // The tags of the answers, and what the password is to be salted with.
    let of_known = exchange(&known).await;
    assert_eq!(of_known.0, ["R:sasl", "R:continue", "E:28P01"]);
    assert_eq!(of_known.1.iterations, 4096);
    let mut salts = vec![of_known.1.salt.clone()];
    for name in ["exchange-a", "exchange-b"] {
        let (answers, salting) = exchange(&unknown(name)).await;
        assert_eq!((&answers, salting.iterations), (&of_known.0, 4096), "{name}");
        assert_eq!(salting.salt.len(), salts[0].len());
        for again in [unknown(name), other.through(&unknown(name))] {
            assert_eq!(exchange(&again).await.1, salting, "{name} has one salt, at all routers");
        }
        assert!(!salts.contains(&salting.salt), "and nobody else has it");
        salts.push(salting.salt);
    }
    assert_eq!(exchange(&out_of_reach).await, of_known, "the right password, and a tenant that is not there");
}

async fn a_tenant_out_of_reach_is_answered_like_a_wrong_password(fleet: &Fleet) {
    fleet.create("reach-in", &["--label", "reach=in"]).await;
    fleet.create("reach-out", &[]).await;
    let made = fleet.cli(&["user", "create", "reacher", "--tenants", "reach=in"]).await.ok();
    let password = made["password"].as_str().unwrap();
    let inside = fleet.config_as("reacher", password, "reach-in");
    until("the user to get in", async || connect(&inside).await.ok()).await;
    let answer = async |password: &str, tenant: &str| {
        let refusal = connect(&fleet.config_as("reacher", password, tenant)).await.expect_err("a refusal");
        (code(&refusal), message(&refusal))
    };
    let wrong = answer("wrong", "reach-in").await;
    assert_eq!(wrong.0, "28P01");
    for tenant in ["reach-out", "reach-nowhere", "No Tenant's Name"] {
        assert_eq!(answer(password, tenant).await, wrong, "{tenant}");
    }
    // Who is let in to just this one may know that it is gone.
    let mut own = fleet.user("reach-owner", "reach-out", &[]).await;
    fleet.cli(&["tenant", "delete", "reach-out", "--yes"]).await.exits(0);
    own.dbname("reach-out");
    let told = until("the router to hear of it", async || connect(&own).await.err()).await;
    assert_eq!(code(&told), "3D000");
}
