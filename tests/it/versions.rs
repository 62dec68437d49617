//! Tenants move to newer major versions of Postgres and back again while their clients work, and nothing is lost.

use futures_util::future::join_all;
use serde_json::Value;
use tokio_postgres::Client;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, NEWER, Sql as _, trials, until};
use crate::moves::databases;
use crate::moves_reverse::{id_of, reverse, show};
use crate::moves_schema::{UNUSUAL, contents};

trials! {
    versions tenants_go_to_newer_versions_and_back_under_load,
}

const MORE: &str = "
    CREATE TABLE ids (id bigint GENERATED ALWAYS AS IDENTITY (START 5 INCREMENT 5) PRIMARY KEY, text text,
        half int GENERATED ALWAYS AS (length(text) / 2) STORED);
    INSERT INTO ids (text) SELECT repeat('x', n) FROM generate_series(1, 50) n;
    CREATE SEQUENCE cached CACHE 10; SELECT nextval('cached');
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.text := NEW.text || ''!''; RETURN NEW; END';
    CREATE TRIGGER noted BEFORE INSERT ON ids FOR EACH ROW EXECUTE FUNCTION noted();";

/// All kinds of changes of all kinds of tables; some may be repeated.
const WRITES: &str = "
    INSERT INTO ids (text) VALUES ('here');
    UPDATE ids SET text = text || '?' WHERE id % 2 = 0;
    UPDATE keyless SET n = -n WHERE n = 3;
    INSERT INTO measured VALUES ('eu', '2018-01-01', 1), ('asia', now(), 2) ON CONFLICT DO NOTHING;
    UPDATE measured SET value = value + 1;
    UPDATE wide SET long = long || 'x' WHERE id < 4; DELETE FROM wide WHERE id > 18;
    UPDATE secret SET what = what || '.';
    UPDATE \"Odd Names\".\"Table with \"\"quotes\"\" and $\" SET amount = amount + 1, count = 2;
    BEGIN; TRUNCATE child; INSERT INTO child VALUES (7, 'c', 'again'); COMMIT;
    REFRESH MATERIALIZED VIEW filled;
    SELECT nextval('down'), nextval('cached')";

/// The servers of versions newer than the first one's.
async fn newer(fleet: &Fleet) -> Vec<(&'static str, &'static str)> {
    let usual = major(fleet, "pg-1").await;
    let newer = NEWER.into_iter().filter(|(_, major)| major.parse::<i64>().unwrap() > usual);
    newer.collect()
}

async fn major(fleet: &Fleet, server: &str) -> i64 {
    let sql = "SELECT current_setting('server_version_num')::int / 10000";
    fleet.direct(server, "postgres").await.number(sql).await
}

/// What writers at work do not change.
async fn settled(fleet: &Fleet, server: &str, tenant: &str) -> Vec<String> {
    let mut lines = contents(fleet, server, tenant).await;
    lines.retain(|line| !line.starts_with("entries:") && !line.starts_with("totals:"));
    lines
}

async fn tenants_go_to_newer_versions_and_back_under_load(fleet: &mut Fleet) {
    let fleet = &*fleet;
    let newer = newer(fleet).await;
    assert!(newer.len() == NEWER.len() || major(fleet, "pg-1").await > 15, "{newer:?}");
    join_all(newer.iter().map(|(server, version)| there_and_back(fleet, server, version))).await;
    what_can_not_be_is_told_before_anything_happens(fleet).await;
}

async fn what_can_not_be_is_told_before_anything_happens(fleet: &Fleet) {
    let [(older, _), (newer, _), _] = NEWER;
    fleet.create("stays", &["--server", newer]).await;
    let refused = fleet.cli(&["move", "start", "stays", "--to", older]).await;
    assert!(refused.hint().contains("the same or a newer version"), "{}", refused.hint());
    refused.error(4);
    let usual = major(fleet, "pg-1").await;
    if usual < major(fleet, older).await {
        fleet.create("ahead", &["--server", older]).await;
        let refused = fleet.cli(&["move", "start", "ahead", "--to", newer]).await;
        assert!(refused.hint().contains("install postgresql-client-16"), "{}", refused.hint());
        let error = refused.error(4);
        let told = format!("pg_dump is of version {usual}, and server {older} of 16");
        assert!(error.contains(&told), "{error}");
        assert_eq!(databases(fleet, newer, "ahead").await, Vec::<String>::new());
        assert_eq!(fleet.tenant("ahead").await["state"], "open");
    }
}

async fn there_and_back(fleet: &Fleet, server: &str, version: &str) {
    let tenant = &format!("to-{version}");
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let client = fleet.connect(tenant).await;
    client.run(UNUSUAL).await;
    client.run(MORE).await;
    let ledger = Ledger::start(fleet, tenant, 2).await;
    let rows = settled(fleet, "pg-1", tenant).await;

    let args = ["move", "start", tenant, "--to", server, "--verify", "full", "--wait", "--timeout", "5m"];
    let moved = fleet.cli(&args).await.ok();
    assert_eq!((&moved["state"], &moved["verified"]), (&"switched".into(), &true.into()), "{moved}");
    assert!(moved["reversible_until"].is_string(), "{moved}");
    assert_eq!(settled(fleet, server, tenant).await, rows);
    ledger.goes_on().await;
    assert_eq!(client.column("SHOW server_version").await[0].split('.').next(), Some(version));
    client.run(WRITES).await;
    reindex(&client).await;
    assert!(show(fleet, &id_of(&moved)).await["reversible_until"].is_string(), "{version}");
    assert_eq!(client.column("SELECT text || half FROM ids ORDER BY id DESC LIMIT 1").await, ["here!2"]);
    let rows = settled(fleet, server, tenant).await;

    let back = reverse_with_a_reindex(fleet, &client, &id_of(&moved), tenant).await;
    assert_eq!(settled(fleet, "pg-1", tenant).await, rows);
    ledger.goes_on().await;
    client.run(WRITES).await;
    let ids = "SELECT string_agg(id::text, ' ') FROM (SELECT id FROM ids ORDER BY id DESC LIMIT 2) x";
    assert_eq!(client.column(ids).await, ["260 255"], "the identity goes on");
    assert_eq!(client.column("SELECT nextval('down')").await, ["30"]);
    // The newer server follows the older one, too: once more, without a copy.
    let again = reverse(fleet, &id_of(&back), server).await;
    ledger.goes_on().await;
    assert_eq!(client.fails("CREATE POLICY own ON secret USING (true)").await, "42710");
    let forced = "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'secret'";
    assert_eq!(client.column(forced).await, ["t"], "row security is forced as before");
    fleet.cli(&["move", "complete", &id_of(&again), "--wait"]).await.ok();
    assert!(ledger.errors().is_empty(), "{version}: a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
}

/// It changes no schema, though from 17 on event triggers are told of it.
async fn reindex(client: &Client) {
    client.run("REINDEX TABLE ids").await;
    client.run("REINDEX TABLE CONCURRENTLY keyless").await;
}

/// Turns a move round while a transaction keeps it from its cutover for as long as a REINDEX takes.
async fn reverse_with_a_reindex(fleet: &Fleet, client: &Client, id: &str, tenant: &str) -> Value {
    let blocker = fleet.connect(tenant).await;
    blocker.run("BEGIN; SELECT 1").await;
    let back = id_of(&fleet.cli(&["move", "reverse", id]).await.ok());
    until("it to wait", async || show(fleet, &back).await["waiting_for"].is_string().then_some(())).await;
    reindex(client).await;
    assert_eq!(client.fails("CREATE TABLE more (n int)").await, "TT002", "the guard is there");
    blocker.run("COMMIT").await;
    until("it to end", async || {
        let shown = show(fleet, &back).await;
        (shown["state"] != "running").then(|| {
            assert_eq!((&shown["state"], &shown["verified"]), (&"switched".into(), &true.into()), "{shown}");
            shown
        })
    })
    .await
}
