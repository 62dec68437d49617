//! Errors reach the client as the server gave them, and a query can be stopped.

use tokio_postgres::NoTls;

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, code, trials, until};

trials! {
    shared every_field_of_an_error_is_forwarded,
    shared notices_are_forwarded,
    shared a_failed_transaction_stays_failed_until_its_end,
    shared a_running_query_can_be_cancelled,
    shared cancelling_stops_nobody_else,
    shared a_statement_timeout_ends_the_statement_only,
    shared a_server_connection_that_is_ended_is_told,
    shared replication_is_refused,
    shared nonsense_instead_of_a_message_ends_the_connection_alone,
}

async fn every_field_of_an_error_is_forwarded(fleet: &Fleet) {
    fleet.create("fields", &[]).await;
    let client = fleet.connect("fields").await;
    client.run("CREATE TABLE t (n int CONSTRAINT only_once UNIQUE); INSERT INTO t VALUES (1)").await;
    let error = client.execute("INSERT INTO t VALUES ($1)", &[&1]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.severity(), error.code().code()), ("ERROR", "23505"));
    assert!(error.message().contains("only_once"), "{error:?}");
    assert_eq!(error.detail(), Some("Key (n)=(1) already exists."));
    assert_eq!(
        (error.schema(), error.table(), error.constraint()),
        (Some("public"), Some("t"), Some("only_once"))
    );
    let raised =
        "DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'AB123', HINT = 'ask', DETAIL = 'why'; END $$";
    let error = client.batch_execute(raised).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "AB123");
    assert_eq!((error.message(), error.detail(), error.hint()), ("no", Some("why"), Some("ask")));
    let error = client.batch_execute("SELECT nothing_such").await.unwrap_err();
    let position = error.as_db_error().unwrap().position();
    assert_eq!(position, Some(&tokio_postgres::error::ErrorPosition::Original(8)));
}

async fn notices_are_forwarded(fleet: &Fleet) {
    fleet.create("noticed", &[]).await;
    let mut raw = Raw::login(&fleet.config("noticed"), &[]).await;
    raw.query("DO $$ BEGIN RAISE WARNING 'careful'; END $$");
    assert_eq!(raw.replies(1).await, ["N:01000", "C:DO", "Z:I"]);
}

async fn a_failed_transaction_stays_failed_until_its_end(fleet: &Fleet) {
    fleet.create("failed", &[]).await;
    let client = fleet.connect("failed").await;
    client.run("CREATE TABLE t (n int)").await;
    client.run("BEGIN; INSERT INTO t VALUES (1)").await;
    client.run("SAVEPOINT s").await;
    assert_eq!(client.fails("SELECT 1/0").await, "22012");
    assert_eq!(client.fails("SELECT 1").await, "25P02");
    client.run("ROLLBACK TO s").await;
    client.run("INSERT INTO t VALUES (2)").await;
    client.run("COMMIT").await;
    assert_eq!(client.column("SELECT n FROM t ORDER BY n").await, ["1", "2"]);
}

async fn a_running_query_can_be_cancelled(fleet: &Fleet) {
    fleet.create("cancelled", &["--server", "pg-1"]).await;
    let client = fleet.connect("cancelled").await;
    let token = client.cancel_token();
    let server = fleet.direct("pg-1", "postgres").await;
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'cancelled' AND query LIKE '%pg_sleep%'
        AND state = 'active' AND pid <> pg_backend_pid()";
    let sleep = client.batch_execute("SELECT pg_sleep(3600)");
    let cancel = async {
        until("the query to run", async || (server.number(running).await == 1).then_some(())).await;
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    assert_eq!(code(&slept.unwrap_err()), "57014");
    client.run("SELECT 1").await;
}

async fn cancelling_stops_nobody_else(fleet: &Fleet) {
    fleet.create("bystander", &[]).await;
    let [one, two] = [fleet.connect("bystander").await, fleet.connect("bystander").await];
    let idle = one.cancel_token();
    let (slept, ()) = tokio::join!(two.batch_execute("SELECT pg_sleep(0.3)"), async {
        for _ in 0..20 {
            // Nothing of this client runs; the connection that it had may be the other's by now.
            idle.cancel_query(NoTls).await.unwrap();
        }
    });
    slept.unwrap();
    one.run("SELECT 1").await;
}

async fn a_statement_timeout_ends_the_statement_only(fleet: &Fleet) {
    fleet.create("timely", &[]).await;
    let client = fleet.connect("timely").await;
    client.run("SET statement_timeout = '50ms'").await;
    assert_eq!(client.fails("SELECT pg_sleep(3600)").await, "57014");
    client.run("RESET statement_timeout").await;
    client.run("SELECT pg_sleep(0.1)").await;
}

async fn a_server_connection_that_is_ended_is_told(fleet: &Fleet) {
    fleet.create("ended", &["--server", "pg-1"]).await;
    let client = fleet.connect("ended").await;
    client.run("BEGIN").await;
    let pid = client.number("SELECT pg_backend_pid()").await;
    let server = fleet.direct("pg-1", "postgres").await;
    server.run(&format!("SELECT pg_terminate_backend({pid})")).await;
    let error = until("the client to be told", async || client.batch_execute("SELECT 1").await.err()).await;
    assert!(client.is_closed() || ["57P01", "08006"].contains(&code(&error).as_str()), "{error:?}");
    // An idle connection that is ended concerns nobody.
    let client = fleet.connect("ended").await;
    client.run("SELECT 1").await;
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'ended'";
    server.run(end_all).await;
    let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'ended'";
    until("them to end", async || (server.number(left).await == 0).then_some(())).await;
    until("a transaction to go through", async || client.batch_execute("SELECT 1").await.ok()).await;
}

async fn replication_is_refused(fleet: &Fleet) {
    fleet.create("not-streamed", &[]).await;
    for kind in ["database", "true"] {
        let refusal = Raw::open(&fleet.config("not-streamed"), &[("replication", kind)]).await.err();
        assert_eq!(refusal.as_deref(), Some("0A000"), "{kind}");
    }
}

async fn nonsense_instead_of_a_message_ends_the_connection_alone(fleet: &Fleet) {
    fleet.create("sturdy", &[]).await;
    let config = fleet.config("sturdy");
    let witness = fleet.connect("sturdy").await;
    let nonsense: [&[u8]; 4] =
        [b"\x00\x00\x00\x00\x00", b"Q\xff\xff\xff\xff", b"Z\x00\x00\x00\x04", b"Q\x00\x00\x00\x03"];
    for bytes in nonsense {
        let mut raw = Raw::login(&config, &[]).await;
        raw.add(|out| {
            out.extend_from_slice(bytes);
            Ok(())
        });
        raw.flush().await;
        let mut replies = Vec::new();
        while let Some(reply) = raw.reply().await {
            replies.push(reply);
        }
        assert!(replies.iter().any(|reply| reply == "E:08P01"), "{bytes:?}: {replies:?}");
        witness.run("SELECT 1").await;
    }
}
