//! All users of an access share a role of the tenant: no client changes it for the others.

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, trials, until};

trials! {
    shared no_client_changes_the_role_that_others_share,
    shared a_password_that_was_changed_where_no_router_sees_it_is_set_anew,
}

async fn no_client_changes_the_role_that_others_share(fleet: &Fleet) {
    fleet.create("shared-role", &[]).await;
    let reader = fleet.user("shared-role-reader", "shared-role", &["--access", "readonly"]).await;
    for config in [fleet.config("shared-role"), reader] {
        let client = connect(&config).await.unwrap();
        let own = client.column("SELECT quote_ident(current_user)").await.remove(0);
        let mut raw = Raw::login(&config, &[]).await;
        for text in [
            "ALTER USER CURRENT_USER PASSWORD 'mine'",
            "ALTER ROLE ALL SET work_mem = '1MB'",
            "DROP OWNED BY CURRENT_USER",
            &format!(
                "SELECT 1; SET work_mem = '2MB'; ALTER ROLE {own} IN DATABASE \"shared-role\" RESET ALL; SELECT 2"
            ),
        ] {
            assert_eq!(raw.query(text).replies(1).await, ["E:42501", "Z:I"], "{text}");
        }
        let text = format!("/* as psql does */ alter user {own} password 'mine'");
        for name in ["", "named"] {
            raw.parse(name, &text).execute(name, &[]).sync();
            assert_eq!(raw.replies(1).await, ["E:42501", "Z:I"]);
        }
        raw.query("BEGIN").query(&text).query(&text).parse("", "ROLLBACK").execute("", &[]).sync();
        let replies = raw.replies(4).await;
        assert_eq!(
            replies,
            ["C:BEGIN", "Z:T", "E:42501", "Z:E", "E:25P02", "Z:E", "1", "2", "C:ROLLBACK", "Z:I"]
        );
        let error = client.batch_execute(&text).await.unwrap_err();
        let hint = error.as_db_error().and_then(|error| error.hint()).unwrap();
        assert!(hint.contains("tenantry user passwd"), "{hint}");
        assert_eq!(
            client.fails("ALTER USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (a 'b')").await,
            "42704"
        );
    }
    let client = fleet.connect("shared-role").await;
    assert_eq!(client.column("SHOW work_mem").await, ["4MB"]);
}

async fn a_password_that_was_changed_where_no_router_sees_it_is_set_anew(fleet: &Fleet) {
    fleet.create("set-anew", &["--server", "pg-1"]).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let stored = "SELECT md5(string_agg(rolpassword, '' ORDER BY rolname)) FROM pg_authid WHERE rolname ~ '^set-anew__'";
    let before = server.column(stored).await;
    let client = fleet.connect("set-anew").await;
    let change = "EXECUTE format('ALTER ROLE %I PASSWORD %L', current_user, 'mine')";
    client.run(&format!("DO $$ BEGIN {change}; END $$")).await;
    assert_ne!(server.column(stored).await, before, "a function is not seen");
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'set-anew'").await;
    until("the router to be let in", async || {
        let client = connect(&fleet.config("set-anew")).await.ok()?;
        client.batch_execute("SELECT 1").await.ok()
    })
    .await;
}
