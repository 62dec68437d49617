//! Prepared statements and pipelines, over connections that change with every transaction.

use futures_util::future::join_all;

use crate::harness::raw::Raw;
use crate::harness::{Fleet, Sql as _, connect, trials, until};

trials! {
    shared the_same_text_means_what_its_clients_settings_make_of_it,
    shared a_statement_prepared_after_a_change_of_the_schema_is_of_the_new_schema,
    shared a_client_that_has_its_portals_described_does_not_notice_a_change_of_the_schema,
    shared requests_behind_one_with_an_old_plan_are_answered_in_their_order,
    shared a_client_that_relies_on_what_it_was_told_hears_of_a_change_of_the_schema,
    shared a_statement_is_deallocated_by_its_clients_name_in_the_extended_protocol,
    shared statements_survive_the_change_of_server_connections,
    shared clients_share_few_server_connections_without_mixing_statements_up,
    shared statements_of_sql_are_kept_for_their_client,
    shared a_statement_of_the_same_name_is_another_for_another_client,
    shared an_unknown_statement_is_refused,
    shared several_statements_in_one_query_are_one_transaction,
    shared a_pipeline_skips_from_an_error_to_its_sync,
    shared an_error_in_a_pipeline_undoes_its_transaction_only,
    shared many_queries_at_once_are_answered_in_order,
    shared a_statement_is_prepared_anew_after_its_table_changed,
    shared a_client_with_too_many_statements_is_told_and_goes_on,
    shared a_tenants_statements_are_bounded_in_bytes,
    shared unnamed_statements_count_among_a_tenants_bytes,
    shared a_server_connection_keeps_the_statements_used_last,
    shared names_of_the_router_are_not_for_clients,
    shared statements_that_went_with_a_failed_query_string_are_made_again,
    shared a_pipeline_with_a_deallocate_is_answered_in_order,
    shared a_failed_transaction_refuses_a_known_text_as_postgres_does,
}

async fn statements_survive_the_change_of_server_connections(fleet: &Fleet) {
    fleet.create("reused", &[]).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(fleet.connect("reused").await);
    }
    let mut statements = Vec::new();
    for client in &clients {
        let doubled = client.prepare("SELECT $1::int8 * 2").await.unwrap();
        let shouted = client.prepare("SELECT upper($1::text)").await.unwrap();
        statements.push((doubled, shouted));
    }
    for round in 0..30_i64 {
        let asked = clients.iter().zip(&statements).map(async |(client, (doubled, shouted))| {
            let row = client.query_one(doubled, &[&round]).await.unwrap();
            assert_eq!(row.get::<_, i64>(0), round * 2);
            let row = client.query_one(shouted, &[&format!("round {round}")]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), format!("ROUND {round}"));
        });
        join_all(asked).await;
    }
}

async fn clients_share_few_server_connections_without_mixing_statements_up(fleet: &Fleet) {
    fleet.create("crowd", &["--server", "pg-1"]).await;
    let clients = join_all((0..60).map(|_| fleet.connect("crowd"))).await;
    let asked = clients.iter().enumerate().map(async |(i, client)| {
        let statement = client.prepare(&format!("SELECT {i} + $1::int4")).await.unwrap();
        for n in 0..10 {
            let row = client.query_one(&statement, &[&n]).await.unwrap();
            assert_eq!(row.get::<_, i32>(0), i32::try_from(i).unwrap() + n);
        }
    });
    join_all(asked).await;
    let server = fleet.direct("pg-1", "postgres").await;
    let open = server.number("SELECT count(*) FROM pg_stat_activity WHERE datname = 'crowd'").await;
    assert!((1..=20).contains(&open), "{open} server connections for 60 clients");
}

async fn statements_of_sql_are_kept_for_their_client(fleet: &Fleet) {
    fleet.create("sqlprep", &[]).await;
    let (one, other) = (fleet.connect("sqlprep").await, fleet.connect("sqlprep").await);
    one.run("PREPARE answer (int) AS SELECT $1 + 1").await;
    other.run("PREPARE answer (int) AS SELECT $1 + 2").await;
    for _ in 0..5 {
        assert_eq!(one.column("EXECUTE answer (41)").await, ["42"]);
        assert_eq!(other.column("EXECUTE answer (41)").await, ["43"]);
    }
    one.run("DEALLOCATE answer").await;
    assert_eq!(one.fails("EXECUTE answer (41)").await, "26000");
    assert_eq!(other.column("EXECUTE answer (41)").await, ["43"]);
}

async fn a_statement_of_the_same_name_is_another_for_another_client(fleet: &Fleet) {
    fleet.create("samename", &[]).await;
    let config = fleet.config("samename");
    let (mut one, mut other) = (Raw::login(&config, &[]).await, Raw::login(&config, &[]).await);
    one.parse("s", "SELECT 'one'").sync();
    assert_eq!(one.replies(1).await, ["1", "Z:I"]);
    other.parse("s", "SELECT 'other'").sync();
    assert_eq!(other.replies(1).await, ["1", "Z:I"]);
    for _ in 0..3 {
        one.execute("s", &[]).sync();
        assert_eq!(one.replies(1).await, ["2", "D:one", "C:SELECT 1", "Z:I"]);
        other.execute("s", &[]).sync();
        assert_eq!(other.replies(1).await, ["2", "D:other", "C:SELECT 1", "Z:I"]);
    }
    one.parse("s", "SELECT 'again'").sync();
    assert_eq!(one.replies(1).await, ["E:42P05", "Z:I"], "a name is taken once");
}

async fn an_unknown_statement_is_refused(fleet: &Fleet) {
    fleet.create("unprepared", &[]).await;
    let mut raw = Raw::login(&fleet.config("unprepared"), &[]).await;
    raw.execute("nothing", &[]).sync();
    assert_eq!(raw.replies(1).await, ["E:26000", "Z:I"]);
    raw.query("SELECT 1");
    assert_eq!(raw.replies(1).await, ["T", "D:1", "C:SELECT 1", "Z:I"]);
}

async fn several_statements_in_one_query_are_one_transaction(fleet: &Fleet) {
    fleet.create("multi", &[]).await;
    let mut raw = Raw::login(&fleet.config("multi"), &[]).await;
    raw.query("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2); SELECT count(*) FROM t");
    assert_eq!(raw.replies(1).await, ["C:CREATE TABLE", "C:INSERT 0 2", "T", "D:2", "C:SELECT 1", "Z:I"]);
    raw.query("INSERT INTO t VALUES (3); SELECT 1/0; INSERT INTO t VALUES (4)");
    assert_eq!(raw.replies(1).await, ["C:INSERT 0 1", "E:22012", "Z:I"]);
    raw.query("SELECT count(*) FROM t; ");
    assert_eq!(raw.replies(1).await, ["T", "D:2", "C:SELECT 1", "Z:I"]);
    raw.query("");
    assert_eq!(raw.replies(1).await, ["I", "Z:I"]);
}

const BAD: &str = "SELECT 1 / (random()::int4 * 0)";

async fn a_pipeline_skips_from_an_error_to_its_sync(fleet: &Fleet) {
    fleet.create("pipeline", &[]).await;
    let mut raw = Raw::login(&fleet.config("pipeline"), &[]).await;
    raw.parse("ok", "SELECT $1::int4 + 1").sync();
    assert_eq!(raw.replies(1).await, ["1", "Z:I"]);
    // An error in the middle, found by running it, not by planning it; a second part behind the Sync that is none of its business.
    raw.execute("ok", &["1"]).parse("bad", BAD).execute("bad", &[]).parse("late", "SELECT 7").sync();
    raw.execute("ok", &["2"]).sync();
    assert_eq!(
        raw.replies(2).await,
        ["2", "D:2", "C:SELECT 1", "1", "2", "E:22012", "Z:I", "2", "D:3", "C:SELECT 1", "Z:I"]
    );
    // What was skipped was not prepared; what came before the error was.
    raw.execute("late", &[]).sync();
    assert_eq!(raw.replies(1).await, ["E:26000", "Z:I"]);
    raw.execute("bad", &[]).sync();
    assert_eq!(raw.replies(1).await, ["2", "E:22012", "Z:I"]);
    // A Parse that fails leaves its name free.
    raw.parse("typo", "SELEC 1").sync();
    assert_eq!(raw.replies(1).await, ["E:42601", "Z:I"]);
    raw.parse("typo", "SELECT 1").execute("typo", &[]).sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "D:1", "C:SELECT 1", "Z:I"]);
}

async fn an_error_in_a_pipeline_undoes_its_transaction_only(fleet: &Fleet) {
    fleet.create("pipetx", &[]).await;
    let mut raw = Raw::login(&fleet.config("pipetx"), &[]).await;
    raw.query("CREATE TABLE t (n int PRIMARY KEY)");
    raw.replies(1).await;
    raw.parse("put", "INSERT INTO t VALUES ($1::int4)");
    raw.execute("put", &["1"]).sync();
    raw.execute("put", &["2"]).execute("put", &["1"]).execute("put", &["3"]).sync();
    raw.execute("put", &["4"]).sync();
    let replies = raw.replies(3).await;
    let errors: Vec<&String> = replies.iter().filter(|reply| reply.starts_with("E:")).collect();
    assert_eq!(errors, ["E:23505"], "{replies:?}");
    raw.query("SELECT string_agg(n::text, ',' ORDER BY n) FROM t");
    assert_eq!(raw.replies(1).await, ["T", "D:1,4", "C:SELECT 1", "Z:I"]);
    // An open transaction that failed stays so until its end.
    raw.query("BEGIN").query("SELECT 1/0").query("SELECT 1").query("ROLLBACK");
    assert_eq!(
        raw.replies(4).await,
        ["C:BEGIN", "Z:T", "E:22012", "Z:E", "E:25P02", "Z:E", "C:ROLLBACK", "Z:I"]
    );
}

async fn many_queries_at_once_are_answered_in_order(fleet: &Fleet) {
    fleet.create("pipelined", &[]).await;
    let client = fleet.connect("pipelined").await;
    let statement = client.prepare("SELECT $1::int4, repeat('x', $1)").await.unwrap();
    let rows = join_all((0..500_i32).map(async |n| client.query_one(&statement, &[&n]).await.unwrap())).await;
    for (n, row) in rows.iter().enumerate() {
        assert_eq!((row.get::<_, i32>(0) as usize, row.get::<_, &str>(1).len()), (n, n));
    }
}

async fn a_statement_is_prepared_anew_after_its_table_changed(fleet: &Fleet) {
    fleet.create("altered", &[]).await;
    let owner = fleet.connect("altered").await;
    owner.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let client = connect(&fleet.config("altered")).await.unwrap();
    let statement = client.prepare("SELECT a FROM t WHERE a = $1").await.unwrap();
    assert_eq!(client.query_one(&statement, &[&1]).await.unwrap().get::<_, i32>(0), 1);
    owner.run("ALTER TABLE t ADD b int; CREATE INDEX ON t (a)").await;
    assert_eq!(client.query_one(&statement, &[&1]).await.unwrap().get::<_, i32>(0), 1);
    // One whose result did change: from then on it has the new shape, at the latest when it is prepared again.
    let all = client.prepare("SELECT * FROM t").await.unwrap();
    assert_eq!(all.columns().len(), 2);
    owner.run("ALTER TABLE t ADD c int").await;
    let _ = client.query(&all, &[]).await;
    let again = client.prepare("SELECT * FROM t").await.unwrap();
    assert_eq!(client.query_one(&again, &[]).await.unwrap().len(), 3);
}

/// A client that has executed a statement of a table which then changed its shape, behind the router's back.
async fn with_a_stale_statement(fleet: &Fleet, tenant: &str) -> Raw {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    fleet.connect(tenant).await.run("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await;
    let mut raw = Raw::login(&fleet.config(tenant), &[]).await;
    raw.parse("all", "SELECT * FROM t").describe_statement("all").sync();
    assert_eq!(raw.replies(1).await, ["1", "t", "T", "Z:I"]);
    raw.bind("all", &[]).describe_portal().run().sync();
    assert_eq!(raw.replies(1).await, ["2", "T", "D:1", "C:SELECT 1", "Z:I"]);
    fleet.direct("pg-1", tenant).await.run("ALTER TABLE t ADD b int DEFAULT 2").await;
    raw
}

async fn a_client_that_has_its_portals_described_does_not_notice_a_change_of_the_schema(fleet: &Fleet) {
    let mut raw = with_a_stale_statement(fleet, "replanned").await;
    for _ in 0..2 {
        raw.bind("all", &[]).describe_portal().run().sync();
        assert_eq!(raw.replies(1).await, ["2", "T", "D:1|2", "C:SELECT 1", "Z:I"]);
    }
}

async fn requests_behind_one_with_an_old_plan_are_answered_in_their_order(fleet: &Fleet) {
    let mut raw = with_a_stale_statement(fleet, "overtaken").await;
    raw.bind("all", &[]).describe_portal().run().sync();
    raw.query("SELECT 7");
    // It can't be sent once more behind what came after it, so the client is told.
    assert_eq!(raw.replies(2).await, ["E:0A000", "Z:I", "T", "D:7", "C:SELECT 1", "Z:I"]);
}

async fn a_client_that_relies_on_what_it_was_told_hears_of_a_change_of_the_schema(fleet: &Fleet) {
    let mut raw = with_a_stale_statement(fleet, "retold").await;
    // Within a transaction, or without a description, Postgres's own answer is the only right one.
    raw.bind("all", &[]).run().sync();
    assert_eq!(raw.replies(1).await, ["E:0A000", "Z:I"]);
    raw.parse("again", "SELECT * FROM t").describe_statement("again").sync();
    assert_eq!(raw.replies(1).await, ["1", "t", "T", "Z:I"]);
    let owner = fleet.connect("retold").await;
    owner.run("ALTER TABLE t ADD c int DEFAULT 3").await;
    // On a connection where nobody has prepared it, the server would not know that the client was told otherwise.
    let busy = fleet.connect("retold").await;
    busy.run("BEGIN; SELECT 1").await;
    raw.bind("again", &[]).run().sync();
    assert_eq!(raw.replies(1).await, ["E:0A000", "Z:I"]);
    raw.parse("anew", "SELECT * FROM t").describe_statement("anew").sync();
    assert_eq!(raw.replies(1).await, ["1", "t", "T", "Z:I"]);
    raw.bind("anew", &[]).run().sync();
    assert_eq!(raw.replies(1).await, ["2", "D:1|2|3", "C:SELECT 1", "Z:I"]);
    busy.run("COMMIT").await;
    // Drivers that then prepare anew by themselves know it by the function that reports it.
    let statement = busy.prepare("SELECT * FROM t").await.unwrap();
    owner.run("ALTER TABLE t ADD d int").await;
    let error = busy.query(&statement, &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().and_then(|error| error.routine()), Some("RevalidateCachedQuery"));
}

async fn a_statement_is_deallocated_by_its_clients_name_in_the_extended_protocol(fleet: &Fleet) {
    fleet.create("deallocated", &[]).await;
    let mut raw = Raw::login(&fleet.config("deallocated"), &[]).await;
    raw.parse("one", "SELECT 1").sync();
    assert_eq!(raw.replies(1).await, ["1", "Z:I"]);
    raw.parse("", "DEALLOCATE one").execute("", &[]).sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "C:DEALLOCATE", "Z:I"]);
    raw.execute("one", &[]).sync();
    assert_eq!(raw.replies(1).await, ["E:26000", "Z:I"]);
}

async fn a_client_with_too_many_statements_is_told_and_goes_on(fleet: &Fleet) {
    fleet.create("manystatements", &[]).await;
    let router = fleet.router(&["prepared_per_client_max=3"]).await;
    let config = router.through(&fleet.config("manystatements"));
    let mut raw = Raw::login(&config, &[]).await;
    // In one pipeline: the answer has its place between the others.
    for n in 0..5 {
        raw.parse(&format!("s{n}"), &format!("SELECT {n}"));
    }
    raw.sync().execute("s2", &[]).sync();
    assert_eq!(raw.replies(2).await, ["1", "1", "1", "E:54000", "Z:I", "2", "D:2", "C:SELECT 1", "Z:I"]);
    // In a transaction it fails as any error does.
    raw.query("BEGIN").parse("more", "SELECT 1").sync().query("ROLLBACK");
    assert_eq!(raw.replies(3).await, ["C:BEGIN", "Z:T", "E:54000", "Z:E", "C:ROLLBACK", "Z:I"]);
    // The unnamed statement is none of them; one that is closed, or deallocated, makes room.
    raw.parse("", "SELECT 'unnamed'").execute("", &[]).sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "D:unnamed", "C:SELECT 1", "Z:I"]);
    raw.close_statement("s1").parse("more", "SELECT 'more'").execute("more", &[]).sync();
    assert_eq!(raw.replies(1).await, ["3", "1", "2", "D:more", "C:SELECT 1", "Z:I"]);
    raw.query("DEALLOCATE ALL").parse("s0", "SELECT 'new'").execute("s0", &[]).sync();
    assert_eq!(raw.replies(2).await[2..], ["1", "2", "D:new", "C:SELECT 1", "Z:I"]);
    let metrics = router.metrics().await;
    assert!(metrics.get("tenantry_router_limits_total{limit=\"prepared_per_client_max\"}") == 2.0);
}

async fn a_tenants_statements_are_bounded_in_bytes(fleet: &Fleet) {
    fleet.create("longstatements", &[]).await;
    let router = fleet.router(&["prepared_bytes_per_tenant_max=2097152"]).await;
    let config = router.through(&fleet.config("longstatements"));
    let (mut one, mut other) = (Raw::login(&config, &[]).await, Raw::login(&config, &[]).await);
    let text = |n: i32| format!("SELECT {n} /* {} */", "x".repeat(900_000));
    one.parse("a", &text(1)).sync().parse("b", &text(2)).sync().parse("c", &text(3)).sync();
    assert_eq!(one.replies(3).await, ["1", "Z:I", "1", "Z:I", "E:54000", "Z:I"]);
    // The same text takes no more room, whoever has it; it goes when the last of them goes.
    other.parse("same", &text(2)).execute("same", &[]).sync().parse("c", &text(3)).sync();
    assert_eq!(other.replies(2).await, ["1", "2", "D:2", "C:SELECT 1", "Z:I", "E:54000", "Z:I"]);
    drop(one);
    until("the first client's statements to be gone", async || {
        other.parse("c", &text(3)).sync();
        (other.replies(1).await == ["1", "Z:I"]).then_some(())
    })
    .await;
}

async fn unnamed_statements_count_among_a_tenants_bytes(fleet: &Fleet) {
    fleet.create("longunnamed", &[]).await;
    let router = fleet.router(&["prepared_bytes_per_tenant_max=2097152"]).await;
    let config = router.through(&fleet.config("longunnamed"));
    let text = |n: usize| format!("SELECT {n} /* {} */", "x".repeat(900_000));
    let mut clients = Vec::new();
    for n in 0..3 {
        let mut client = Raw::login(&config, &[]).await;
        let answer = client.parse("", &text(n)).sync().replies(1).await;
        assert_eq!(answer, [["1", "Z:I"], ["E:54000", "Z:I"]][n / 2]);
        clients.push(client);
    }
    // One's own is replaced; a Query does away with it; and what was refused is not there.
    assert_eq!(clients[0].parse("", &text(7)).sync().replies(1).await, ["1", "Z:I"]);
    assert_eq!(clients[0].execute("", &[]).sync().replies(1).await, ["2", "D:7", "C:SELECT 1", "Z:I"]);
    assert_eq!(clients[2].execute("", &[]).sync().replies(1).await, ["E:26000", "Z:I"]);
    clients[1].query("SELECT 1").replies(1).await;
    assert_eq!(clients[2].parse("", &text(8)).sync().replies(1).await, ["1", "Z:I"]);
    let limit = "tenantry_router_limits_total{limit=\"prepared_bytes_per_tenant_max\"}";
    assert_eq!(router.metrics().await.get(limit), 1.0);
}

async fn a_server_connection_keeps_the_statements_used_last(fleet: &Fleet) {
    fleet.create("fewkept", &[]).await;
    let router = fleet.router(&["prepared_per_connection_max=3", "workers=1"]).await;
    let client = connect(&router.through(&fleet.config("fewkept"))).await.unwrap();
    let mut statements = Vec::new();
    for n in 0..10 {
        statements.push(client.prepare(&format!("SELECT {n} + $1::int4")).await.unwrap());
    }
    for _ in 0..2 {
        for (n, statement) in (0..).zip(&statements) {
            assert_eq!(client.query_one(statement, &[&1]).await.unwrap().get::<_, i32>(0), n + 1);
        }
    }
    let count = "SELECT count(*) FROM pg_prepared_statements";
    assert!((1..=3).contains(&client.number(count).await));
}

async fn names_of_the_router_are_not_for_clients(fleet: &Fleet) {
    fleet.create("reserved", &[]).await;
    let config = fleet.config("reserved");
    let (mut raw, client) = (Raw::login(&config, &[]).await, fleet.connect("reserved").await);
    let statement = client.prepare("SELECT 42").await.unwrap();
    let names = client.column("SELECT name FROM pg_prepared_statements WHERE name LIKE 'tenantry%'").await;
    for name in names.iter().map(String::as_str).chain(["tenantry_1000"]) {
        raw.query(&format!("DEALLOCATE {name}")).query(&format!("PREPARE {name} AS SELECT 1"));
        assert_eq!(raw.replies(2).await, ["E:26000", "Z:I", "E:26000", "Z:I"], "{name}");
        raw.parse("", &format!("DEALLOCATE {name}")).execute("", &[]).sync();
        assert_eq!(raw.replies(1).await, ["1", "2", "E:26000", "Z:I"], "{name}");
        raw.query(&format!("BEGIN; DEALLOCATE {name}")).query("ROLLBACK");
        raw.replies(2).await;
        // By the protocol it may call its own as it likes.
        raw.parse(name, "SELECT 'mine'").execute(name, &[]).close_statement(name).sync();
        assert_eq!(raw.replies(1).await, ["1", "2", "D:mine", "C:SELECT 1", "3", "Z:I"], "{name}");
    }
    assert_eq!(client.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0), 42);
}

async fn statements_that_went_with_a_failed_query_string_are_made_again(fleet: &Fleet) {
    fleet.create("halfdone", &[]).await;
    let (one, other) = (fleet.connect("halfdone").await, fleet.connect("halfdone").await);
    let statement = one.prepare("SELECT 42").await.unwrap();
    assert_eq!(one.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0), 42);
    assert_eq!(other.fails("DEALLOCATE ALL; SELECT 1/0").await, "22012");
    assert_eq!(one.query_one(&statement, &[]).await.unwrap().get::<_, i32>(0), 42);
}

async fn a_pipeline_with_a_deallocate_is_answered_in_order(fleet: &Fleet) {
    fleet.create("ordered", &[]).await;
    let mut raw = Raw::login(&fleet.config("ordered"), &[]).await;
    raw.parse("s", "SELECT 1").execute("s", &[]);
    raw.parse("", "DEALLOCATE s").execute("", &[]).parse("", "SELECT 2").execute("", &[]).sync();
    let expected =
        ["1", "2", "D:1", "C:SELECT 1", "1", "2", "C:DEALLOCATE", "1", "2", "D:2", "C:SELECT 1", "Z:I"];
    assert_eq!(raw.replies(1).await, expected);
}

async fn the_same_text_means_what_its_clients_settings_make_of_it(fleet: &Fleet) {
    fleet.create("readings", &[]).await;
    let sql = "SELECT extract(epoch FROM timestamptz '2020-01-01 00:00')::bigint";
    for (zone, epoch) in [("America/New_York", "1577854800"), ("UTC", "1577836800")] {
        let mut raw = Raw::login(&fleet.config("readings"), &[("timezone", zone)]).await;
        raw.parse("midnight", sql).execute("midnight", &[]).sync();
        assert_eq!(raw.replies(1).await, ["1", "2", &format!("D:{epoch}"), "C:SELECT 1", "Z:I"]);
    }
    // A constant that is written as a text is of the plan.
    for (output, text) in [("hex", "\\x61"), ("escape", "a")] {
        let mut raw = Raw::login(&fleet.config("readings"), &[("bytea_output", output)]).await;
        raw.parse("bytes", "SELECT 'a'::bytea::text").execute("bytes", &[]).sync();
        assert_eq!(raw.replies(1).await, ["1", "2", &format!("D:{text}"), "C:SELECT 1", "Z:I"]);
    }
}

async fn a_statement_prepared_after_a_change_of_the_schema_is_of_the_new_schema(fleet: &Fleet) {
    fleet.create("rescheming", &[]).await;
    let owner = fleet.connect("rescheming").await;
    owner.run("CREATE TABLE t (a int)").await;
    let client = fleet.connect("rescheming").await;
    let before = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    assert_eq!(before.params(), [tokio_postgres::types::Type::INT4]);
    owner.run("BEGIN; ALTER TABLE t ALTER a TYPE bigint; COMMIT").await;
    let after = client.prepare("INSERT INTO t VALUES ($1)").await.unwrap();
    assert_eq!(after.params(), [tokio_postgres::types::Type::INT8]);
}

async fn a_failed_transaction_refuses_a_known_text_as_postgres_does(fleet: &Fleet) {
    fleet.create("failedparse", &[]).await;
    let mut raw = Raw::login(&fleet.config("failedparse"), &[]).await;
    raw.parse("one", "SELECT 42").parse("back", "ROLLBACK").sync();
    assert_eq!(raw.replies(1).await, ["1", "1", "Z:I"]);
    raw.query("BEGIN").query("SELECT 1/0").replies(2).await;
    raw.parse("two", "SELECT 42").execute("two", &[]).sync();
    assert_eq!(raw.replies(1).await, ["E:25P02", "Z:E"]);
    raw.parse("again", "ROLLBACK").execute("again", &[]).parse("two", "SELECT 42").sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "C:ROLLBACK", "1", "Z:I"]);
    // Before it is known that it has failed.
    raw.query("BEGIN; SELECT 1/0").parse("three", "SELECT 42").sync().query("ROLLBACK");
    assert_eq!(raw.replies(3).await, ["C:BEGIN", "E:22012", "Z:E", "E:25P02", "Z:E", "C:ROLLBACK", "Z:I"]);
    raw.parse("three", "SELECT 42").execute("three", &[]).execute("one", &[]).sync();
    assert_eq!(raw.replies(1).await, ["1", "2", "D:42", "C:SELECT 1", "2", "D:42", "C:SELECT 1", "Z:I"]);
}
