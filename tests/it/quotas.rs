//! What a tenant may use: connections, time for a statement, room.

use futures_util::FutureExt as _;

use crate::harness::{Fleet, Sql as _, code, connect, message, trials, until};

trials! {
    shared a_tenants_connections_and_statements_are_held_to_its_quota,
    shared a_tenant_over_its_size_is_read_and_not_written_until_it_has_made_room,
}

async fn a_tenants_connections_and_statements_are_held_to_its_quota(fleet: &Fleet) {
    let quotas = ["--quota", "connections=1", "--quota", "statement-timeout=300ms"];
    let shown = fleet.create("rationed", &quotas).await;
    let shown = fleet.tenant(shown["id"].as_str().unwrap()).await;
    assert_eq!(
        shown["quota"],
        serde_json::json!({ "connections": 1, "statement_timeout": "300ms" }),
        "{shown}"
    );

    let (first, second) = (fleet.connect("rationed").await, fleet.connect("rationed").await);
    let error = first.simple_query("SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(code(&error), "57014", "{error:?}");
    first.run("BEGIN").await;
    let mut waits = Box::pin(second.simple_query("SELECT 1"));
    let server = fleet.direct(shown["server"].as_str().unwrap(), "postgres").await;
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'rationed'";
    for _ in 0..20 {
        assert!(waits.as_mut().now_or_never().is_none(), "it has a second connection");
        assert_eq!(server.number(sessions).await, 1);
    }
    fleet.cli(&["tenant", "set", "rationed", "--quota", "connections=2"]).await.ok();
    waits.await.unwrap();
    first.run("COMMIT").await;

    let shown = fleet.cli(&["tenant", "set", "rationed", "--quota", "statement-timeout="]).await.ok();
    assert_eq!(shown["quota"], serde_json::json!({ "connections": 2 }), "{shown}");
    for wrong in ["connections=0", "size=many", "rows=5"] {
        fleet.cli(&["tenant", "set", "rationed", "--quota", wrong]).await.error(2);
    }
}

async fn a_tenant_over_its_size_is_read_and_not_written_until_it_has_made_room(fleet: &Fleet) {
    let quota = ["tenant", "set", "hoarder", "--quota", "size=20MB"];
    fleet.create("hoarder", &quota[3..]).await;
    let owner = fleet.connect("hoarder").await;
    owner.run("CREATE TABLE bulk (text text); CREATE TABLE small AS SELECT 7 AS value").await;
    let app = connect(&fleet.user("hoarder-app", "hoarder", &["--access", "app"]).await).await.unwrap();
    app.run("UPDATE small SET value = value").await;
    let keeping = ["--access", "app", "--pool-mode", "session"];
    let sitter = connect(&fleet.user("greedy-sitter", "hoarder", &keeping).await).await.unwrap();
    sitter.run("UPDATE small SET value = value").await;
    // What it calls itself is no reason to spare it.
    let posing = connect(&fleet.user("greedy-posing", "hoarder", &keeping).await).await.unwrap();
    owner.run("CREATE TABLE posed (n int)").await;
    posing.run("SET application_name = 'tenantry control'; BEGIN; INSERT INTO posed VALUES (1)").await;
    let reader =
        connect(&fleet.user("greedy-reader", "hoarder", &["--access", "readonly"]).await).await.unwrap();
    owner.run("ALTER TABLE bulk ALTER text SET STORAGE PLAIN").await;
    owner.run("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 20000)").await;

    // To set a quota is to have it looked at.
    until("its size to be noticed", async || {
        let shown = fleet.cli(&quota).await.ok();
        (shown["size_state"] == "over" && shown["read_only"] == true).then_some(())
    })
    .await;
    let refused = async |client: &tokio_postgres::Client, sql: &str| {
        let error = client.simple_query(sql).await.err().filter(|error| code(error) == "53100")?;
        assert!(message(&error).contains("larger than its quota"), "{error:?}");
        Some(())
    };
    until("the routers to hear of it", async || refused(&app, "UPDATE small SET value = 8").await).await;
    for sql in [
        "INSERT INTO small VALUES (8)",
        "CREATE TABLE another ()",
        "TRUNCATE small",
        "BEGIN READ WRITE; INSERT INTO small VALUES (8)",
    ] {
        assert!(refused(&owner, sql).await.is_some(), "{sql}");
        owner.run("ROLLBACK").await;
    }
    assert_eq!(owner.number("SELECT sum(value) FROM small").await, 7);
    assert_eq!(app.number("SELECT sum(value) FROM small").await, 7);
    // Who keeps its connection does not keep its role.
    assert!(refused(&sitter, "UPDATE small SET value = 8").await.is_some());
    assert_eq!(sitter.number("SELECT sum(value) FROM small").await, 7);
    until("whoever goes on in its transaction to be ended", async || {
        fleet.cli(&quota).await.ok();
        posing.simple_query("INSERT INTO posed VALUES (2)").await.err()
    })
    .await;
    // What is refused for another reason is told as ever.
    let error = reader.simple_query("UPDATE small SET value = 8").await.unwrap_err();
    assert_eq!(code(&error), "42501", "{error:?}");
    let error = owner.simple_query("BEGIN READ ONLY; TRUNCATE small").await.unwrap_err();
    assert_eq!(code(&error), "25006", "{error:?}");
    owner.run("ROLLBACK").await;

    fleet.cli(&["tenant", "set", "hoarder", "--writable-for", "10m"]).await.ok();
    until("it to be let", async || owner.simple_query("TRUNCATE bulk").await.ok()).await;
    until("its room to be noticed", async || {
        let shown = fleet.cli(&["tenant", "set", "hoarder", "--writable-for", "1ms"]).await.ok();
        (shown["size_state"] == "within" && shown["read_only"] == false).then_some(())
    })
    .await;
    app.run("UPDATE small SET value = 8").await;
    sitter.run("UPDATE small SET value = 9").await;
}
