//! The router's limits: each ends with an error of its own, and lets everybody else go on.

use crate::harness::{Fleet, code, connect, message, trials};

trials! {
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
