//! Tenants are suspended, resumed, deleted and brought back.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;

use crate::harness::programs::{dump_schema, restored};
use crate::harness::{Fleet, Sql as _, code, connect, trials, until};
use crate::map_damage::catalog;

trials! {
    shared a_suspended_tenant_is_refused_until_resumed,
    shared a_client_that_is_connected_is_refused_when_its_tenant_is_suspended,
    shared an_operation_that_was_ended_stays_ended,
    shared resuming_lets_the_router_in_again_that_a_changed_password_kept_out,
    shared a_deleted_tenant_is_unknown_until_undeleted,
    shared deleting_now_removes_database_and_roles,
    shared destroying_needs_a_yes,
    shared a_name_that_was_freed_can_be_taken_again,
    shared a_tenant_cannot_be_changed_in_the_wrong_state,
    shared a_renamed_tenant_is_found_under_its_new_id_and_no_other,
    shared a_rename_is_refused_while_anything_stands_in_its_way,
    shared a_clone_is_the_same_but_for_whose_it_is,
    shared what_cannot_be_cloned_is_refused_and_leaves_nothing,
    own a_deleted_tenant_is_dropped_after_its_grace_time_with_a_last_dump,
    own nothing_is_dropped_whose_last_dump_finds_no_room,
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

async fn an_operation_that_was_ended_stays_ended(fleet: &Fleet) {
    with_data(fleet, "cut-short").await;
    let client = fleet.direct("pg-1", "cut-short").await;
    client.run("BEGIN; CREATE TABLE more ()").await;
    let catalog = catalog(fleet).await;
    const DRAINS: &str =
        "SELECT id FROM operation WHERE tenant = 'cut-short' AND state = 'running' AND step = 'drain'";
    let (_, id) = tokio::join!(fleet.cli(&["tenant", "suspend", "cut-short"]), async {
        let drains = async || catalog.column(DRAINS).await.pop();
        let id = until("it to wait for the transaction", drains).await;
        // As when its server is removed as lost, while it is in the middle of a step.
        catalog.run(&format!("UPDATE operation SET state = 'failed' WHERE id = {id}")).await;
        client.run("COMMIT").await;
        id
    });
    fleet.cli(&["tenant", "resume", "cut-short", "--wait"]).await.ok();
    has_its_data(fleet, "cut-short").await;
    let ended = catalog.column(&format!("SELECT step || ' ' || state FROM operation WHERE id = {id}")).await;
    assert_eq!(ended, ["drain failed"]);
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

async fn a_renamed_tenant_is_found_under_its_new_id_and_no_other(fleet: &Fleet) {
    fleet.create("maiden", &["--server", "pg-1", "--label", "kind=bride"]).await;
    let user = fleet.user("maidens", "maiden", &["--access", "owner"]).await;
    let client = connect(&user).await.unwrap();
    client.run("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await;
    let renamed = fleet.cli(&["tenant", "rename", "maiden", "married", "--wait"]).await.ok();
    assert_eq!((&renamed["id"], &renamed["state"]), (&json!("married"), &json!("open")));
    assert_eq!(renamed["labels"], json!({ "kind": "bride" }));
    has_its_data(fleet, "married").await;

    // Whoever is still connected, or comes to the old one, is told; its user has moved on with it.
    let error =
        until("the session to be refused", async || client.batch_execute("SELECT 1").await.err()).await;
    assert!(client.is_closed() || code(&error) == "3D000", "{error:?}");
    refused_with(fleet, "maiden", "3D000").await;
    fleet.cli(&["tenant", "show", "maiden"]).await.error(3);
    let mut user = user;
    user.dbname("married");
    let client = until("its user to be let in", async || connect(&user).await.ok()).await;
    assert_eq!(client.column("SELECT current_user").await, ["married__owner"]);
    client.run("ALTER TABLE kept ADD COLUMN more int").await;
    let history = "SELECT kind FROM operation WHERE tenant = 'married' ORDER BY id";
    assert_eq!(catalog(fleet).await.column(history).await, ["create", "rename"]);

    // The old id is free, a suspended tenant can be renamed, too, and both live beside each other.
    fleet.create("maiden", &["--server", "pg-1"]).await;
    fleet.cli(&["tenant", "suspend", "married"]).await.ok();
    fleet.cli(&["tenant", "rename", "married", "widowed", "--wait"]).await.ok();
    refused_with(fleet, "widowed", "57P03").await;
    fleet.cli(&["tenant", "resume", "widowed"]).await.ok();
    has_its_data(fleet, "widowed").await;
    assert_eq!(fleet.connect("maiden").await.fails("SELECT n FROM kept").await, "42P01");
}

async fn a_rename_is_refused_while_anything_stands_in_its_way(fleet: &Fleet) {
    with_data(fleet, "steady").await;
    fleet.create("engaged", &["--server", "pg-2"]).await;
    fleet.cli(&["tenant", "rename", "nobody-here", "somebody"]).await.error(3);
    fleet.cli(&["tenant", "rename", "steady", "Not an id"]).await.error(2);
    let error = fleet.cli(&["tenant", "rename", "steady", "engaged"]).await.error(4);
    assert!(error.contains("engaged exists already"), "{error}");
    // A database on another server that no tenant has.
    let other = fleet.direct("pg-2", "postgres").await;
    other.run("CREATE DATABASE squatted__sealed").await;
    let error = fleet.cli(&["tenant", "rename", "steady", "squatted", "--wait"]).await.error(1);
    assert!(error.contains("pg-2") && error.contains("squatted"), "{error}");
    other.run("DROP DATABASE squatted__sealed").await;
    fleet.cli(&["tenant", "show", "squatted"]).await.error(3);
    has_its_data(fleet, "steady").await;
    assert!(fleet.tenant("steady").await["last_error"].as_str().unwrap().contains("squatted"));
    // A move's sealed copy has the old name.
    let id = fleet.cli(&["move", "start", "steady", "--to", "pg-2", "--wait"]).await.ok()["id"].to_string();
    let error = fleet.cli(&["tenant", "rename", "steady", "moved"]).await.error(4);
    assert!(error.contains(&format!("move complete {id}")), "{error}");
    fleet.cli(&["move", "complete", &id, "--wait"]).await.ok();
    fleet.cli(&["tenant", "rename", "steady", "moved", "--wait"]).await.ok();
    has_its_data(fleet, "moved").await;
    fleet.cli(&["tenant", "delete", "moved", "--yes"]).await.ok();
    let error = fleet.cli(&["tenant", "rename", "moved", "steady"]).await.error(4);
    assert!(error.contains("deleted"), "{error}");
}

/// Of everything that a role can have or be named in.
const RICH: &str = "
    CREATE TABLE kept (n int); INSERT INTO kept VALUES (7);
    CREATE TYPE mood AS ENUM ('calm', 'keen');
    CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mood mood, name text UNIQUE,
        boss int REFERENCES people, note text DEFAULT 'model__app');
    INSERT INTO people (mood, name) SELECT 'keen', 'name ' || n FROM generate_series(1, 1000) n;
    CREATE TABLE secrets (owner text); ALTER TABLE secrets ENABLE ROW LEVEL SECURITY;
    CREATE POLICY readers ON secrets FOR SELECT TO model__readonly USING (true);
    REVOKE SELECT ON secrets FROM model__app; GRANT SELECT (owner) ON secrets TO model__app;
    CREATE VIEW keen AS SELECT * FROM people WHERE mood = 'keen';
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM people;
    CREATE SCHEMA private; GRANT USAGE ON SCHEMA private TO model__app;
    CREATE FUNCTION private.who() RETURNS text LANGUAGE sql AS $$ SELECT 'model__owner' $$;
    REVOKE ALL ON FUNCTION private.who() FROM PUBLIC; GRANT EXECUTE ON FUNCTION private.who() TO model__app";

async fn a_clone_is_the_same_but_for_whose_it_is(fleet: &Fleet) {
    fleet.create("model", &["--server", "pg-1", "--label", "plan=gold"]).await;
    fleet.connect("model").await.run(RICH).await;
    let settings =
        "ALTER DATABASE model SET work_mem = '5MB'; ALTER ROLE model__owner SET statement_timeout = '77s'";
    fleet.direct("pg-1", "postgres").await.run(settings).await;
    let model = dump_schema(fleet, "pg-1", "model").await;
    assert!(model.contains("CREATE POLICY readers") && model.contains("GRANT SELECT(owner)"), "{model}");
    // One on the same server, where the source's roles are, and one where they are not.
    for (id, server) in [("model2", "pg-1"), ("model3", "pg-2")] {
        let cloned = fleet.cli(&["tenant", "clone", "model", id, "--server", server, "--wait"]).await.ok();
        assert_eq!(
            (&cloned["id"], &cloned["server"], &cloned["state"]),
            (&json!(id), &json!(server), &json!("open"))
        );
        assert_eq!(cloned["labels"], json!({ "plan": "gold" }));
        assert_eq!(cloned["schema_version"], fleet.tenant("model").await["schema_version"]);
        let schema = dump_schema(fleet, server, id).await.replace(&format!("{id}__"), "model__");
        assert_eq!(schema, model);
        let owner = fleet.connect(id).await;
        assert_eq!(owner.column("SHOW work_mem").await, ["5MB"]);
        let settings = format!("SELECT rolconfig::text FROM pg_roles WHERE rolname = '{id}__owner'");
        assert_eq!(owner.column(&settings).await, ["{statement_timeout=77s}"]);
        assert_eq!(
            owner.column("SELECT private.who()").await,
            ["model__owner"],
            "a string is the tenant's own"
        );
        assert_eq!(owner.number("SELECT n FROM counted").await, 1000);
        // As the model's owner it goes on, with all that depends on ownership.
        owner.run("INSERT INTO people (mood, name, boss) VALUES ('calm', 'new', 1); ALTER TABLE people ADD more int").await;
        assert_eq!(owner.number("SELECT id FROM people WHERE name = 'new'").await, 1001);
        let there = fleet.direct(server, id).await;
        const FOREIGN: &str = "SELECT s.classid::regclass || ' ' || s.objid FROM pg_shdepend s
            JOIN pg_roles r ON s.refclassid = 'pg_authid'::regclass AND r.oid = s.refobjid
            WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND starts_with(r.rolname, 'model__')";
        assert_eq!(there.column(FOREIGN).await, Vec::<String>::new(), "nothing is left to the model's roles");
    }
    has_its_data(fleet, "model").await;
    assert_eq!(fleet.connect("model").await.number("SELECT max(id) FROM people").await, 1000);
}

async fn a_suspended_tenant_is_cloned_and_lets_nobody_in(fleet: &Fleet) {
    let large = "CREATE TABLE large (n serial, pad text);
        INSERT INTO large (pad) SELECT repeat('x', 1000) FROM generate_series(1, 3000)";
    fleet.connect("unique").await.run(large).await;
    fleet.cli(&["tenant", "suspend", "unique", "--wait"]).await.ok();
    let home = fleet.direct("pg-1", "postgres").await;
    let over = std::cell::Cell::new(false);
    let cloning = async {
        fleet.cli(&["tenant", "clone", "unique", "alike", "--server", "pg-2", "--wait"]).await.ok();
        over.set(true);
    };
    let watching = async {
        let mut let_in = Vec::new();
        while !over.get() {
            let open = "SELECT 'all' FROM pg_database WHERE datname = 'unique' AND datconnlimit <> 0
                UNION ALL SELECT member::regrole::text FROM pg_auth_members WHERE roleid = 'unique__owner'::regrole";
            let_in.extend(home.column(open).await);
        }
        let_in
    };
    let ((), let_in) = tokio::join!(cloning, watching);
    assert_eq!(let_in, Vec::<String>::new());
    has_its_data(fleet, "alike").await;
    let alike = fleet.connect("alike").await;
    assert_eq!(alike.number("SELECT sum(length(pad)) FROM large").await, 3_000_000);
    assert_eq!(alike.number("SELECT nextval('large_n_seq')").await, 3001);
}

async fn what_cannot_be_cloned_is_refused_and_leaves_nothing(fleet: &Fleet) {
    with_data(fleet, "unique").await;
    fleet.cli(&["tenant", "clone", "nobody-here", "new"]).await.error(3);
    fleet.cli(&["tenant", "clone", "unique", "unique"]).await.error(4);
    fleet.cli(&["tenant", "clone", "unique", "new", "--server", "pg-99"]).await.error(3);
    fleet.connect("unique").await.run("SELECT lo_create(0)").await;
    let error = fleet.cli(&["tenant", "clone", "unique", "unlike", "--wait"]).await.error(1);
    assert!(error.contains("large objects"), "{error}");
    fleet.cli(&["tenant", "show", "unlike"]).await.error(3);
    fleet.connect("unique").await.run("SELECT lo_unlink(oid) FROM pg_largeobject_metadata").await;
    a_suspended_tenant_is_cloned_and_lets_nobody_in(fleet).await;
    fleet.cli(&["tenant", "delete", "unique", "--yes"]).await.ok();
    let error = fleet.cli(&["tenant", "clone", "unique", "alike-2"]).await.error(4);
    assert!(error.contains("deleted"), "{error}");
    let output = fleet.cli(&["tenant", "delete", "alike", "--dump", "--yes"]).await.exits(4);
    assert!(output.hint().contains("deleted_dump_dir"), "{}", output.stderr);
}

/// The last dumps of a tenant: whole ones.
pub(crate) fn dumps(fleet: &Fleet, tenant: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fleet.path().join("dumps")).unwrap();
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with(&format!("{tenant}-2")) && name.ends_with(".dump")
    };
    entries.map(|entry| entry.unwrap().path()).filter(is_its).collect()
}

async fn a_deleted_tenant_is_dropped_after_its_grace_time_with_a_last_dump(fleet: &mut Fleet) {
    let directory = fleet.path().join("dumps");
    let control = fleet.take_control(&[&format!("deleted_dump_dir={}", directory.display())]);
    until("the control plane to lead", async || {
        (fleet.cli(&["tenant", "create", "late", "--wait"]).await.status == 0).then_some(())
    })
    .await;
    for id in ["later", "latest"] {
        fleet.create(id, &[]).await;
    }
    fleet.connect("late").await.run("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)").await;
    let deleted = fleet.cli(&["tenant", "delete", "late", "--yes"]).await.ok();
    assert!(deleted["drop_at"].is_string(), "{deleted}");

    // There is no such directory: it is not dropped, and says why; and it can come back.
    let catalog = catalog(fleet).await;
    let is_over = "UPDATE tenant SET deleted_at = now() - interval '90 days' WHERE state = 'deleted'";
    catalog.run(is_over).await;
    until("the dump to fail", async || fleet.tenant("late").await["last_error"].as_str().map(drop)).await;
    let why = fleet.tenant("late").await["last_error"].as_str().unwrap().to_owned();
    assert!(why.contains(directory.to_str().unwrap()), "{why}");
    fleet.cli(&["tenant", "undelete", "late"]).await.ok();
    has_its_data(fleet, "late").await;

    std::fs::create_dir(&directory).unwrap();
    for id in ["late", "later", "latest"] {
        fleet.cli(&["tenant", "delete", id, "--yes"]).await.ok();
    }
    catalog.run(is_over).await;
    for id in ["late", "later", "latest"] {
        until("it to be dropped", async || {
            (fleet.cli(&["tenant", "show", id]).await.status == 3).then_some(())
        })
        .await;
        fleet.cli(&["tenant", "undelete", id]).await.error(3);
    }
    let [dump] = &dumps(fleet, "late")[..] else { panic!("{:?}", dumps(fleet, "late")) };
    assert_eq!(std::fs::metadata(dump).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 3, "nothing half done is left");
    let restored = restored(dump).await;
    assert!(restored.contains("COPY public.kept"), "{restored}");
    drop(control);
}

async fn nothing_is_dropped_whose_last_dump_finds_no_room(fleet: &mut Fleet) {
    let directory = fleet.path().join("dumps");
    std::fs::create_dir(&directory).unwrap();
    let control = fleet.take_control(&[&format!("deleted_dump_dir={}", directory.display())]);
    until("the control plane to lead", async || {
        (fleet.cli(&["tenant", "create", "large", "--server", "pg-1", "--wait"]).await.status == 0)
            .then_some(())
    })
    .await;
    let rows = "CREATE TABLE kept AS SELECT md5(random()::text) FROM generate_series(1, 50000)";
    fleet.connect("large").await.run(rows).await;
    control.limit_files(Some(500_000));
    let error =
        fleet.cli(&["tenant", "delete", "large", "--now", "--dump", "--yes", "--wait"]).await.error(1);
    assert!(error.contains("writing what pg_dump gives: File too large"), "{error}");
    let shown = fleet.tenant("large").await;
    assert_eq!((&shown["state"], shown["last_error"].is_string()), (&json!("deleted"), true), "{shown}");
    let aside = fleet.direct("pg-1", "large__deleted").await;
    assert_eq!(aside.number("SELECT count(*) FROM kept").await, 50_000, "all of it is there");
    drop(aside);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0, "nothing half done is left");

    control.limit_files(None);
    fleet.cli(&["tenant", "delete", "large", "--now", "--dump", "--yes", "--wait"]).await.ok();
    let [dump] = &dumps(fleet, "large")[..] else { panic!("{:?}", dumps(fleet, "large")) };
    let restored = restored(dump).await;
    let is_row = |line: &&str| line.len() == 32 && line.bytes().all(|b| b.is_ascii_hexdigit());
    assert_eq!(restored.lines().filter(is_row).count(), 50_000);
    drop(control);
}
