//! What clients rarely do, answered as Postgres answers it, with nothing left behind for the next one.

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, trials, until};

trials! {
    shared a_goodbye_amid_requests_does_what_is_complete_and_nothing_else,
    shared a_goodbye_amid_a_copy_ends_it,
    shared what_a_client_left_and_cannot_be_undone_harms_nobody,
    shared a_closed_statement_comes_back_with_the_error_that_undid_its_close,
    shared a_close_behind_a_result_of_any_length_is_answered_in_its_turn,
    shared settings_that_add_up_are_replayed_together,
    shared a_session_whose_server_connection_died_does_not_go_on_with_another,
    shared notifications_name_the_client_that_sent_them,
}

async fn a_goodbye_amid_requests_does_what_is_complete_and_nothing_else(fleet: &Fleet) {
    fleet.create("goodbyes", &[]).await;
    let client = fleet.connect("goodbyes").await;
    client.run("CREATE TABLE said (what text)").await;
    let mut raw = Raw::login(&fleet.config("goodbyes"), &[]).await;
    raw.query("INSERT INTO said SELECT 'query' FROM pg_sleep(0.1)");
    raw.parse("", "INSERT INTO said VALUES ('synced')").execute("", &[]).sync();
    raw.parse("", "INSERT INTO said VALUES ('unsynced')").execute("", &[]);
    raw.terminate();
    raw.flush().await;
    while raw.reply().await.is_some() {}
    until("what was complete to be there", async || {
        (client.number("SELECT count(*) FROM said").await == 2).then_some(())
    })
    .await;
    until("the server connection to end", async || {
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
            AND pid <> pg_backend_pid() AND query LIKE '%said%' AND state <> 'idle'";
        (client.number(others).await == 0).then_some(())
    })
    .await;
    assert_eq!(client.number("SELECT count(*) FROM said WHERE what = 'unsynced'").await, 0);
}

async fn a_goodbye_amid_a_copy_ends_it(fleet: &Fleet) {
    fleet.create("copygoodbyes", &[]).await;
    let client = fleet.connect("copygoodbyes").await;
    client.run("CREATE TABLE copied (a int)").await;
    let mut raw = Raw::login(&fleet.config("copygoodbyes"), &[]).await;
    raw.query("COPY copied FROM STDIN");
    raw.flush().await;
    assert_eq!(raw.reply().await.as_deref(), Some("G"));
    raw.terminate();
    raw.flush().await;
    // It would wait for the lock for ever if the COPY went on.
    client.run("ALTER TABLE copied ADD b int").await;
}

async fn what_a_client_left_and_cannot_be_undone_harms_nobody(fleet: &Fleet) {
    fleet.create("leftovers", &[]).await;
    let first = fleet.connect("leftovers").await;
    // A parameter that nobody knows, until the language of that name is loaded and does not know it either.
    first.run("SET plpgsql.foo = 'x'").await;
    first.run("DO 'BEGIN END'").await;
    let second = fleet.connect("leftovers").await;
    assert_eq!(second.number("SELECT 1").await, 1);
}

async fn a_closed_statement_comes_back_with_the_error_that_undid_its_close(fleet: &Fleet) {
    fleet.create("unclosed", &[]).await;
    let mut raw = Raw::login(&fleet.config("unclosed"), &[]).await;
    raw.parse("one", "SELECT $1::int").bind("one", &[]).close_statement("one").sync();
    assert_eq!(raw.replies(1).await, ["1", "E:08P01", "Z:I"]);
    raw.execute("one", &["7"]).close_statement("one").sync();
    assert_eq!(raw.replies(1).await, ["2", "D:7", "C:SELECT 1", "3", "Z:I"]);
}

async fn a_close_behind_a_result_of_any_length_is_answered_in_its_turn(fleet: &Fleet) {
    fleet.create("lengthy", &[]).await;
    let client = fleet.connect("lengthy").await;
    client.run("CREATE TABLE lengthy (a text)").await;
    // What does not fill the server's buffer is sent when the commit is over.
    client.run("CREATE FUNCTION late() RETURNS trigger AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END' LANGUAGE plpgsql").await;
    let deferred = "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()";
    client.run(&format!("CREATE CONSTRAINT TRIGGER late AFTER INSERT ON lengthy {deferred}")).await;
    let mut raw = Raw::login(&fleet.config("lengthy"), &[]).await;
    let insert = "INSERT INTO lengthy VALUES (repeat('x', $1::int)) RETURNING a";
    // The end of that buffer, of 8 KiB, falls everywhere into the messages behind the row.
    for length in (8192 - 60..8192).step_by(4) {
        raw.parse("one", insert).execute("one", &[&length.to_string()]);
        let mut replies = raw.close_statement("one").sync().replies(1).await;
        assert_eq!(replies.remove(2).len(), 2 + length);
        assert_eq!(replies, ["1", "2", "C:INSERT 0 1", "3", "Z:I"], "{length}");
    }
}

async fn settings_that_add_up_are_replayed_together(fleet: &Fleet) {
    fleet.create("adding", &[]).await;
    let client = fleet.connect("adding").await;
    client.run("SET datestyle TO sql").await;
    client.run("SET datestyle TO ymd").await;
    // Somebody else keeps the connection on which that was done.
    let other = fleet.connect("adding").await;
    other.run("BEGIN; SELECT 1").await;
    assert_eq!(client.column("SHOW datestyle").await, ["SQL, YMD"]);
    other.run("COMMIT").await;
}

async fn a_session_whose_server_connection_died_does_not_go_on_with_another(fleet: &Fleet) {
    fleet.create("sessionlost", &["--server", "pg-1"]).await;
    let config = fleet.user("sessionlost", "sessionlost", &["--pool-mode", "session"]).await;
    let client = connect(&config).await.unwrap();
    let pid = client.number("SELECT pg_backend_pid()").await;
    let server = fleet.direct("pg-1", "postgres").await;
    server.run(&format!("SELECT pg_terminate_backend({pid})")).await;
    until("the client to be told", async || client.is_closed().then_some(())).await;
    assert_eq!(connect(&config).await.unwrap().number("SELECT 1").await, 1);
}

async fn notifications_name_the_client_that_sent_them(fleet: &Fleet) {
    fleet.create("notifies", &["--server", "pg-1"]).await;
    let config = fleet.config("notifies");
    let mut raw = Raw::login(&config, &[]).await;
    raw.query("LISTEN news").query("NOTIFY news, 'own'");
    let own = format!("A:news=own from {}", raw.cancel_key.0);
    assert!(raw.replies(2).await.contains(&own));
    for text in ["idle since", "gone since"] {
        let mut other = Raw::login(&config, &[]).await;
        other.query(&format!("NOTIFY news, '{text}'")).replies(1).await;
        if text == "gone since" {
            other.terminate().flush().await;
        }
        let news = format!("A:news={text} from {}", other.cancel_key.0);
        assert_eq!(raw.reply().await.unwrap(), news);
    }
    // A server's own number, for one that does not come through a router.
    let direct = fleet.direct("pg-1", "notifies").await;
    let pid = direct.number("SELECT pg_backend_pid()::bigint").await;
    direct.run("NOTIFY news, 'direct'").await;
    assert_eq!(raw.reply().await.unwrap(), format!("A:news=direct from {pid}"));
}
