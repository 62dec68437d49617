//! Tenants come into being: where, with which rights, and what a wrong wish is answered.

use futures_util::future::join_all;
use serde_json::Value;

use crate::harness::{Fleet, Sql as _, trials, until};
use crate::page_served::get;

trials! {
    shared a_database_that_was_there_before_is_neither_adopted_nor_dropped,
    shared a_new_tenant_serves_when_create_returns,
    shared a_tenant_is_shown_and_listed_with_its_place,
    shared a_tenants_roles_can_neither_administer_the_server_nor_lift_a_fence,
    shared nobody_but_its_own_roles_enters_a_tenants_database,
    shared wrong_wishes_are_refused_with_the_status_that_says_whose_fault_it_is,
    own new_tenants_spread_over_the_shared_servers_only,
    own tenants_go_where_the_declared_policy_lets_them,
    own a_server_with_much_at_work_is_passed_over,
    own a_creation_that_was_cut_short_is_finished,
    shared without_a_control_plane_commands_exit_5,
}

async fn a_new_tenant_serves_when_create_returns(fleet: &Fleet) {
    let shown = fleet.create("fresh", &[]).await;
    assert_eq!(shown["state"], "open");
    let client = fleet.connect("fresh").await;
    client.run("CREATE TABLE greeting (text text); INSERT INTO greeting VALUES ('hello')").await;
    assert_eq!(client.column("SELECT text FROM greeting").await, ["hello"]);
    assert_eq!(client.column("SELECT current_database()").await, ["fresh"]);
}

async fn a_tenant_is_shown_and_listed_with_its_place(fleet: &Fleet) {
    let labels = ["--label", "shown=yes", "--label", "plan=gold"];
    fleet.create("shown-1", &[&["--server", "pg-2"], &labels[..]].concat()).await;
    fleet.create("shown-2", &["--server", "pg-1", "--label", "shown=yes"]).await;

    let shown = fleet.tenant("shown-1").await;
    for (key, value) in [("id", "shown-1"), ("state", "open"), ("server", "pg-2"), ("database", "shown-1")] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(shown["labels"], serde_json::json!({ "shown": "yes", "plan": "gold" }));
    assert!(shown["epoch"].is_i64(), "{shown}");
    assert!(shown.as_object().unwrap().contains_key("schema_version"), "{shown}");

    let ids = |list: Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    };
    let of_selector = fleet.cli(&["tenant", "list", "--selector", "shown=yes"]).await.ok();
    assert_eq!(ids(of_selector), ["shown-1", "shown-2"]);
    let of_both = fleet.cli(&["tenant", "list", "--selector", "shown=yes", "--server", "pg-1"]).await.ok();
    assert_eq!(ids(of_both), ["shown-2"]);
}

async fn a_tenants_roles_can_neither_administer_the_server_nor_lift_a_fence(fleet: &Fleet) {
    fleet.create("modest", &["--server", "pg-1"]).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let roles = server
        .query(
            "SELECT rolname::text, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls,
                 rolcanlogin, rolname = (SELECT r.rolname FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
                     WHERE datname = 'modest')
             FROM pg_roles WHERE rolname LIKE 'modest\\_\\_%' ORDER BY 1",
            &[],
        )
        .await
        .unwrap();
    let names: Vec<&str> = roles.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, ["modest__app", "modest__owner", "modest__readonly"]);
    for row in &roles {
        let (name, is_powerful, may_log_in, is_owner): (&str, bool, bool, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        assert!(may_log_in && !is_powerful && !is_owner, "{name}");
    }
    let owner = fleet.connect("modest").await;
    assert_eq!(owner.fails("ALTER DATABASE modest CONNECTION LIMIT 5").await, "42501");
    assert_eq!(owner.fails("CREATE DATABASE another").await, "42501");
    assert_eq!(owner.fails("CREATE ROLE another").await, "42501");
}

async fn nobody_but_its_own_roles_enters_a_tenants_database(fleet: &Fleet) {
    fleet.create("private", &["--server", "pg-1"]).await;
    fleet.create("neighbour", &["--server", "pg-1"]).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let may = "SELECT has_database_privilege('neighbour__owner', 'private', 'CONNECT')::text";
    assert_eq!(server.column(may).await, ["false"]);
    let may = "SELECT has_database_privilege('private__app', 'private', 'CONNECT')::text";
    assert_eq!(server.column(may).await, ["true"]);
}

async fn wrong_wishes_are_refused_with_the_status_that_says_whose_fault_it_is(fleet: &Fleet) {
    fleet.create("taken", &[]).await;
    let error = fleet.cli(&["tenant", "create", "taken", "--wait"]).await.error(4);
    assert!(error.contains("taken") && error.contains("exists"), "{error}");
    let error = fleet.cli(&["tenant", "create", "homeless", "--server", "pg-99"]).await.error(3);
    assert!(error.contains("pg-99"), "{error}");
    let error = fleet.cli(&["tenant", "show", "nobody-here"]).await.error(3);
    assert!(error.contains("nobody-here"), "{error}");
    for verb in ["suspend", "resume", "undelete"] {
        fleet.cli(&["tenant", verb, "nobody-here"]).await.error(3);
    }
    fleet.cli(&["tenant", "delete", "nobody-here", "--yes"]).await.error(3);
    let too_long = "x".repeat(41);
    for id in ["Upper", "-dash", "a b", "quo'te", "", "ümlaut", too_long.as_str()] {
        let output = fleet.cli(&["tenant", "create", "--", id]).await.exits(2);
        assert!(output.stdout.is_empty(), "{id:?}: {}", output.stdout);
    }
    fleet.cli(&["tenant", "show", "homeless"]).await.error(3);
}

async fn new_tenants_spread_over_the_shared_servers_only(fleet: &mut Fleet) {
    let mut servers = Vec::new();
    for i in 1..=4 {
        let shown = fleet.create(&format!("spread-{i}"), &[]).await;
        servers.push(shown["server"].as_str().unwrap().to_owned());
    }
    servers.sort();
    assert_eq!(servers, ["pg-1", "pg-1", "pg-2", "pg-2"], "each goes to the least loaded");
    fleet.create("heavy-1", &["--server", "pg-2"]).await;
    fleet.create("heavy-2", &["--server", "pg-2"]).await;
    assert_eq!(fleet.create("light", &[]).await["server"], "pg-1");
    let dedicated = fleet.create("special", &["--class", "dedicated"]).await;
    assert_eq!(dedicated["server"], "pg-3");
}

async fn tenants_go_where_the_declared_policy_lets_them(fleet: &mut Fleet) {
    let path = fleet.path().join("policy.toml");
    let apply = async |text: &str| {
        std::fs::write(&path, text).unwrap();
        fleet.cli(&["map", "apply", path.to_str().unwrap()]).await.ok();
    };
    apply("[placement]\nanti_affinity = ['group']\n[placement.shared]\ncapacity = { tenants_max = 2 }\nquota = { connections = 7 }\n")
        .await;
    let grouped = |name: &'static str, more: &'static [&'static str]| {
        [&["tenant", "create", name, "--label", "group=acme"][..], more].concat()
    };

    let planned = fleet.cli(&grouped("first", &["--dry-run"])).await.ok();
    assert_eq!(planned["server"], "pg-1", "{planned}");
    let verdict = |plan: &Value, server: &str| {
        plan["servers"].as_array().unwrap().iter().find(|v| v["server"] == server).unwrap().clone()
    };
    assert_eq!(verdict(&planned, "pg-2")["fits"], true);
    assert!(verdict(&planned, "pg-3")["reason"].as_str().unwrap().contains("dedicated"), "{planned}");
    fleet.cli(&["tenant", "show", "first"]).await.error(3);

    assert_eq!(fleet.cli(&grouped("first", &["--wait"])).await.ok()["server"], planned["server"]);
    assert_eq!(fleet.tenant("first").await["quota"]["connections"], 7, "by its server's class");
    let second = fleet.cli(&grouped("second", &["--dry-run"])).await.ok();
    assert!(verdict(&second, "pg-1")["reason"].as_str().unwrap().contains("group=acme"), "{second}");
    assert_eq!(fleet.cli(&grouped("second", &["--wait"])).await.ok()["server"], "pg-2");
    for more in [&["--dry-run"][..], &["--wait"]] {
        let refused = fleet.cli(&[&grouped("third", &[])[..], more].concat()).await.error(4);
        let named =
            ["pg-1: a tenant with group=acme", "pg-2: a tenant with group=acme", "pg-3: it is dedicated"];
        assert!(named.iter().all(|reason| refused.contains(reason)), "{refused}");
    }

    // A move goes where it is told to, and says what the policy would say.
    let planned = fleet.cli(&["move", "start", "second", "--to", "pg-1", "--dry-run"]).await.ok();
    let finding = planned["findings"].as_array().unwrap().iter().find(|f| f["level"] == "warning").cloned();
    let told = finding.unwrap()["what"].to_string();
    assert!(told.contains("tenant first is on server pg-1, too, and both have group=acme"), "{told}");

    fleet.create("filler", &["--server", "pg-1"]).await;
    let refused = fleet.cli(&["tenant", "create", "more", "--server", "pg-1"]).await.error(4);
    assert!(refused.contains("pg-1: it is full: 2 of 2 tenants"), "{refused}");
    // What one server may have counts before what its class may.
    let declared = std::fs::read_to_string(fleet.path().join("fleet.toml")).unwrap();
    let pg_1 = declared.split("[[servers]]").nth(1).unwrap();
    let policy = "[placement.shared]\ncapacity = { tenants_max = 1 }";
    apply(&format!("{policy}\n[[servers]]\ncapacity = {{ tenants_max = 9 }}{pg_1}")).await;
    assert_eq!(fleet.create("more", &[]).await["server"], "pg-1");
}

async fn a_server_with_much_at_work_is_passed_over(fleet: &mut Fleet) {
    let _control = fleet.take_control(&["measure_interval=1s"]);
    until("the control plane to serve", async || {
        let output = fleet.cli(&["tenant", "create", "busy", "--server", "pg-1", "--wait"]).await;
        (output.status == 0).then_some(())
    })
    .await;
    for tenant in ["at-rest", "filler"] {
        fleet.create(tenant, &["--server", "pg-2"]).await;
    }
    let policy = fleet.path().join("policy.toml");
    std::fs::write(&policy, "[placement.shared]\ncapacity = { active_sessions_max = 1 }").unwrap();
    fleet.cli(&["map", "apply", policy.to_str().unwrap()]).await.ok();
    let clients = join_all((0..3).map(|_| fleet.connect("busy"))).await;
    let work = join_all(clients.iter().map(async |client| {
        // Each statement's time is known when it is over.
        loop {
            client.run("SELECT pg_sleep(0.2)").await;
        }
    }));
    let load = async |id: &str| {
        let crowds: Value = get(fleet, "/v1/crowds").await.json().await.unwrap();
        let crowds = crowds.as_array().unwrap().iter();
        let mut tenants = crowds.flat_map(|crowd| crowd["listed"].as_array().unwrap());
        tenants.find(|tenant| tenant[0] == id).unwrap()[3].as_i64().unwrap_or(0)
    };
    let seen = until("the work to be measured", async || {
        if load("busy").await <= 1000 {
            return None;
        }
        let planned = fleet.cli(&["tenant", "create", "next", "--dry-run"]).await.ok();
        let pg_1 = planned["servers"].as_array().unwrap().iter().find(|v| v["server"] == "pg-1").unwrap();
        let is_full = pg_1["reason"].as_str().unwrap().contains("of 1 sessions at work");
        is_full.then(|| planned["server"].clone())
    });
    let seen = tokio::select! {
        seen = seen => seen,
        never = work => unreachable!("{never:?}"),
    };
    assert_eq!(seen, "pg-2", "which has more tenants");
    assert!(load("at-rest").await < 500, "in thousandths of a session");
}

async fn a_creation_that_was_cut_short_is_finished(fleet: &mut Fleet) {
    let names: Vec<String> = (0..6).map(|i| format!("cut-{i}")).collect();
    for name in &names {
        fleet.cli(&["tenant", "create", name]).await.ok();
    }
    let old = fleet.process("control").unwrap();
    fleet.kill_process("control");
    until("dev to start the control plane again", async || {
        fleet.process("control").filter(|new| *new != old)
    })
    .await;
    for name in &names {
        until("the creation to be finished", async || {
            let output = fleet.cli(&["tenant", "show", name]).await;
            (output.status == 0 && output.json()["state"] == "open").then_some(())
        })
        .await;
        until("the router to hear of it", async || crate::harness::connect(&fleet.config(name)).await.ok())
            .await
            .run("CREATE TABLE works ()")
            .await;
    }
}

async fn without_a_control_plane_commands_exit_5(fleet: &Fleet) {
    let elsewhere = "http://127.0.0.1:1";
    let error = fleet.cli(&["tenant", "list", "--api", elsewhere]).await.error(5);
    assert!(error.contains("127.0.0.1:1"), "{error}");
    let output = fleet.cli(&["move", "start", "x", "--to", "pg-3", "--api", elsewhere]).await.exits(5);
    assert!(output.hint().contains("--api"), "{}", output.stderr);
}

async fn a_database_that_was_there_before_is_neither_adopted_nor_dropped(fleet: &Fleet) {
    let admin = fleet.direct("pg-2", "postgres").await;
    admin.run("CREATE DATABASE legacy").await;
    fleet.direct("pg-2", "legacy").await.run("CREATE TABLE treasure AS SELECT 7 AS value").await;
    let error = fleet.cli(&["tenant", "create", "legacy", "--server", "pg-2", "--wait"]).await.error(1);
    assert!(error.contains("already"), "{error}");
    let value = "SELECT value::bigint FROM treasure";
    assert_eq!(fleet.direct("pg-2", "legacy").await.number(value).await, 7);
    fleet.cli(&["tenant", "show", "legacy"]).await.error(3);
    admin.run("DROP DATABASE legacy").await;
}
