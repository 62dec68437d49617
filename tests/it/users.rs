//! Router users: who gets in, to which tenants, and what it may do there.

use crate::harness::{Fleet, Sql as _, code, connect, message, trials, until};

trials! {
    shared a_generated_password_is_shown_once,
    shared a_given_password_is_taken_and_never_shown,
    shared wrong_password_and_unknown_user_are_told_alike,
    shared an_unknown_tenant_is_told_after_the_password_only,
    shared a_changed_password_replaces_the_old_one,
    shared a_dropped_user_is_out,
    shared readonly_reads_and_writes_nothing,
    shared app_writes_rows_and_leaves_the_schema_alone,
    shared what_the_owner_makes_later_is_open_to_the_others,
    shared a_user_reaches_the_tenants_of_its_selector_only,
    shared wrong_users_are_refused,
}

async fn a_generated_password_is_shown_once(fleet: &Fleet) {
    fleet.create("lobby", &[]).await;
    let made = fleet.cli(&["user", "create", "guest", "--tenants", "id=lobby"]).await.ok();
    let password = made["password"].as_str().expect("a generated password").to_owned();
    assert!(password.len() >= 20, "{password}");
    let config = fleet.config_as("guest", &password, "lobby");
    until("the user to get in", async || connect(&config).await.ok()).await;
    let list = fleet.cli(&["user", "list"]).await.exits(0);
    assert!(list.stdout.contains("\"guest\"") && !list.stdout.contains(&password), "{}", list.stdout);
    assert!(!list.stdout.contains("SCRAM"), "{}", list.stdout);
}

async fn a_given_password_is_taken_and_never_shown(fleet: &Fleet) {
    fleet.create("bring", &[]).await;
    let password = "pässword with 'quotes' and spaces";
    let args = ["user", "create", "bringer", "--tenants", "id=bring", "--password-stdin"];
    let made = fleet.cli_with_input(&args, &format!("{password}\n")).await.exits(0);
    assert!(!made.stdout.contains("word with"), "{}", made.stdout);
    let config = fleet.config_as("bringer", password, "bring");
    until("the user to get in", async || connect(&config).await.ok()).await;
}

async fn wrong_password_and_unknown_user_are_told_alike(fleet: &Fleet) {
    fleet.create("door", &[]).await;
    fleet.user("doorman", "door", &[]).await;
    let refusal = async |user: &str, tenant: &str| {
        let error = connect(&fleet.config_as(user, "wrong", tenant)).await.expect_err("a refusal");
        assert_eq!(code(&error), "28P01", "{error:?}");
        message(&error).replace(user, "USER").replace(tenant, "TENANT")
    };
    let known = refusal("doorman", "door").await;
    assert_eq!(refusal("no-such-user", "door").await, known);
    assert_eq!(refusal("doorman", "no-such-tenant").await, known);
    assert_eq!(refusal("no-such-user", "no-such-tenant").await, known);
}

async fn an_unknown_tenant_is_told_after_the_password_only(fleet: &Fleet) {
    let error = connect(&fleet.config("never-made")).await.expect_err("a refusal");
    assert_eq!(code(&error), "3D000");
    assert!(message(&error).contains("never-made"), "{error:?}");
}

async fn a_changed_password_replaces_the_old_one(fleet: &Fleet) {
    fleet.create("rotated", &[]).await;
    let old = fleet.user("rotator", "rotated", &[]).await;
    let answer = fleet.cli(&["user", "passwd", "rotator"]).await.ok();
    let new = fleet.config_as("rotator", answer["password"].as_str().unwrap(), "rotated");
    until("the new password to be taken", async || connect(&new).await.ok()).await;
    let error = connect(&old).await.expect_err("a refusal of the old password");
    assert_eq!(code(&error), "28P01");
    fleet.cli(&["user", "passwd", "no-such-user"]).await.error(3);
}

async fn a_dropped_user_is_out(fleet: &Fleet) {
    fleet.create("left", &[]).await;
    let config = fleet.user("leaver", "left", &[]).await;
    let client = connect(&config).await.unwrap();
    client.run("SELECT 1").await;
    fleet.cli(&["user", "drop", "leaver"]).await.error(2);
    fleet.cli(&["user", "drop", "leaver", "--yes"]).await.ok();
    let error = until("the user to be refused", async || connect(&config).await.err()).await;
    assert_eq!(code(&error), "28P01");
    until("its session to end", async || client.batch_execute("SELECT 1").await.err()).await;
    fleet.cli(&["user", "drop", "leaver", "--yes"]).await.error(3);
}

async fn readonly_reads_and_writes_nothing(fleet: &Fleet) {
    fleet.create("looked-at", &[]).await;
    let owner = fleet.connect("looked-at").await;
    owner.run("CREATE TABLE items (n int); INSERT INTO items VALUES (1), (2)").await;
    let config = fleet.user("looker", "looked-at", &["--access", "readonly"]).await;
    let reader = connect(&config).await.unwrap();
    assert_eq!(reader.number("SELECT sum(n) FROM items").await, 3);
    let writes = ["INSERT INTO items VALUES (3)", "DELETE FROM items", "TRUNCATE items", "DROP TABLE items"];
    for write in writes.into_iter().chain(["CREATE TABLE mine (n int)"]) {
        assert_eq!(reader.fails(write).await, "42501", "{write}");
    }
    assert_eq!(owner.number("SELECT count(*) FROM items").await, 2);
}

async fn app_writes_rows_and_leaves_the_schema_alone(fleet: &Fleet) {
    fleet.create("worked-on", &[]).await;
    let owner = fleet.connect("worked-on").await;
    owner.run("CREATE TABLE items (id bigint GENERATED ALWAYS AS IDENTITY, n serial, name text)").await;
    let config = fleet.user("worker", "worked-on", &["--access", "app"]).await;
    let app = connect(&config).await.unwrap();
    app.run("INSERT INTO items (name) VALUES ('a'); UPDATE items SET name = 'b'; DELETE FROM items").await;
    for ddl in ["CREATE TABLE mine (n int)", "ALTER TABLE items ADD more int", "DROP TABLE items"] {
        assert_eq!(app.fails(ddl).await, "42501", "{ddl}");
    }
    owner.run("ALTER TABLE items ADD more int; CREATE INDEX ON items (n)").await;
}

async fn what_the_owner_makes_later_is_open_to_the_others(fleet: &Fleet) {
    fleet.create("growing", &[]).await;
    let app = connect(&fleet.user("grower", "growing", &[]).await).await.unwrap();
    let owner = fleet.connect("growing").await;
    owner.run("CREATE SCHEMA later; CREATE TABLE later.things (n int)").await;
    app.run("INSERT INTO later.things VALUES (1)").await;
}

async fn a_user_reaches_the_tenants_of_its_selector_only(fleet: &Fleet) {
    fleet.create("gold-1", &["--label", "tier=gold"]).await;
    fleet.create("silver-1", &["--label", "tier=silver"]).await;
    let made = fleet.cli(&["user", "create", "golden", "--tenants", "tier=gold"]).await.ok();
    let password = made["password"].as_str().unwrap();
    let inside = fleet.config_as("golden", password, "gold-1");
    until("the user to get in", async || connect(&inside).await.ok()).await;
    let error = connect(&fleet.config_as("golden", password, "silver-1")).await.expect_err("a refusal");
    let unknown = connect(&fleet.config_as("golden", password, "iron-1")).await.expect_err("a refusal");
    assert_eq!(
        (code(&error), message(&error).replace("silver-1", "TENANT")),
        (code(&unknown), message(&unknown).replace("iron-1", "TENANT")),
        "whether a tenant that it may not reach exists is not told"
    );
    // A tenant that comes later and has the label is reached as well.
    fleet.create("gold-2", &["--label", "tier=gold"]).await;
    let later = fleet.config_as("golden", password, "gold-2");
    until("the user to get in", async || connect(&later).await.ok()).await;
}

async fn wrong_users_are_refused(fleet: &Fleet) {
    fleet.cli(&["user", "create", "twice"]).await.ok();
    let error = fleet.cli(&["user", "create", "twice"]).await.error(4);
    assert!(error.contains("twice"), "{error}");
    fleet.cli(&["user", "create", "a b"]).await.exits(2);
    fleet.cli(&["user", "create", "boss", "--access", "superuser"]).await.exits(2);
    fleet.cli(&["user", "create", "boss", "--pool-mode", "statement"]).await.exits(2);
    fleet.cli(&["user", "create", "boss", "--tenants", "nonsense"]).await.exits(2);
    let args = ["user", "create", "boss", "--password-stdin"];
    fleet.cli_with_input(&args, "\n").await.exits(2);
    fleet.cli_with_input(&args, "two\nlines\n").await.exits(2);
    let list = fleet.cli(&["user", "list"]).await.exits(0);
    assert!(!list.stdout.contains("\"boss\""), "{}", list.stdout);
}
