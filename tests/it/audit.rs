//! The record of who did what: what is on it, and for how long.

use reqwest::Method;
use serde_json::{Value, json};

use crate::api::Caller;
use crate::harness::{Fleet, Sql as _, connect_url, trials, until};

trials! {
    shared who_changed_what_is_on_record,
    shared a_change_that_cannot_be_recorded_is_not_made,
    own records_that_are_old_or_refusals_too_many_are_forgotten,
}

async fn who_changed_what_is_on_record(fleet: &Fleet) {
    let operator = Caller::new(fleet, "audit-operator", "operator").await;
    let viewer = Caller::new(fleet, "audit-viewer", "viewer").await;
    operator.cli(&["tenant", "create", "audited", "--wait"]).await.ok();
    operator.cli(&["tenant", "show", "audited"]).await.ok();
    operator.status(Method::POST, "/v1/tenants", Some(json!({ "id": "audited-2", "dry_run": true }))).await;
    operator.cli(&["tenant", "suspend", "audited"]).await.ok();
    viewer.cli(&["tenant", "resume", "audited"]).await.error(4);
    operator.cli(&["move", "start", "audited", "--to", "pg-9"]).await.error(3);

    let log = viewer.cli(&["audit", "--about", "audited"]).await.ok();
    let log = log.as_array().unwrap();
    let seen = |record: &Value| {
        let field = |key: &str| record[key].as_str().unwrap().to_owned();
        (field("who"), field("method"), field("path"), record["status"].as_i64().unwrap())
    };
    let expected = [
        ("audit-operator", "POST", "/v1/moves", 404),
        ("audit-viewer", "POST", "/v1/tenants/audited/resume", 403),
        ("audit-operator", "POST", "/v1/tenants/audited/suspend", 200),
        ("audit-operator", "POST", "/v1/tenants", 201),
    ];
    let expected =
        expected.map(|(who, method, path, status)| (who.into(), method.into(), path.into(), status));
    assert_eq!(log.iter().map(seen).collect::<Vec<_>>(), expected, "looks and dry runs are not on record");
    assert_eq!(log[0]["about"], json!(["tenant audited", "server pg-9"]));
    assert_eq!((&log[2]["role"], &log[2]["address"]), (&json!("operator"), &json!("127.0.0.1")));
    assert!(log[2]["operation"].is_i64() && log[1]["operation"].is_null(), "{log:?}");

    fleet
        .cli_with_input(&["user", "create", "audited-user", "--password-stdin"], "a-secret-of-theirs")
        .await
        .ok();
    let log = fleet.cli(&["audit", "--who", "config", "--since", "1h", "--about", "user audited-user"]).await;
    assert!(!log.stdout.contains("a-secret"), "{}", log.stdout);
    assert_eq!(log.ok().as_array().unwrap().len(), 1);
    assert_eq!(fleet.cli(&["audit", "-n", "1"]).await.ok().as_array().unwrap().len(), 1);

    // Who gets all verifiers of passwords is on record, too.
    let admin = Caller::new(fleet, "audit-admin", "admin").await;
    let away = [("TENANTRY_TOKEN", &*admin.token), ("TENANTRY_MAP_CONFIG", "")];
    let exported = fleet.cli_in(&away, &["map", "export", "-"]).await.exits(0);
    assert!(exported.stdout.contains("audited-user"), "by way of the API, and to standard output");
    let log = fleet.cli(&["audit", "--who", "audit-admin"]).await.ok();
    let seen: Vec<_> = log.as_array().unwrap().iter().map(seen).collect();
    assert_eq!(seen, [("audit-admin".into(), "GET".into(), "/v1/map".into(), 200)]);

    // Who is refused again and again fills neither a minute of the log, nor all of it.
    for _ in 0..30 {
        assert_eq!(viewer.status(Method::POST, "/v1/tenants/audited/resume", None).await, 403);
    }
    let log = fleet.cli(&["audit", "--who", "audit-viewer", "-n", "100"]).await.ok();
    // They may be of two minutes.
    assert!(log.as_array().unwrap().len() <= 20, "{log}");
}

async fn a_change_that_cannot_be_recorded_is_not_made(fleet: &Fleet) {
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    catalog
        .run(
            "CREATE FUNCTION no_record() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'full'; END $$;
            CREATE TRIGGER no_record BEFORE INSERT ON audit FOR EACH ROW
                WHEN (NEW.about @> '{user unrecorded}') EXECUTE FUNCTION no_record()",
        )
        .await;
    fleet.cli(&["user", "create", "unrecorded"]).await.error(1);
    assert!(!fleet.cli(&["user", "list"]).await.stdout.contains("unrecorded"));
    catalog.run("DROP TRIGGER no_record ON audit; DROP FUNCTION no_record").await;
    fleet.cli(&["user", "create", "unrecorded"]).await.ok();
}

async fn records_that_are_old_or_refusals_too_many_are_forgotten(fleet: &mut Fleet) {
    let catalog = connect_url(fleet.variable("TENANTRY_CATALOG_URL"), "tenantry_catalog").await;
    let record = |at: &str, status: &str, count: u32| {
        format!(
            "INSERT INTO audit (at, who, role, address, method, path, about, status)
             SELECT {at}, 'ann', 'viewer', 'here', 'POST', '/v1/' || n, '{{}}', {status}
             FROM generate_series(1, {count}) n"
        )
    };
    // Refusals come in masses from who tries things out, and push nobody's changes out.
    for record in [
        record("now() - interval '91 days'", "200", 3),
        record("now() - interval '89 days'", "200", 5),
        record("now()", "403", 100_007),
        record("now()", "NULL", 2),
    ] {
        catalog.run(&record).await;
    }
    let count = async |which: &str| {
        catalog.number(&format!("SELECT count(*) FROM audit WHERE who = 'ann' AND {which}")).await
    };
    // Who begins to lead sees to it.
    fleet.kill_process("control");
    until("it to be done", async || (count("status = 403").await == 100_000).then_some(())).await;
    assert_eq!(count("status = 200").await, 5, "what is young enough is kept, and nothing else");
    assert_eq!(count("status IS NULL").await, 2);
    assert_eq!(count("status = 403 AND path = '/v1/7'").await, 0, "the oldest go first");
}
