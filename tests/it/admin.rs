//! The console: what it shows, what it does to a tenant, and who may.

use std::collections::BTreeMap;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, code, connect, message, trials, until};
use crate::moves::move_to;

trials! {
    shared a_pause_longer_than_the_queue_refuses_each_request_and_answers_each_sync,
    shared the_configuration_is_reloaded_and_logs_are_changed_by_command,
    shared every_table_has_its_columns,
    shared psql_is_understood,
    shared a_tenant_with_clients_is_shown_as_it_is,
    shared figures_of_a_tenant_are_exact,
    shared the_extended_protocol_is_spoken,
    shared what_drivers_and_pipelines_send_is_answered,
    shared an_unknown_command_is_refused_and_the_session_goes_on,
    shared who_may_not_is_told_what_an_unknown_tenant_is_told,
    shared a_paused_tenant_waits_and_loses_nothing,
    shared a_pause_waits_for_what_runs_and_names_it,
    shared a_client_that_keeps_its_connection_waits_for_a_pause_too,
    shared a_pause_holds_beside_a_move,
    shared a_killed_tenant_has_no_clients_and_may_come_again,
    shared the_configuration_is_shown_without_secrets,
}

/// A session at the console.
async fn console(fleet: &Fleet) -> Client {
    fleet.connect("tenantry").await
}

type Row = BTreeMap<String, String>;

/// The rows of a table, by column; NULL as an empty text.
async fn show(console: &Client, sql: &str) -> Vec<Row> {
    let messages = console.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(
            row.columns()
                .iter()
                .enumerate()
                .map(|(i, column)| (column.name().to_owned(), row.get(i).unwrap_or_default().to_owned()))
                .collect(),
        ),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The rows of one tenant.
async fn show_of(console: &Client, sql: &str, tenant: &str) -> Vec<Row> {
    let mut rows = show(console, sql).await;
    rows.retain(|row| row["tenant"] == tenant);
    rows
}

async fn every_table_has_its_columns(fleet: &Fleet) {
    let tables = [
        ("HELP", "command what_it_does"),
        ("TENANTS", "tenant server state clients waiting connections idle opening pinned"),
        ("POOLS", "tenant access server cl_idle cl_active cl_waiting sv_active sv_idle maxwait maxwait_us"),
        ("CLIENTS", "id tenant user access address state pinned connected_s wait_us"),
        ("SERVERS", "server address tenant access state pid client connected_s"),
        ("STATS", "tenant transactions statements bytes_in bytes_out transaction_us waits wait_us errors"),
        ("HOLDS", "tenant kind hold since_s left_ms acknowledged waiting running"),
        ("CONFIG", "key value default changes_by"),
        ("VERSION", "version"),
    ];
    let console = console(fleet).await;
    for (table, columns) in tables {
        let statement = console.prepare(&format!("SHOW {table}")).await.unwrap();
        let names: Vec<_> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
        assert_eq!(names.join(" "), columns, "{table}");
        for column in statement.columns() {
            assert!([Type::TEXT, Type::INT8, Type::BOOL].contains(column.type_()), "{table}: {column:?}");
        }
    }
    assert_eq!(
        show(&console, "show version;").await[0]["version"],
        concat!("tenantry ", env!("CARGO_PKG_VERSION"))
    );
}

async fn psql_is_understood(fleet: &Fleet) {
    let all = "SHOW HELP; SHOW TENANTS; SHOW POOLS; SHOW CLIENTS; SHOW SERVERS; SHOW STATS; SHOW HOLDS; SHOW CONFIG";
    let output = fleet.psql("tenantry", &["-X", "-c", all, "-c", "show Version;"]).await.exits(0);
    assert!(
        output.stdout.contains("what_it_does") && output.stdout.contains("tenantry 0."),
        "{}",
        output.stdout
    );
    let output = fleet.psql("tenantry", &["-X", "-c", "SELECT 1"]).await.exits(1);
    assert!(output.stderr.contains("SHOW HELP"), "{}", output.stderr);
}

async fn a_tenant_with_clients_is_shown_as_it_is(fleet: &Fleet) {
    fleet.create("watched", &["--server", "pg-2"]).await;
    let (idle, open) = (fleet.connect("watched").await, fleet.connect("watched").await);
    idle.run("SELECT 1").await;
    open.run("BEGIN; SELECT 1").await;
    let pid = open.number("SELECT pg_backend_pid()").await.to_string();
    let console = console(fleet).await;
    let tenants = show_of(&console, "SHOW TENANTS", "watched").await;
    assert_eq!(tenants.len(), 1, "{tenants:?}");
    let shown = |column: &str| tenants[0][column].clone();
    assert_eq!(
        (shown("server"), shown("state"), shown("clients")),
        ("pg-2".into(), "open".into(), "2".into())
    );
    let clients = show_of(&console, "SHOW CLIENTS", "watched").await;
    let states: Vec<_> = clients.iter().map(|client| client["state"].as_str()).collect();
    assert_eq!(states, ["idle", "idle in transaction"], "{clients:?}");
    assert!(clients.iter().all(|client| client["user"] == fleet.variable("TENANTRY_USER")));
    assert!(clients.iter().all(|client| client["address"] == "127.0.0.1"));
    let servers = show_of(&console, "SHOW SERVERS", "watched").await;
    let active: Vec<_> = servers.iter().filter(|server| server["state"] == "active").collect();
    assert_eq!(active.len(), 1, "{servers:?}");
    assert_eq!((&active[0]["pid"], &active[0]["client"]), (&pid, &clients[1]["id"]));
    assert_eq!(active[0]["server"], "pg-2");
    let pools = show_of(&console, "SHOW POOLS", "watched").await;
    assert_eq!((pools.len(), pools[0]["cl_active"].as_str(), pools[0]["cl_idle"].as_str()), (1, "1", "1"));
    open.run("COMMIT").await;
    drop((idle, open));
    until("the clients to be gone", async || {
        show_of(&console, "SHOW CLIENTS", "watched").await.is_empty().then_some(())
    })
    .await;
}

/// A tenant's figures, once they have settled at so many transactions.
async fn figures(console: &Client, tenant: &str, transactions: &str) -> Row {
    until("the transactions to be counted", async || {
        let stats = show_of(console, "SHOW STATS", tenant).await;
        stats.into_iter().find(|row| row["transactions"] == transactions)
    })
    .await
}

async fn figures_of_a_tenant_are_exact(fleet: &Fleet) {
    fleet.create("counted-out", &[]).await;
    let console = console(fleet).await;
    let client = fleet.connect("counted-out").await;
    for _ in 0..5 {
        client.run("SELECT repeat('x', 1000)").await;
    }
    client.run("BEGIN; SELECT 1; COMMIT").await;
    assert_eq!(client.fails("SELECT 1/0").await, "22012");
    let row = figures(&console, "counted-out", "7").await;
    assert_eq!((row["statements"].as_str(), row["errors"].as_str()), ("8", "1"), "{row:?}");
    let number = |column: &str| row[column].parse::<i64>().unwrap();
    assert!(number("bytes_out") > 5000 && number("bytes_in") > 5 * 20, "{row:?}");
    assert!(number("transaction_us") > 0 && number("waits") >= 1, "{row:?}");
    let rest = show_of(&console, "SHOW STATS", "(rest)").await;
    assert_eq!(rest.len(), 1);
}

async fn the_extended_protocol_is_spoken(fleet: &Fleet) {
    fleet.create("extended", &[]).await;
    let client = fleet.connect("extended").await;
    client.run("SELECT 1").await;
    let console = console(fleet).await;
    // This driver asks for binary values.
    let statement = console.prepare("SHOW TENANTS").await.unwrap();
    for _ in 0..3 {
        let rows = console.query(&statement, &[]).await.unwrap();
        let mine = rows.iter().find(|row| row.get::<_, &str>("tenant") == "extended").expect("it is warm");
        assert_eq!(mine.get::<_, i64>("clients"), 1);
    }
    console.execute("PAUSE extended", &[]).await.unwrap();
    let holds = console.query("SHOW HOLDS", &[]).await.unwrap();
    let mine = holds.iter().find(|row| row.get::<_, &str>("tenant") == "extended").expect("it is paused");
    assert_eq!((mine.get::<_, &str>("kind"), mine.get::<_, Option<i64>>("hold")), ("pause", None));
    console.execute("RESUME extended", &[]).await.unwrap();
    let error = console.execute("RESUME extended", &[]).await.unwrap_err();
    assert_eq!(code(&error), "55000");
    let error = console.query("PAUSE $1", &[]).await.unwrap_err();
    assert_eq!(code(&error), "42601");
}

async fn what_drivers_and_pipelines_send_is_answered(fleet: &Fleet) {
    let mut raw = Raw::login(&fleet.config("tenantry"), &[]).await;
    raw.query("BEGIN").query("SET extra_float_digits = 3").query("SHOW VERSION").query("COMMIT").query("");
    let replies = raw.replies(5).await;
    let version = concat!("D:tenantry ", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        replies,
        ["C:BEGIN", "Z:T", "C:SET", "Z:T", "T", version, "C:SELECT 1", "Z:T", "C:COMMIT", "Z:I", "I", "Z:I"]
    );
    // An error in a pipeline skips to the Sync, and what comes behind it is answered.
    raw.parse("a", "SHOW VERSION").execute("a", &[]).parse("b", "SHOW NOTHING").execute("a", &[]).sync();
    raw.execute("a", &[]).sync();
    let expected = ["1", "2", version, "C:SELECT 1", "E:42601", "Z:I", "2", version, "C:SELECT 1", "Z:I"];
    assert_eq!(raw.replies(2).await, expected);
    raw.execute("a", &["x"]).sync().execute("b", &[]).sync();
    assert_eq!(raw.replies(2).await, ["E:08P01", "Z:I", "E:26000", "Z:I"]);
    // A portal gives as many rows as are asked for.
    let bind = |out: &mut bytes::BytesMut| {
        let none = |_: &str, _: &mut bytes::BytesMut| Ok(postgres_protocol::IsNull::No);
        postgres_protocol::message::frontend::bind("p", "", [], [], none, [], out)
            .map_err(|_| std::io::Error::other("bind"))
    };
    raw.parse("", "SHOW HELP").add(bind);
    for _ in 0..2 {
        raw.add(|out| postgres_protocol::message::frontend::execute("p", 1, out));
    }
    raw.add(|out| postgres_protocol::message::frontend::execute("p", 0, out)).sync();
    let replies = raw.replies(1).await;
    let kinds: Vec<_> = replies.iter().map(|reply| &reply[..1]).collect();
    assert_eq!(kinds[..6], ["1", "2", "D", "s", "D", "s"], "{replies:?}");
    assert!(replies.contains(&"C:SELECT 12".to_owned()), "{replies:?}");
}

async fn an_unknown_command_is_refused_and_the_session_goes_on(fleet: &Fleet) {
    let console = console(fleet).await;
    for (sql, expected) in [
        ("SELECT 1", "42601"),
        ("SHOW NOTHING", "42601"),
        ("PAUSE", "42601"),
        ("PAUSE no-such-tenant", "3D000"),
        ("KILL \"tenantry\"", "3D000"),
        ("SET work_mem = 5", "42704"),
    ] {
        let error = console.batch_execute(sql).await.unwrap_err();
        assert_eq!(code(&error), expected, "{sql}");
        let hint = error.as_db_error().unwrap().hint();
        assert!(hint.is_some_and(|hint| hint.len() > 10), "{sql}: {hint:?}");
    }
    assert_eq!(show(&console, "SHOW VERSION").await.len(), 1);
}

async fn who_may_not_is_told_what_an_unknown_tenant_is_told(fleet: &Fleet) {
    let user = fleet.user("plain-user", "watched-none", &[]);
    // The user's tenant is none of this test's business: it has the right to no tenant that there is.
    let created = fleet.create("watched-none", &[]);
    let (config, _) = tokio::join!(user, created);
    let at = |database: &str| {
        let mut config = config.clone();
        config.dbname(database);
        config
    };
    let refused = async |database: &str| connect(&at(database)).await.expect_err("it is refused");
    let (console, unknown) = (refused("tenantry").await, refused("no-such-tenant").await);
    assert_eq!(code(&console), code(&unknown));
    assert_eq!(message(&console).replace("tenantry", "?"), message(&unknown).replace("no-such-tenant", "?"));
    // Who may only look can't do.
    let router = fleet.router(&["stats_users=[\"plain-user\"]", "admin_users=[]"]).await;
    let looking = connect(&router.through(&at("tenantry"))).await.unwrap();
    assert_eq!(show(&looking, "SHOW VERSION").await.len(), 1);
    for deed in ["PAUSE", "RESUME", "KILL"] {
        assert_eq!(looking.fails(&format!("{deed} watched-none")).await, "42501");
    }
    let admin = connect(&router.through(&fleet.config("tenantry"))).await;
    assert_eq!(code(&admin.expect_err("nobody is listed")), "3D000");
}

async fn a_paused_tenant_waits_and_loses_nothing(fleet: &Fleet) {
    fleet.create("paused", &["--server", "pg-1"]).await;
    let client = fleet.connect("paused").await;
    client.run("CREATE TABLE t (n int)").await;
    let console = console(fleet).await;
    console.run("PAUSE paused").await;
    let server = fleet.direct("pg-1", "postgres").await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'paused'";
    until("the connections to be closed", async || (server.number(open).await == 0).then_some(())).await;
    let waiting = async {
        until("the transaction to wait", async || {
            let holds = show_of(&console, "SHOW HOLDS", "paused").await;
            (holds.len() == 1 && holds[0]["waiting"] == "1" && holds[0]["running"] == "0").then_some(())
        })
        .await;
        assert_eq!(show_of(&console, "SHOW TENANTS", "paused").await[0]["state"], "paused");
        assert_eq!(show_of(&console, "SHOW CLIENTS", "paused").await[0]["state"], "waiting");
        console.run("RESUME paused").await;
    };
    tokio::join!(client.run("INSERT INTO t VALUES (1)"), waiting);
    assert_eq!(client.number("SELECT count(*) FROM t").await, 1);
    assert!(show_of(&console, "SHOW HOLDS", "paused").await.is_empty());
}

async fn a_pause_waits_for_what_runs_and_names_it(fleet: &Fleet) {
    fleet.create("pausing", &[]).await;
    let router = fleet.router(&["pause_timeout=300ms", "queue_timeout=500ms"]).await;
    let client = connect(&router.through(&fleet.config("pausing"))).await.unwrap();
    let other = connect(&router.through(&fleet.config("pausing"))).await.unwrap();
    let console = connect(&router.through(&fleet.config("tenantry"))).await.unwrap();
    client.run("BEGIN; SELECT 1").await;
    let error = console.batch_execute("PAUSE pausing").await.unwrap_err();
    assert_eq!(code(&error), "55006");
    let detail = error.as_db_error().unwrap().detail().unwrap_or_default();
    assert!(detail.contains(fleet.variable("TENANTRY_USER")), "{detail}");
    // It is paused all the same: what runs goes on, what is new waits as long as it may.
    client.run("SELECT 1").await;
    assert_eq!(other.fails("SELECT 1").await, "53300");
    client.run("COMMIT").await;
    console.run("PAUSE pausing").await;
    console.run("RESUME pausing").await;
    other.run("SELECT 1").await;
    assert!(router.log().contains("PAUSE") && router.log().contains(fleet.variable("TENANTRY_USER")));
}

async fn a_client_that_keeps_its_connection_waits_for_a_pause_too(fleet: &Fleet) {
    fleet.create("pause-pinned", &[]).await;
    let router = fleet.router(&["queue_timeout=500ms"]).await;
    let client = connect(&router.through(&fleet.config("pause-pinned"))).await.unwrap();
    let console = connect(&router.through(&fleet.config("tenantry"))).await.unwrap();
    client.run("CREATE TEMPORARY TABLE mine (n int)").await;
    console.run("PAUSE pause-pinned").await;
    assert_eq!(client.fails("INSERT INTO mine VALUES (1)").await, "53300");
    console.run("RESUME pause-pinned").await;
    client.run("INSERT INTO mine VALUES (2)").await;
    assert_eq!(client.number("SELECT sum(n) FROM mine").await, 2, "it still has its connection");
}

async fn a_pause_longer_than_the_queue_refuses_each_request_and_answers_each_sync(fleet: &Fleet) {
    fleet.create("longpause", &[]).await;
    let router = fleet.router(&["queue_timeout=200ms"]).await;
    let config = router.through(&fleet.config("longpause"));
    let console = connect(&router.through(&fleet.config("tenantry"))).await.unwrap();
    let mut raw = Raw::login(&config, &[]).await;
    raw.query("CREATE TEMP TABLE mine (a int)");
    raw.replies(1).await;
    console.run("PAUSE longpause").await;
    for _ in 0..2 {
        raw.parse("", "SELECT 1").execute("", &[]).sync();
        assert_eq!(raw.replies(1).await, ["E:53300", "Z:I"]);
    }
    console.run("RESUME longpause").await;
    raw.parse("", "SELECT 1").execute("", &[]).sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "D:1", "C:SELECT 1", "Z:I"]);
}

async fn a_pause_holds_beside_a_move(fleet: &Fleet) {
    fleet.create("pause-moved", &["--server", "pg-1"]).await;
    let client = fleet.connect("pause-moved").await;
    client.run("CREATE TABLE t AS SELECT 1 AS n").await;
    let console = console(fleet).await;
    console.run("PAUSE pause-moved").await;
    // The hold is acknowledged although the gate is shut already, and its end does not open it.
    move_to(fleet, "pause-moved", "pg-2").await;
    until("the move to have reached the router", async || {
        let shown = show_of(&console, "SHOW TENANTS", "pause-moved").await;
        (shown[0]["server"] == "pg-2" && shown[0]["state"] == "paused").then_some(())
    })
    .await;
    let waiting = async {
        until("the transaction to wait", async || {
            let holds = show_of(&console, "SHOW HOLDS", "pause-moved").await;
            (holds[0]["waiting"] == "1").then_some(())
        })
        .await;
        console.run("RESUME pause-moved").await;
    };
    let (count, ()) = tokio::join!(client.number("SELECT count(*) FROM t"), waiting);
    assert_eq!(count, 1);
}

async fn a_killed_tenant_has_no_clients_and_may_come_again(fleet: &Fleet) {
    fleet.create("killed", &["--server", "pg-1"]).await;
    fleet.create("unkilled", &["--server", "pg-1"]).await;
    let spared = fleet.connect("unkilled").await;
    let (idle, open, running) =
        (fleet.connect("killed").await, fleet.connect("killed").await, fleet.connect("killed").await);
    idle.run("SELECT 1").await;
    open.run("BEGIN; SELECT 1").await;
    let console = console(fleet).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let sleeping =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'killed' AND query ~ '^SELECT pg_sleep'
        AND state = 'active'";
    let kill = async {
        until("the statement to run", async || (server.number(sleeping).await == 1).then_some(())).await;
        console.run("KILL killed").await;
    };
    let (ended, ()) = tokio::join!(running.fails("SELECT pg_sleep(3600)"), kill);
    assert_eq!(ended, "57P01");
    for client in [&idle, &open] {
        until("the client to be gone", async || client.is_closed().then_some(())).await;
    }
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'killed'";
    until("the connections to be closed", async || (server.number(open).await == 0).then_some(())).await;
    spared.run("SELECT 1").await;
    fleet.connect("killed").await.run("SELECT 1").await;
}

async fn the_configuration_is_shown_without_secrets(fleet: &Fleet) {
    let config = show(&console(fleet).await, "SHOW CONFIG").await;
    let value = |key: &str| {
        let row = config.iter().find(|row| row["key"] == key);
        row.unwrap_or_else(|| panic!("{key} is missing"))["value"].clone()
    };
    assert_eq!((value("queue_timeout"), value("shutdown_timeout")), ("10s".into(), "8s".into()));
    assert!(value("admin_users").contains(fleet.variable("TENANTRY_USER")));
    let catalog: tokio_postgres::Config = fleet.variable("TENANTRY_CATALOG_URL").parse().unwrap();
    let password = String::from_utf8(catalog.get_password().unwrap().to_vec()).unwrap();
    assert!(!format!("{config:?}").contains(&password));
    assert_eq!(value("catalog_url"), "(hidden)");
}

async fn the_configuration_is_reloaded_and_logs_are_changed_by_command(fleet: &Fleet) {
    let router = fleet.router(&[]).await;
    let console = connect(&router.through(&fleet.config("tenantry"))).await.unwrap();
    console.run("RELOAD").await;
    assert!(router.log().contains("configuration reloaded"), "{}", router.log());
    assert_eq!(console.fails("SET log = 'router=loud'").await, "22023");
    console.run("SET log = 'error'").await;
    let quiet = router.log();
    connect(&router.through(&fleet.config("tenantry"))).await.unwrap().run("SHOW VERSION").await;
    assert_eq!(router.log(), quiet, "that somebody came to the console is told at info");
}
