//! Tenants are suspended, resumed, deleted and brought back.

use crate::harness::{Fleet, Sql as _, code, connect, trials, until};

trials! {
    shared a_suspended_tenant_is_refused_until_resumed,
    shared a_client_that_is_connected_is_refused_when_its_tenant_is_suspended,
    shared resuming_lets_the_router_in_again_that_a_changed_password_kept_out,
    shared a_deleted_tenant_is_unknown_until_undeleted,
    shared deleting_now_removes_database_and_roles,
    shared destroying_needs_a_yes,
    shared a_name_that_was_freed_can_be_taken_again,
    shared a_tenant_cannot_be_changed_in_the_wrong_state,
}

/// Makes a tenant with a row in it.
async fn with_data(fleet: &Fleet, tenant: &str) {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let client = fleet.connect(tenant).await;
    client.run("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await;
}

/// Waits until connecting is answered with this SQLSTATE.
async fn refused_with(fleet: &Fleet, tenant: &str, sqlstate: &str) {
    until(&format!("{tenant} to be refused with {sqlstate}"), async || {
        let error = connect(&fleet.config(tenant)).await.err()?;
        (code(&error) == sqlstate).then_some(())
    })
    .await;
}

/// Waits until the tenant is served, and looks for its row.
async fn has_its_data(fleet: &Fleet, tenant: &str) {
    let client = until("the tenant to be served", async || connect(&fleet.config(tenant)).await.ok()).await;
    assert_eq!(client.number("SELECT n FROM kept").await, 7);
}

async fn a_suspended_tenant_is_refused_until_resumed(fleet: &Fleet) {
    with_data(fleet, "suspended").await;
    let shown = fleet.cli(&["tenant", "suspend", "suspended", "--wait"]).await.ok();
    assert_eq!(shown["state"], "suspended");
    refused_with(fleet, "suspended", "57P03").await;
    let shown = fleet.cli(&["tenant", "resume", "suspended", "--wait"]).await.ok();
    assert_eq!(shown["state"], "open");
    has_its_data(fleet, "suspended").await;
}

async fn a_client_that_is_connected_is_refused_when_its_tenant_is_suspended(fleet: &Fleet) {
    with_data(fleet, "suspended-live").await;
    let client = fleet.connect("suspended-live").await;
    client.run("SELECT 1").await;
    fleet.cli(&["tenant", "suspend", "suspended-live"]).await.ok();
    let error = until("the session to be refused", async || {
        client.batch_execute("INSERT INTO kept VALUES (8)").await.err()
    })
    .await;
    // The refusal itself, or the end of the connection that it brought.
    assert!(client.is_closed() || code(&error) == "57P03", "{error:?}");
    fleet.cli(&["tenant", "resume", "suspended-live"]).await.ok();
    has_its_data(fleet, "suspended-live").await;
}

async fn resuming_lets_the_router_in_again_that_a_changed_password_kept_out(fleet: &Fleet) {
    with_data(fleet, "locked-out").await;
    let client = fleet.connect("locked-out").await;
    let change = "EXECUTE format('ALTER ROLE %I PASSWORD %L', current_user, 'mine')";
    client.run(&format!("DO $$ BEGIN {change}; END $$")).await;
    drop(client);
    fleet.cli(&["tenant", "suspend", "locked-out"]).await.ok();
    fleet.cli(&["tenant", "resume", "locked-out"]).await.ok();
    has_its_data(fleet, "locked-out").await;
}

async fn a_deleted_tenant_is_unknown_until_undeleted(fleet: &Fleet) {
    with_data(fleet, "regretted").await;
    let shown = fleet.cli(&["tenant", "delete", "regretted", "--yes", "--wait"]).await.ok();
    assert_eq!(shown["state"], "deleted");
    refused_with(fleet, "regretted", "3D000").await;
    let shown = fleet.cli(&["tenant", "undelete", "regretted", "--wait"]).await.ok();
    assert_eq!(shown["state"], "open");
    has_its_data(fleet, "regretted").await;
}

async fn deleting_now_removes_database_and_roles(fleet: &Fleet) {
    with_data(fleet, "doomed").await;
    fleet.cli(&["tenant", "delete", "doomed", "--now", "--yes"]).await.ok();
    fleet.cli(&["tenant", "show", "doomed"]).await.error(3);
    refused_with(fleet, "doomed", "3D000").await;
    let server = fleet.direct("pg-1", "postgres").await;
    let left = "SELECT datname FROM pg_database WHERE datname LIKE 'doomed%'
        UNION ALL SELECT rolname FROM pg_roles WHERE rolname LIKE 'doomed%'";
    assert_eq!(server.column(left).await, Vec::<String>::new());
    fleet.cli(&["tenant", "undelete", "doomed"]).await.error(3);
}

async fn destroying_needs_a_yes(fleet: &Fleet) {
    with_data(fleet, "spared").await;
    let output = fleet.cli(&["tenant", "delete", "spared"]).await.exits(2);
    assert!(output.hint().contains("--yes"), "{}", output.stderr);
    fleet.cli(&["tenant", "delete", "spared", "--now"]).await.error(2);
    assert_eq!(fleet.tenant("spared").await["state"], "open");
    has_its_data(fleet, "spared").await;
}

async fn a_name_that_was_freed_can_be_taken_again(fleet: &Fleet) {
    with_data(fleet, "phoenix").await;
    let before = fleet.tenant("phoenix").await["epoch"].as_i64().unwrap();
    fleet.cli(&["tenant", "delete", "phoenix", "--now", "--yes"]).await.ok();
    let after = fleet.create("phoenix", &["--server", "pg-2"]).await["epoch"].as_i64().unwrap();
    assert!(after > before, "an epoch only ever grows: {before}, then {after}");
    let client = until("the new one to be served", async || {
        let client = connect(&fleet.config("phoenix")).await.ok()?;
        client.batch_execute("SELECT 1").await.ok().map(|()| client)
    })
    .await;
    assert_eq!(client.fails("SELECT n FROM kept").await, "42P01", "nothing of the old one is there");
}

async fn a_tenant_cannot_be_changed_in_the_wrong_state(fleet: &Fleet) {
    fleet.create("stubborn", &[]).await;
    fleet.cli(&["tenant", "resume", "stubborn"]).await.error(4);
    fleet.cli(&["tenant", "undelete", "stubborn"]).await.error(4);
    fleet.cli(&["tenant", "suspend", "stubborn"]).await.ok();
    let error = fleet.cli(&["tenant", "suspend", "stubborn"]).await.error(4);
    assert!(error.contains("suspended"), "{error}");
    fleet.cli(&["move", "start", "stubborn", "--to", "pg-3"]).await.error(4);
}
