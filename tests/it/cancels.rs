//! Cancel requests reach the statement that they are for, through whichever router, and nothing else.

use crate::harness::raw::{Raw, cancel};
use crate::harness::{Fleet, Router, Sql as _, trials, until};

trials! {
    shared a_statement_is_cancelled_through_its_own_router,
    shared a_statement_is_cancelled_through_another_router,
    shared a_wrong_key_cancels_nothing,
    shared a_statement_ends_at_the_server_when_its_client_vanishes,
}

/// A session that runs a statement which would never end, whose text has this mark.
async fn busy(fleet: &Fleet, router: &Router, tenant: &str, mark: &str) -> Raw {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let mut session = Raw::login(&router.through(&fleet.config(tenant)), &[]).await;
    session.query(&format!("SELECT pg_sleep(100000) /* {mark} */")).flush().await;
    until("the statement to run", async || (running(fleet, mark).await == 1).then_some(())).await;
    session
}

/// Statements with this mark that run at the server.
async fn running(fleet: &Fleet, mark: &str) -> i64 {
    let server = fleet.direct("pg-1", "postgres").await;
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()";
    server.number(&format!("{sql} AND query LIKE '%{mark}%'")).await
}

/// Routers know of each other by their reports: cancels until it has worked.
async fn cancel_until_ended(fleet: &Fleet, port: u16, session: &Raw, mark: &str) {
    until("the statement to be cancelled", async || {
        cancel(port, session.cancel_key).await;
        (running(fleet, mark).await == 0).then_some(())
    })
    .await;
}

async fn a_statement_is_cancelled_through_its_own_router(fleet: &Fleet) {
    let router = fleet.router(&[]).await;
    let mut session = busy(fleet, &router, "cancel-own", "cancel-own-mark").await;
    cancel(router.port, session.cancel_key).await;
    assert_eq!(session.replies(1).await.last_chunk::<2>().unwrap(), &["E:57014", "Z:I"]);
    // Its answer came when the request had done its work: what follows is not hit.
    assert!(session.query("SELECT 1").replies(1).await.contains(&"D:1".to_owned()));
}

async fn a_statement_is_cancelled_through_another_router(fleet: &Fleet) {
    let (router, other) = (fleet.router(&[]).await, fleet.router(&[]).await);
    let mut session = busy(fleet, &router, "cancel-other", "cancel-other-mark").await;
    cancel_until_ended(fleet, other.port, &session, "cancel-other-mark").await;
    assert_eq!(session.replies(1).await.last_chunk::<2>().unwrap(), &["E:57014", "Z:I"]);
    assert!(session.query("SELECT 1").replies(1).await.contains(&"D:1".to_owned()));
    let passed_on = "tenantry_router_cancels_passed_on_total{outcome=\"ok\"}";
    assert!(other.metrics().await.get(passed_on) >= 1.0);
    assert!(router.metrics().await.get("tenantry_router_cancels_total") >= 1.0);
}

async fn a_wrong_key_cancels_nothing(fleet: &Fleet) {
    let (router, other) = (fleet.router(&[]).await, fleet.router(&[]).await);
    let session = busy(fleet, &router, "cancel-wrong", "cancel-wrong-mark").await;
    let passed_on = async || other.metrics().await.sum("tenantry_router_cancels_passed_on_total", &["ok"]);
    let (process_id, key) = session.cancel_key;
    until("a request to be passed on", async || {
        cancel(other.port, (process_id, !key)).await;
        (passed_on().await > 0.0).then_some(())
    })
    .await;
    cancel(router.port, (process_id, !key)).await;
    assert_eq!(running(fleet, "cancel-wrong-mark").await, 1);
    let metrics = router.metrics().await;
    assert_eq!(metrics.get("tenantry_router_cancels_total"), 0.0);
    let refused = "tenantry_router_cancels_refused_total";
    assert_eq!(metrics.sum(refused, &["\"key\""]), passed_on().await + 1.0);
    // Of nobody, and so of no router either: anybody may ask, so no line of the log tells of it.
    cancel(router.port, (1, key)).await;
    assert_eq!(router.metrics().await.sum(refused, &["\"nobody\""]), 1.0);
    assert!(!router.log().contains("cancel request"), "{}", router.log());
}

async fn a_statement_ends_at_the_server_when_its_client_vanishes(fleet: &Fleet) {
    let router = fleet.router(&[]).await;
    let session = busy(fleet, &router, "cancel-vanish", "cancel-vanish-mark").await;
    drop(session);
    until("the statement to end", async || (running(fleet, "cancel-vanish-mark").await == 0).then_some(()))
        .await;
}
