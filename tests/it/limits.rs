//! The router's limits: each ends with an error of its own, and lets everybody else go on.

use crate::harness::{Fleet, code, connect, trials};

trials! {
    shared clients_beyond_the_most_are_refused_and_the_others_go_on,
}

async fn clients_beyond_the_most_are_refused_and_the_others_go_on(fleet: &Fleet) {
    fleet.create("limits-clients", &[]).await;
    let router = fleet.router(&["clients_max=2"]).await;
    let config = router.through(&fleet.config("limits-clients"));
    let first = connect(&config).await.unwrap();
    let _second = connect(&config).await.unwrap();
    assert_eq!(code(&connect(&config).await.err().expect("it is full")), "53300");
    first.simple_query("SELECT 1").await.unwrap();
}
