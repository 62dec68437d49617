//! Two control planes that both believe they lead: the one with the lower term can change nothing, anywhere.

use rustix::process::{Pid, Signal};
use serde_json::json;

use crate::harness::ledger::Ledger;
use crate::harness::{Fleet, SecondControl, Sql as _, signal, trials, until};
use crate::map_damage::{catalog, found};
use crate::page_served::Events;
use crate::recovery::{ends_in_one_place, has_come_to, has_its_bulk, with_bulk};

trials! {
    own a_registry_takes_nothing_under_a_lower_term,
    own a_controller_that_wakes_up_in_the_middle_of_a_move_changes_nothing,
    own a_controller_that_died_leads_again_where_it_is_started_again,
}

async fn a_registry_takes_nothing_under_a_lower_term(fleet: &mut Fleet) {
    for (tenant, server) in [("one", "pg-1"), ("two", "pg-2"), ("three", "pg-3")] {
        fleet.create(tenant, &["--server", server]).await;
        let registry = fleet.direct(server, "tenantry").await;
        let all = "SELECT t.* FROM tenant t UNION ALL SELECT c::text, '', term, '', '', '', 0, NULL FROM controller_term c";
        registry.run("SELECT check_term(1000)").await;
        let before = registry.column(&format!("SELECT x::text FROM ({all}) x ORDER BY 1")).await;
        for stale in [
            "SELECT check_term(999)".to_owned(),
            format!(
                "SELECT write_tenant(999, '{tenant}', '{{open}}', 'suspended', '{tenant}', 9223372036854775807)"
            ),
            format!(
                "SELECT write_tenant(999, '{tenant}', '{{open}}', 'sealed', '{tenant}', 9223372036854775807, 'pg-9', 'x:1')"
            ),
            "SELECT write_tenant(999, 'another', '{NULL}', 'open', 'another', 1)".to_owned(),
            format!("SELECT remove_tenant(999, '{tenant}', '{{open}}')"),
        ] {
            assert_eq!(registry.fails(&stale).await, "TT001", "{stale}");
            // Whatever else it does in the same transaction goes with it: this is how a fence or a rename is guarded.
            let beside = format!("BEGIN; ALTER DATABASE \"{tenant}\" CONNECTION LIMIT 0; {stale}; COMMIT");
            assert_eq!(registry.fails(&beside).await, "TT001");
            registry.run("ROLLBACK").await;
        }
        let limit = format!("SELECT datconnlimit FROM pg_database WHERE datname = '{tenant}'");
        assert_eq!(registry.number(&limit).await, -1);
        assert_eq!(registry.column(&format!("SELECT x::text FROM ({all}) x ORDER BY 1")).await, before);
        // The same under the term that it has seen is taken.
        registry
            .run(&format!(
                "SELECT write_tenant(1000, '{tenant}', '{{open}}', 'open', '{tenant}', 9223372036854775807)"
            ))
            .await;
    }
}

async fn a_controller_that_wakes_up_in_the_middle_of_a_move_changes_nothing(fleet: &mut Fleet) {
    with_bulk(fleet, "wanted", "pg-1").await;
    let ledger = Ledger::start(fleet, "wanted", 3).await;
    let first = fleet.process("control").unwrap();
    let second = fleet.second_control();
    let catalog = catalog(fleet).await;
    a_follower_tells_what_goes_on(fleet, &second).await;
    a_follower_takes_orders(fleet, &second).await;
    for (phase, to) in [("copy", "pg-3"), ("catch_up", "pg-1"), ("cutover", "pg-3")] {
        let led = catalog.number("SELECT term FROM lease").await;
        let id = fleet.cli(&["move", "start", "wanted", "--to", to]).await.ok()["id"].as_i64().unwrap();
        has_come_to(&catalog, id, phase).await;
        let holder = catalog.column("SELECT holder FROM lease").await.remove(0);
        let leader = if holder.starts_with("control-2/") { second.pid() } else { first };
        signal(leader, Signal::STOP);
        until("the other one to lead", async || {
            (catalog.number("SELECT term FROM lease").await > led).then_some(())
        })
        .await;
        until("the move to end", async || {
            let state = catalog.column(&format!("SELECT state FROM operation WHERE id = {id}")).await;
            (state != ["running"]).then_some(())
        })
        .await;
        let all = "SELECT t::text FROM tenant t ORDER BY 1";
        let before = (
            catalog.column(all).await,
            fleet.direct("pg-1", "tenantry").await.column(all).await,
            fleet.direct("pg-3", "tenantry").await.column(all).await,
        );
        signal(leader, Signal::CONT);
        until("the one that wakes up to notice", async || {
            (fleet.cli(&["move", "show", &id.to_string()]).await.status == 0).then_some(())
        })
        .await;
        let ended = ends_in_one_place(fleet, "wanted", id).await;
        assert_eq!(ended["state"], "switched", "{phase}: {ended}");
        ledger.goes_on().await;
        let after = (
            catalog.column(all).await,
            fleet.direct("pg-1", "tenantry").await.column(all).await,
            fleet.direct("pg-3", "tenantry").await.column(all).await,
        );
        assert_eq!(before, after, "{phase}");
    }
    the_command_line_finds_who_leads(fleet, first, &second).await;
    assert_eq!(found(fleet).await, Vec::<String>::new());
    assert!(ledger.errors().is_empty(), "a client saw {:?}", ledger.errors());
    ledger.reckon(fleet).await;
    has_its_bulk(fleet, "wanted").await;
}

/// Watchers of an instance that does not lead are told of the fleet, and of each move to its end.
async fn a_follower_tells_what_goes_on(fleet: &Fleet, second: &SecondControl) {
    let api = format!("http://{}", second.address());
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    until("the second one to serve", async || {
        client.get(format!("{api}/healthz")).send().await.ok().filter(|answer| answer.status().is_success())
    })
    .await;
    fleet.create("watched", &["--server", "pg-1"]).await;
    let mut events = Events::listen_at(fleet, &api).await;
    let seen = events.find("fleet", |fleet| fleet["servers"][0]["seen"]["version"].is_string()).await;
    assert_eq!((&seen["leads"], &seen["instance"]), (&json!(false), &json!("control-2")), "{seen}");
    assert!(seen["leader"].as_str().unwrap().starts_with("control-1/"), "{seen}");
    let started = fleet.cli(&["move", "start", "watched", "--to", "pg-2"]).await.ok();
    events.find("move", |told| told["id"] == started["id"] && told["state"] == "running").await;
    events.find("move", |told| told["id"] == started["id"] && told["state"] == "switched").await;
}

/// What is asked of an instance that does not lead is done by the one that does.
async fn a_follower_takes_orders(fleet: &Fleet, second: &SecondControl) {
    let api = format!("http://{}", second.address());
    let ask = async |args: &[&str]| fleet.cli_in(&[("TENANTRY_API", &api)], args).await;
    fleet.connect("watched").await.run("CREATE TABLE marks (seen pg_lsn)").await;
    // A move that failed before the order does not count: the tenant is tried, and refused.
    let failed = "INSERT INTO operation (kind, tenant, state, step, input, error)
        VALUES ('move', 'watched', 'failed', 'undone', '{\"from\": \"pg-2\", \"to\": \"pg-1\"}', 'no room')";
    catalog(fleet).await.run(failed).await;
    ask(&["server", "drain", "pg-2"]).await.ok();
    let stays = ask(&["server", "drain", "pg-2", "--wait", "--timeout", "10m"]).await.exits(1);
    let kept = stays.json()["set_aside"]["listed"][0].clone();
    assert_eq!(kept["tenant"], "watched", "{}", stays.stdout);
    assert!(kept["why"].as_str().unwrap().contains("log positions"), "{kept}");
    let shown = ask(&["server", "show", "pg-2"]).await.ok();
    assert_eq!(shown["drain"]["set_aside"]["count"], 1, "{shown}");
    assert_eq!(ask(&["server", "drain", "pg-2", "--undo"]).await.ok()["state"], "active");
    let moves = ask(&["move", "list"]).await.ok();
    let made = moves.as_array().unwrap().iter().find(|one| one["state"] == "switched").unwrap();
    assert_eq!(made["tenant"], "watched", "{made}");
    let ended = ask(&["move", "complete", &made["id"].to_string(), "--wait"]).await.ok();
    assert_eq!(ended["state"], "completed", "{ended}");
}

/// Who knows both addresses does not have to know which of them leads, also when that one dies.
async fn the_command_line_finds_who_leads(fleet: &Fleet, first: Pid, second: &SecondControl) {
    let catalog = catalog(fleet).await;
    let (one, other) = (fleet.variable("TENANTRY_API").to_owned(), format!("http://{}", second.address()));
    let ask = async |api: &str, args: &[&str]| fleet.cli_in(&[("TENANTRY_API", api)], args).await;
    let url = fleet.server_url("pg-2");
    // Only who leads says what of a server's own registry is changed.
    let orders = ["server", "add", "pg-2", "--url", &url];
    for api in [format!("{one},{other}"), format!("{other},{one}")] {
        ask(&api, &orders).await.ok();
    }
    let does_second_lead =
        catalog.column("SELECT holder FROM lease").await.remove(0).starts_with("control-2/");
    let (leader, follower) = if does_second_lead { (&other, &one) } else { (&one, &other) };
    ask(follower, &orders).await.error(5);
    let _down = fleet.keep_parts_down();
    signal(if does_second_lead { second.pid() } else { first }, Signal::KILL);
    ask(&format!("{leader},{follower}"), &orders).await.ok();
}

async fn a_controller_that_died_leads_again_where_it_is_started_again(fleet: &mut Fleet) {
    let catalog = catalog(fleet).await;
    let led =
        async || catalog.number("SELECT coalesce(max(term), 0) FROM lease WHERE expires_at > now()").await;
    let before = led().await;
    // A lease that nobody waits for to run out.
    let control = fleet.take_control(&["lease_duration=1h"]);
    until("it to lead", async || (led().await > before).then_some(())).await;
    for died in 1..=2 {
        control.kill();
        control.start_again();
        until("it to have the lease again", async || (led().await == before + 1 + died).then_some(())).await;
    }
    fleet.create("made", &[]).await;
    // One of the same name beside it, which lives: it has to wait.
    let work = format!("work_dir={}", fleet.path().join("control").display());
    let namesake = fleet.second_control_with(&["name=control-1", &work]);
    let page = format!("http://{}/metrics", namesake.address());
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    until("it to have asked for the lease", async || {
        let page = http.get(&page).send().await.ok()?.text().await.ok()?;
        let asked = "tenantry_catalog_query_duration_seconds_count{query=\"lease_hold\"}";
        page.lines().any(|line| line.starts_with(asked)).then_some(())
    })
    .await;
    assert_eq!(led().await, before + 3);
}
