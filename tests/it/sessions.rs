//! What a client has set stays with it, and with nobody else, whichever server connection it is given.

use futures_util::future::join_all;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, trials, until};

trials! {
    shared settings_too_long_to_be_replayed_stay_where_they_are,
    shared settings_stay_with_their_client,
    shared settings_of_the_startup_packet_are_in_force,
    shared a_setting_that_was_rolled_back_is_not_kept,
    shared the_client_is_told_when_a_parameter_changes,
    shared local_settings_end_with_their_transaction,
    shared a_temporary_table_keeps_the_connection_until_discarded,
    shared notifications_reach_a_listening_client_until_it_unlistens,
    shared a_session_lock_is_held_until_released,
    shared a_cursor_with_hold_outlives_its_transaction,
    shared session_mode_keeps_one_connection,
    shared what_a_client_leaves_is_its_own_and_goes_with_it,
    shared what_ends_with_its_transaction_keeps_no_connection,
    shared a_lock_taken_by_a_function_call_is_held_until_the_client_goes,
    shared large_objects_by_function_calls_keep_no_connection,
    shared a_sequences_last_value_is_that_of_the_client_that_asks,
    shared a_temporary_search_path_of_the_startup_packet_is_the_clients_own,
}

/// Clients of one tenant that take turns on its connections.
async fn clients<const N: usize>(fleet: &Fleet, tenant: &str) -> [tokio_postgres::Client; N] {
    let clients = join_all((0..N).map(|_| fleet.connect(tenant))).await;
    clients.try_into().unwrap_or_else(|_| unreachable!("N of them"))
}

async fn settings_stay_with_their_client(fleet: &Fleet) {
    fleet.create("settings", &[]).await;
    let [one, two, three] = clients(fleet, "settings").await;
    one.run("SET search_path = 'one'; SET work_mem = '5MB'").await;
    two.run("SET search_path = 'two', pg_catalog").await;
    two.run("SET myapp.who = 'it''s me'").await;
    for _ in 0..5 {
        assert_eq!(one.column("SHOW search_path").await, ["one"]);
        assert_eq!(one.column("SHOW work_mem").await, ["5MB"]);
        assert_eq!(two.column("SHOW search_path").await, ["two, pg_catalog"]);
        assert_eq!(two.column("SHOW work_mem").await, ["4MB"]);
        assert_eq!(two.column("SHOW myapp.who").await, ["it's me"]);
        assert_eq!(three.column("SHOW search_path").await, ["\"$user\", public"]);
        // A server that once heard of a setting of one's own keeps it, empty.
        assert_eq!(three.column("SELECT coalesce(current_setting('myapp.who', true), '')").await, [""]);
    }
    one.run("RESET work_mem").await;
    two.run("RESET ALL").await;
    assert_eq!(one.column("SHOW work_mem").await, ["4MB"]);
    assert_eq!(two.column("SHOW search_path").await, ["\"$user\", public"]);
}

async fn settings_of_the_startup_packet_are_in_force(fleet: &Fleet) {
    fleet.create("startup", &[]).await;
    let mut config = fleet.config("startup");
    config.options("-c statement_timeout=12345 -c search_path=a,b").application_name("its-own");
    let client = connect(&config).await.unwrap();
    let other = fleet.connect("startup").await;
    for _ in 0..3 {
        assert_eq!(client.column("SHOW statement_timeout").await, ["12345ms"]);
        assert_eq!(client.column("SHOW search_path").await, ["a,b"]);
        assert_eq!(client.column("SHOW application_name").await, ["its-own"]);
        assert_eq!(other.column("SHOW statement_timeout").await, ["0"]);
    }
}

async fn a_setting_that_was_rolled_back_is_not_kept(fleet: &Fleet) {
    fleet.create("rollback", &[]).await;
    let [one, two] = clients(fleet, "rollback").await;
    one.run("SET work_mem = '5MB'").await;
    one.run("BEGIN; SET work_mem = '6MB'").await;
    one.run("ROLLBACK").await;
    two.run("SELECT 1").await;
    assert_eq!(one.column("SHOW work_mem").await, ["5MB"]);
    one.run("BEGIN; SET work_mem = '7MB'").await;
    one.run("COMMIT").await;
    assert_eq!(two.column("SHOW work_mem").await, ["4MB"]);
    assert_eq!(one.column("SHOW work_mem").await, ["7MB"]);
    assert_eq!(one.fails("SET work_mem = 'much'").await, "22023");
    assert_eq!(one.column("SHOW work_mem").await, ["7MB"]);
}

async fn the_client_is_told_when_a_parameter_changes(fleet: &Fleet) {
    fleet.create("told", &[]).await;
    let mut raw = Raw::login(&fleet.config("told"), &[("TimeZone", "Asia/Tokyo")]).await;
    raw.query("SHOW TimeZone");
    let replies = raw.replies(1).await;
    assert!(replies.contains(&"D:Asia/Tokyo".to_owned()), "{replies:?}");
    raw.query("SET TimeZone = 'Europe/Rome'");
    let replies = raw.replies(1).await;
    assert!(replies.contains(&"S:TimeZone=Europe/Rome".to_owned()), "{replies:?}");
}

async fn local_settings_end_with_their_transaction(fleet: &Fleet) {
    fleet.create("local", &[]).await;
    let mut client = fleet.connect("local").await;
    let transaction = client.transaction().await.unwrap();
    transaction.batch_execute("SET LOCAL work_mem = '9MB'").await.unwrap();
    let row = transaction.query_one("SHOW work_mem", &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "9MB");
    transaction.commit().await.unwrap();
    assert_eq!(client.column("SHOW work_mem").await, ["4MB"]);
}

async fn a_temporary_table_keeps_the_connection_until_discarded(fleet: &Fleet) {
    fleet.create("temporary", &[]).await;
    let [one, two] = clients(fleet, "temporary").await;
    one.run("CREATE TEMP TABLE scratch (n int)").await;
    one.run("INSERT INTO scratch VALUES (1)").await;
    for _ in 0..5 {
        assert_eq!(two.fails("SELECT * FROM scratch").await, "42P01");
        assert_eq!(one.number("SELECT count(*) FROM scratch").await, 1);
    }
    one.run("DISCARD ALL").await;
    assert_eq!(one.fails("SELECT * FROM scratch").await, "42P01");
    // Now they share again: as there is one of them at work at a time, one connection is enough for both.
    let pid = "SELECT pg_backend_pid()";
    until("the connection to be shared again", async || {
        (one.column(pid).await == two.column(pid).await).then_some(())
    })
    .await;
}

async fn notifications_reach_a_listening_client_until_it_unlistens(fleet: &Fleet) {
    fleet.create("listening", &[]).await;
    let (listener, mut connection) = fleet.config("listening").connect(NoTls).await.unwrap();
    let (heard, mut hearing) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message {
                let _ = heard.send(notification.payload().to_owned());
            }
        }
    });
    listener.run("LISTEN news").await;
    let sender = fleet.connect("listening").await;
    sender.run("NOTIFY news, 'first'").await;
    sender.run("NOTIFY other, 'none of its business'; NOTIFY news, 'second'").await;
    assert_eq!(hearing.recv().await.as_deref(), Some("first"));
    assert_eq!(hearing.recv().await.as_deref(), Some("second"));
    listener.run("UNLISTEN *").await;
    sender.run("NOTIFY news, 'too late'").await;
    listener.run("SELECT 1").await;
    assert!(hearing.try_recv().is_err(), "heard after UNLISTEN");
}

async fn a_session_lock_is_held_until_released(fleet: &Fleet) {
    fleet.create("locking", &[]).await;
    let [one, two] = clients(fleet, "locking").await;
    one.run("SELECT pg_advisory_lock(42)").await;
    for _ in 0..3 {
        one.run("SELECT 1").await;
        assert_eq!(two.column("SELECT pg_try_advisory_lock(42)").await, ["f"]);
    }
    assert_eq!(one.column("SELECT pg_advisory_unlock(42)").await, ["t"]);
    assert_eq!(two.column("SELECT pg_try_advisory_lock(42)").await, ["t"]);
    // It goes with the client.
    drop(two);
    until("the lock to be released", async || {
        (one.column("SELECT pg_try_advisory_lock(42)").await == ["t"]).then_some(())
    })
    .await;
}

async fn a_cursor_with_hold_outlives_its_transaction(fleet: &Fleet) {
    fleet.create("cursors", &[]).await;
    let [one, two] = clients(fleet, "cursors").await;
    one.run("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT generate_series(1, 4); COMMIT").await;
    assert_eq!(two.fails("FETCH 1 FROM c").await, "34000");
    assert_eq!(one.column("FETCH 2 FROM c").await, ["1", "2"]);
    two.run("SELECT 1").await;
    assert_eq!(one.column("FETCH ALL FROM c").await, ["3", "4"]);
    one.run("CLOSE c").await;
}

async fn session_mode_keeps_one_connection(fleet: &Fleet) {
    fleet.create("sessions", &["--server", "pg-1"]).await;
    let config = fleet.user("sitter", "sessions", &["--pool-mode", "session", "--access", "owner"]).await;
    let (one, two) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    let pid = "SELECT pg_backend_pid()";
    let (first, second) = (one.column(pid).await, two.column(pid).await);
    assert_ne!(first, second);
    // Hidden from every reader of statements: only a connection of its own keeps it.
    one.run("DO $$ BEGIN PERFORM set_config('work_mem', '5MB', false); END $$").await;
    for _ in 0..3 {
        assert_eq!((one.column(pid).await, two.column(pid).await), (first.clone(), second.clone()));
        assert_eq!(one.column("SHOW work_mem").await, ["5MB"]);
        assert_eq!(two.column("SHOW work_mem").await, ["4MB"]);
    }
    drop(one);
    let third = connect(&config).await.unwrap();
    assert_eq!(third.column("SHOW work_mem").await, ["4MB"], "nothing of a session is left to the next");
}

/// Something done to the session; what a query tells of it, to the client that did it and to any other.
const LEFT_BEHIND: [(&str, &str, &str, &str); 21] = [
    ("SET work_mem = '5MB'", WORK_MEM, "5MB", "4MB"),
    ("SET SESSION work_mem TO '5MB'; SET enable_sort = off", WORK_MEM, "5MB", "4MB"),
    ("BEGIN; SET work_mem = '5MB'; COMMIT", WORK_MEM, "5MB", "4MB"),
    ("SELECT set_config('work_mem', '5MB', false)", WORK_MEM, "5MB", "4MB"),
    ("SELECT set_config('enable_' || 'sort', 'off', false)", "SHOW enable_sort", "off", "on"),
    ("EXPLAIN ANALYZE SELECT set_config('work_mem', '5MB', false)", WORK_MEM, "5MB", "4MB"),
    ("UPDATE pg_settings SET setting = '5120' WHERE name = 'work_mem'", WORK_MEM, "5MB", "4MB"),
    ("DO $$ BEGIN SET work_mem = '5MB'; END $$", WORK_MEM, "5MB", "4MB"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW transaction_read_only", "on", "off"),
    ("SET row_security = off", "SHOW row_security", "off", "on"),
    ("SET client_encoding = 'GBK'", "SHOW client_encoding", "GBK", "UTF8"),
    ("CREATE TEMP TABLE x (n int)", "SELECT to_regclass('x') IS NULL", "f", "t"),
    ("CREATE TABLE pg_temp.x (n int)", "SELECT to_regclass('x') IS NULL", "f", "t"),
    ("SELECT 1 AS n INTO TEMPORARY x", "SELECT to_regclass('x') IS NULL", "f", "t"),
    (
        "SET search_path = pg_temp, public; CREATE TABLE x (n int)",
        "SELECT to_regclass('x') IS NULL",
        "f",
        "t",
    ),
    ("CREATE TEMP SEQUENCE x", "SELECT to_regclass('x') IS NULL", "f", "t"),
    (
        "BEGIN; DECLARE x CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT count(*) FROM pg_cursors WHERE is_holdable",
        "1",
        "0",
    ),
    ("PREPARE x AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements WHERE from_sql", "1", "0"),
    ("LISTEN x", "SELECT count(*) FROM pg_listening_channels()", "1", "0"),
    ("SELECT \"pg_catalog\".\"pg_advisory_lock\"(7)", OWN_LOCKS, "1", "0"),
    ("SELECT 1 WHERE pg_try_advisory_lock_shared(7, 7)", OWN_LOCKS, "1", "0"),
];
const WORK_MEM: &str = "SHOW work_mem";
const OWN_LOCKS: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()";

async fn what_a_client_leaves_is_its_own_and_goes_with_it(fleet: &Fleet) {
    fleet.create("leavings", &[]).await;
    // With two connections at most, whoever comes while one is busy has the other.
    let router = fleet.router(&["connections_per_tenant_max=2"]).await;
    let config = router.through(&fleet.config("leavings"));
    let (other, third) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    for (done, asked, mine, others) in LEFT_BEHIND {
        let client = connect(&config).await.unwrap();
        client.run(done).await;
        for _ in 0..2 {
            assert_eq!(client.column(asked).await, [mine], "{done}");
            assert_eq!(other.column(asked).await, [others], "{done}");
        }
        drop(client);
        other.run("BEGIN; SELECT 1").await;
        assert_eq!(third.column(asked).await, [others], "{done}");
        other.run("COMMIT").await;
    }
}

async fn what_ends_with_its_transaction_keeps_no_connection(fleet: &Fleet) {
    fleet.create("endings", &[]).await;
    let router = fleet.router(&["workers=1"]).await;
    let config = router.through(&fleet.config("endings"));
    let client = connect(&config).await.unwrap();
    for sql in [
        "BEGIN; CREATE TEMP TABLE x ON COMMIT DROP AS SELECT 1; SELECT * FROM x; COMMIT",
        "SET LOCAL work_mem = '5MB'",
        "BEGIN; SELECT set_config('work_mem', '5MB', true), txid_current(); COMMIT",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT pg_export_snapshot(); COMMIT",
        "SELECT pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(2)",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
        "NOTIFY news, 'SET work_mem = 1'",
        "SELECT lo_unlink(lo_create(0))",
        "SET CONSTRAINTS ALL DEFERRED",
        "EXPLAIN SELECT 1",
        "SELECT setting FROM pg_settings WHERE name = 'work_mem'",
    ] {
        client.run(sql).await;
        assert_eq!(client.column("SHOW work_mem").await, ["4MB"], "{sql}");
        let pins = router.metrics().await.sum("tenantry_router_pins_total", &[]);
        assert!(pins == 0.0, "{sql} pinned");
    }
}

/// A FunctionCall with numbers of 8 bytes each.
fn call(raw: &mut Raw, function: u32, arguments: &[i64]) {
    let count = u16::try_from(arguments.len()).unwrap();
    raw.message_of(b'F', |body| {
        body.extend(function.to_be_bytes());
        body.extend([0, 1, 0, 1]);
        body.extend(count.to_be_bytes());
        for argument in arguments {
            body.extend(8_u32.to_be_bytes());
            body.extend(argument.to_be_bytes());
        }
        body.extend([0, 1]);
    });
}

async fn a_lock_taken_by_a_function_call_is_held_until_the_client_goes(fleet: &Fleet) {
    fleet.create("called", &[]).await;
    let mut raw = Raw::login(&fleet.config("called"), &[]).await;
    const PG_ADVISORY_LOCK: u32 = 2880;
    call(&mut raw, PG_ADVISORY_LOCK, &[42]);
    assert_eq!(raw.replies(1).await, ["V", "Z:I"]);
    let other = fleet.connect("called").await;
    for _ in 0..3 {
        raw.query("SELECT 1");
        raw.replies(1).await;
        assert_eq!(other.column("SELECT pg_try_advisory_lock(42)").await, ["f"]);
    }
    drop(raw);
    until("the lock to be released", async || {
        (other.column("SELECT pg_try_advisory_lock(42)").await == ["t"]).then_some(())
    })
    .await;
}

async fn large_objects_by_function_calls_keep_no_connection(fleet: &Fleet) {
    fleet.create("objects", &[]).await;
    let router = fleet.router(&["workers=1"]).await;
    let mut raw = Raw::login(&router.through(&fleet.config("objects")), &[]).await;
    const LO_TELL64: u32 = 3171;
    call(&mut raw, LO_TELL64, &[0]);
    // An argument of the wrong length: an error as any other.
    assert_eq!(raw.replies(1).await, ["E:22P03", "Z:I"]);
    raw.query("SELECT 1");
    assert_eq!(raw.replies(1).await, ["T", "D:1", "C:SELECT 1", "Z:I"]);
    assert!(router.metrics().await.sum("tenantry_router_pins_total", &[]) == 0.0);
}

async fn a_sequences_last_value_is_that_of_the_client_that_asks(fleet: &Fleet) {
    fleet.create("sequences", &[]).await;
    let [one, two] = clients(fleet, "sequences").await;
    one.run("CREATE SEQUENCE s; CREATE TABLE t (id serial, n int)").await;
    // From the first time that it asks, it has a connection to itself.
    one.run("BEGIN; INSERT INTO t (n) VALUES (1)").await;
    assert_eq!(one.column("SELECT lastval()").await, ["1"]);
    one.run("COMMIT").await;
    one.run("SELECT nextval('s')").await;
    assert_eq!(one.column("SELECT lastval()").await, ["1"]);
    for n in 2..5 {
        two.run("SELECT nextval('s'), nextval('s')").await;
        one.run("INSERT INTO t (n) VALUES (1)").await;
        two.run("SELECT nextval('s')").await;
        assert_eq!(one.number("SELECT lastval()").await, n);
        assert_eq!(one.number("SELECT currval('t_id_seq')").await, n);
    }
    one.run("DISCARD SEQUENCES").await;
    until("the connection to be shared again", async || {
        let pid = "SELECT pg_backend_pid()";
        (one.column(pid).await == two.column(pid).await).then_some(())
    })
    .await;
}

async fn a_temporary_search_path_of_the_startup_packet_is_the_clients_own(fleet: &Fleet) {
    fleet.create("temppath", &[]).await;
    let mut config = fleet.config("temppath");
    config.options("-c search_path=pg_temp,public");
    let (client, other) = (connect(&config).await.unwrap(), fleet.connect("temppath").await);
    client.run("CREATE TABLE scratch (n int)").await;
    for _ in 0..3 {
        assert_eq!(other.column("SELECT to_regclass('scratch') IS NULL").await, ["t"]);
        assert_eq!(client.number("SELECT count(*) FROM scratch").await, 0);
    }
}

async fn settings_too_long_to_be_replayed_stay_where_they_are(fleet: &Fleet) {
    fleet.create("longset", &[]).await;
    let router = fleet.router(&["connections_per_tenant_max=2"]).await;
    let config = router.through(&fleet.config("longset"));
    let (one, other) = (connect(&config).await.unwrap(), connect(&config).await.unwrap());
    for n in 0..8 {
        one.run(&format!("SET my.part{n} = '{}'", n.to_string().repeat(6_000))).await;
        other.run("SELECT 1").await;
    }
    let pinned = "tenantry_router_pins_total{reason=\"hidden_set\"}";
    assert_eq!(router.metrics().await.get(pinned), 1.0);
    for n in 0..8 {
        let same = format!("SELECT count(*) WHERE current_setting('my.part{n}') = repeat('{n}', 6000)");
        assert_eq!(one.number(&same).await, 1, "part {n}");
        assert_eq!(other.number("SELECT count(*) WHERE current_setting('my.part0', true) <> ''").await, 0);
    }
}
