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
    if newer.len() == NEWER.len() {
        a_server_of_an_old_version_is_emptied_by_plan(fleet).await;
    }
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

/// The wave, tenant, and target of each move of a plan.
fn told(plan: &Value) -> Vec<String> {
    let waves = plan["waves"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let told = waves.flat_map(|wave| {
        let number = wave["wave"].as_i64().unwrap();
        let moves = wave["moves"].as_array().unwrap().iter();
        moves.map(move |one| format!("{number} {} {}", text(&one["tenant"]), text(&one["to"])))
    });
    told.collect()
}

async fn a_server_of_an_old_version_is_emptied_by_plan(fleet: &Fleet) {
    for tenant in ["plan-a", "plan-b", "plan-c", "plan-idle"] {
        fleet.create(tenant, &["--server", "pg-1"]).await;
    }
    fleet.cli(&["tenant", "suspend", "plan-idle", "--wait"]).await.ok();
    let plan = fleet.cli(&["server", "upgrade-plan", "pg-1"]).await.ok();
    assert_eq!((&plan["version"], &plan["tenants"]), (&15.into(), &3.into()), "{plan}");
    // The newest of its class: the one of 18 is dedicated.
    let mut all = told(&plan);
    assert!(all.iter().all(|one| one.ends_with(" pg-3")), "{plan}");
    all.iter_mut().for_each(|one| one.truncate(1));
    assert_eq!(all, ["1", "2", "3"]);
    assert_eq!(plan["not_movable"][0]["tenant"], "plan-idle", "{plan}");

    let first = &plan["waves"][0]["moves"][0];
    let command: Vec<&str> = first["command"].as_str().unwrap().split(' ').skip(1).collect();
    fleet.cli(&command).await.ok();
    assert_eq!(fleet.tenant(first["tenant"].as_str().unwrap()).await["server"], "pg-3");
    assert_eq!(told(&fleet.cli(&["server", "upgrade-plan", "pg-1"]).await.ok()).len(), 2);

    for server in ["pg-2", "pg-3"] {
        fleet.cli(&["server", "drain", server]).await.ok();
    }
    let full = fleet.cli(&["server", "upgrade-plan", "pg-1"]).await.exits(4);
    assert_eq!(full.json()["unplaced"].as_array().unwrap().len(), 2, "{}", full.stdout);
    let error = full.error(4);
    for why in ["pg-1: its Postgres is not newer (15)", "pg-3: it is draining", "pg-4: it is dedicated"] {
        assert!(error.contains(why), "{error}");
    }
    for server in ["pg-2", "pg-3"] {
        fleet.cli(&["server", "drain", server, "--undo"]).await.ok();
    }
    let newest = fleet.cli(&["server", "upgrade-plan", "pg-4"]).await;
    assert!(newest.hint().contains("tenantry server add"), "{}", newest.hint());
    assert!(newest.error(4).contains("no server has a newer Postgres than pg-4, which has 18"));
    fleet.cli(&["server", "upgrade-plan", "pg-9"]).await.error(3);
}
