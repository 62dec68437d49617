//! A router reads its configuration again on SIGHUP: as a whole or not at all, and nobody is dropped.

use crate::harness::{DEADLINE, Fleet, Sql as _, code, connect, message, trials, until};

trials! {
    shared a_reload_changes_a_limit_and_drops_nobody,
    shared a_bad_file_changes_nothing_and_is_explained,
    shared what_cannot_change_is_named,
    shared who_waits_does_so_no_longer_than_is_allowed_now,
    shared what_is_logged_changes_with_a_reload,
}

async fn a_reload_changes_a_limit_and_drops_nobody(fleet: &Fleet) {
    fleet.create("reload-limit", &[]).await;
    let router = fleet.router(&[]).await;
    let config = router.through(&fleet.config("reload-limit"));
    let client = connect(&config).await.unwrap();
    client.run("BEGIN").await;
    router.reload_with("clients_max = 1");
    until("the limit to be in force", async || {
        let error = connect(&config).await.err()?;
        (code(&error) == "53300").then_some(())
    })
    .await;
    client.run("COMMIT").await;
    router.reload_with("");
    until("the limit to be gone", async || connect(&config).await.ok()).await;
    client.run("SELECT 1").await;
}

async fn a_bad_file_changes_nothing_and_is_explained(fleet: &Fleet) {
    fleet.create("reload-bad", &[]).await;
    let router = fleet.router(&[]).await;
    let config = router.through(&fleet.config("reload-bad"));
    // The first is good: with the second, it is not to count.
    router.reload_with("clients_max = 1\nqueue_max = 0");
    router.logs(&["ERROR", "not reloaded", "queue_max: 0 is not allowed"]).await;
    let _clients = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    router.reload_with("this is no toml");
    router.logs(&["ERROR", "not reloaded", "router.toml line 1"]).await;
    let client = connect(&config).await.unwrap();
    client.run("SELECT 1").await;
}

async fn what_cannot_change_is_named(fleet: &Fleet) {
    let router = fleet.router(&[]).await;
    router.reload_with("workers = 7");
    router.logs(&["WARN", "workers", "started again"]).await;
    router.logs(&["configuration reloaded"]).await;
}

async fn who_waits_does_so_no_longer_than_is_allowed_now(fleet: &Fleet) {
    fleet.create("reload-wait", &[]).await;
    let router = fleet.router(&["connections_per_tenant_max=1"]).await;
    router.reload_with("queue_timeout = \"1h\"");
    router.logs(&["configuration reloaded"]).await;
    let config = router.through(&fleet.config("reload-wait"));
    let (first, second) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    first.run("BEGIN").await;
    let waiting = async {
        let error =
            tokio::time::timeout(DEADLINE, second.batch_execute("SELECT 1")).await.unwrap().unwrap_err();
        assert_eq!(code(&error), "53300");
        assert!(message(&error).contains("50ms"), "{error:?}");
    };
    let reloading = async {
        let queued = "tenantry_router_clients_queued";
        until("it to wait", async || (router.metrics().await.get(queued) == 1.0).then_some(())).await;
        router.reload_with("queue_timeout = \"50ms\"");
    };
    tokio::join!(waiting, reloading);
}

async fn what_is_logged_changes_with_a_reload(fleet: &Fleet) {
    fleet.create("reload-log", &[]).await;
    let router = fleet.router(&[]).await;
    let config = router.through(&fleet.config("reload-log"));
    connect(&config).await.unwrap();
    assert!(!router.log().contains("DEBUG"), "{}", router.log());
    router.reload_with("log = \"router=debug\"");
    router.logs(&["configuration reloaded"]).await;
    connect(&config).await.unwrap();
    router.logs(&["DEBUG", "logged in", "reload-log"]).await;
    router.reload_with("log = \"nonsense=loud\"");
    router.logs(&["not reloaded", "log", "nonsense=loud"]).await;
}
