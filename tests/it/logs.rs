//! What a router's log says of its clients, and what it never says.

use crate::harness::{Fleet, Sql as _, code, connect, trials, until};

trials! {
    shared a_refused_login_is_told_with_who_and_where,
    shared a_session_ended_by_a_limit_is_told_and_each_line_is_json,
    shared no_secret_and_no_statement_is_logged_at_any_level,
}

async fn a_refused_login_is_told_with_who_and_where(fleet: &Fleet) {
    fleet.create("logged", &[]).await;
    let router = fleet.router(&[]).await;
    let mut config = router.through(&fleet.config_as("nobody-here", "guessed-password", "logged"));
    assert_eq!(code(&connect(&config).await.err().unwrap()), "28P01");
    let line = until("the refusal to be logged", async || {
        router.log().lines().find(|line| line.contains("login refused")).map(str::to_owned)
    })
    .await;
    for part in ["INFO", "nobody-here", "logged", "127.0.0.1", "28P01"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!router.log().contains("guessed-password"));
    config.user("nobody-else");
    assert_eq!(code(&connect(&config).await.err().unwrap()), "28P01");
}

async fn a_session_ended_by_a_limit_is_told_and_each_line_is_json(fleet: &Fleet) {
    fleet.create("logjson", &[]).await;
    let settings = ["idle_transaction_timeout=100ms"];
    let router = fleet.router_logging_json(&settings).await;
    let client = connect(&router.through(&fleet.config("logjson"))).await.unwrap();
    client.run("BEGIN").await;
    let line = until("the end to be logged", async || {
        router.log().lines().find(|line| line.contains("25P03")).map(str::to_owned)
    })
    .await;
    for line in router.log().lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&told["tenant"], &told["user"]),
        (&"logjson".into(), &fleet.variable("TENANTRY_USER").into())
    );
}

async fn no_secret_and_no_statement_is_logged_at_any_level(fleet: &Fleet) {
    fleet.create("logquiet", &[]).await;
    let router = fleet.router(&["log=trace"]).await;
    let config = router.through(&fleet.config("logquiet"));
    let client = connect(&config).await.unwrap();
    assert_eq!(client.number("SELECT count(*) FROM (VALUES ('a_value_of_a_customer')) v").await, 1);
    client.query("SELECT $1 || 'another_value'", &[&"a_parameter"]).await.unwrap();
    client.simple_query("SELECT a_column_that_is_not_there").await.unwrap_err();
    drop(client);
    let log = router.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    let password = fleet.variable("TENANTRY_PASSWORD");
    for secret in [password, "a_value_of", "another_value", "a_parameter", "a_column", "SCRAM-SHA-256$"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
