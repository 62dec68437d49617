//! What the classifier must see, and what must not make it fall over.

mod lexing;
mod session;

use super::{Change, Count, Effects, PinReason, Pins, Transaction, classify};

/// The reasons, as labels.
fn pins(sql: &str) -> Vec<&'static str> {
    classify(sql).pins.iter().map(PinReason::as_str).collect()
}

fn plain(sql: &str) {
    let effects = classify(sql);
    assert!(effects.keeps_session(), "{sql}: {effects:?}");
    assert_eq!(effects.transaction, None, "{sql}");
}

#[test]
fn data_access_has_no_effects() {
    for sql in [
        "SELECT 1",
        "select 1;",
        "  /* a /* b */ */ -- c\n SELECT ';' ; -- d\n ; ",
        "(select 1) union (select 2)",
        "INSERT INTO temp VALUES (1)",
        "insert into temperatures (temp, d) values (1, 2) on conflict do update set temp = 3",
        "UPDATE t SET x = 1 WHERE y = 'advisory'",
        "MERGE INTO temp USING s ON true WHEN MATCHED THEN DELETE",
        "WITH a AS (SELECT 1) SELECT * INTO b FROM a",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1)",
        "SELECT 'pg_advisory_lock(1); SET x = 1'",
        "SELECT $x$ ; SET a = 1; $x$",
        "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_temp_'",
        "CREATE TABLE weather (temp int, local text)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SET x = 1; LISTEN c'",
        "CREATE FUNCTION f() RETURNS int SET search_path = a AS $$ SELECT 1; SELECT 2 $$ LANGUAGE sql",
        "NOTIFY c",
        "COPY t FROM STDIN",
        "ALTER ROLE a SET work_mem = 1",
    ] {
        plain(sql);
        assert_eq!(classify(sql).statements, Count::One, "{sql}");
    }
    for sql in ["", " ", ";", ";; -- x", "/* x"] {
        plain(sql);
        assert_eq!(classify(sql).statements, Count::Zero, "{sql}");
    }
}

#[test]
fn statements_that_change_a_role() {
    for sql in [
        "ALTER ROLE x PASSWORD 'a'",
        "alter /* y */ user x WITH PASSWORD 'a'",
        "ALTER ROLE CURRENT_USER IN DATABASE d SET work_mem = 1",
        "SELECT 1; ALTER ROLE ALL RESET ALL; SELECT 2",
        "BEGIN; ALTER USER x RENAME TO y; COMMIT",
        "DROP OWNED BY CURRENT_USER",
    ] {
        assert!(classify(sql).alters_role, "{sql}");
    }
    for sql in [
        "ALTER USER MAPPING FOR x SERVER s OPTIONS (SET a 'b')",
        "ALTER TABLE role ADD user text",
        "DROP TABLE owned",
        "SELECT 'ALTER ROLE x PASSWORD 1'; -- ALTER ROLE x",
        "DO $$ ALTER ROLE x $$",
    ] {
        assert!(!classify(sql).alters_role, "{sql}");
    }
}

#[test]
fn transaction_control() {
    use Transaction::*;
    for (sql, expected) in [
        ("BEGIN", Begin),
        ("begin;", Begin),
        ("/* x */ Begin -- y", Begin),
        ("START TRANSACTION READ ONLY", Begin),
        ("BEGIN ISOLATION LEVEL SERIALIZABLE", Begin),
        ("COMMIT", Commit { chain: false }),
        ("END WORK", Commit { chain: false }),
        ("COMMIT AND CHAIN", Commit { chain: true }),
        ("END TRANSACTION AND NO CHAIN", Commit { chain: false }),
        ("ROLLBACK", Rollback { chain: false }),
        ("ABORT AND CHAIN", Rollback { chain: true }),
        ("ROLLBACK TO s", RollbackTo),
        ("ROLLBACK WORK TO SAVEPOINT s", RollbackTo),
        ("SAVEPOINT s", Savepoint),
        ("RELEASE s", Release),
        ("PREPARE TRANSACTION 'x'", PrepareTransaction),
        ("COMMIT PREPARED 'x'", CommitPrepared),
        ("ROLLBACK PREPARED 'x'", RollbackPrepared),
    ] {
        let effects = classify(sql);
        assert_eq!(effects.transaction, Some(expected), "{sql}");
        assert!(effects.keeps_session(), "{sql}");
        assert_eq!(effects.statements, Count::One, "{sql}");
    }
}

#[test]
fn pinning_statements() {
    for (sql, expected) in [
        ("LISTEN c", "listen"),
        ("CREATE TEMP TABLE t (a int)", "temporary_object"),
        ("create local temporary table t (a int)", "temporary_object"),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", "temporary_object"),
        ("CREATE/**/TEMPORARY\nSEQUENCE s", "temporary_object"),
        ("CREATE TABLE pg_temp.t (a int)", "temporary_object"),
        ("CREATE FUNCTION \"pg_temp\".f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "temporary_object"),
        ("SELECT 1 INTO TEMP t", "temporary_object"),
        ("WITH a AS (SELECT 1) SELECT * INTO LOCAL TEMPORARY TABLE t FROM a", "temporary_object"),
        ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1", "temporary_object"),
        ("SET LOCAL search_path = pg_temp", "temporary_schema"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "hold_cursor"),
        ("declare c binary no scroll cursor with hold for select 1", "hold_cursor"),
        ("SELECT pg_advisory_lock(1)", "advisory_lock"),
        ("select PG_TRY_ADVISORY_LOCK_SHARED (1)", "advisory_lock"),
        ("(SELECT pg_catalog.\"pg_advisory_lock_shared\"(1))", "advisory_lock"),
        ("UPDATE t SET a = 1 WHERE pg_try_advisory_lock(a)", "advisory_lock"),
        ("PREPARE transaction AS SELECT 1", "prepared_statement"),
        ("PREPARE p (int) AS SELECT $1", "prepared_statement"),
        ("LOAD 'auto_explain'", "load"),
        ("SELECT set_config('a.b', '1', 'f')", "set_config"),
        ("SELECT set_config('a.b', '1', false), set_config('a.c', $1, false)", "set_config"),
        ("SELECT set_config('a.b', '1', false) FROM t", "set_config"),
        ("SELECT set_config(E'a\\x62', '1', false)", "set_config"),
        ("SELECT set_config('standard_conforming_strings', (SELECT 'off'), true)", "set_config"),
        ("UPDATE pg_settings SET setting = '5MB' WHERE name = 'work_mem'", "set_config"),
        ("WITH a AS (UPDATE ONLY \"pg_catalog\".pg_settings s SET setting = 1) SELECT 1", "set_config"),
        ("SELECT set_config($1, $2, $3)", "set_config"),
        ("SELECT set_config('a', 'b', true OR false)", "set_config"),
        ("SELECT set_config('a', f(1, 2, true), false)", "set_config"),
        ("SELECT set_config('search_path', 'pg_temp', true)", "temporary_schema"),
        ("SELECT set_config('search_path', f('pg_temp'), true)", "set_config"),
        ("SELECT set_config('client_encoding', 'GBK', true)", "string_syntax"),
        ("CREATE EXTENSION x SCHEMA pg_temp", "temporary_object"),
        ("IMPORT FOREIGN SCHEMA a FROM SERVER b INTO pg_temp", "temporary_object"),
        ("SELECT lastval()", "sequence"),
        ("INSERT INTO t VALUES (pg_catalog.currval('s'))", "sequence"),
        ("SELECT set_limit(0.5)", "session_function"),
        ("SELECT dblink_connect('x', 'y')", "session_function"),
        ("SELECT setseed(0.1)", "session_function"),
        ("SELECT U&\"pg_\\0061dvisory_lock\"(1)", "unreadable"),
        ("SET x y z", "hidden_set"),
        ("RESET", "hidden_set"),
    ] {
        assert_eq!(pins(sql), [expected], "{sql}");
        assert_eq!(pins(&format!("/* a; */ {sql} ; -- b")), [expected], "{sql}");
    }
    plain("CREATE TEMP TABLE t (a int) ON COMMIT DROP");
    plain("CREATE TEMPORARY TABLE t ON COMMIT DROP AS SELECT 1");
    plain("SELECT nextval('s'), currval('s')");
    plain("SELECT setting FROM pg_settings WHERE name = 'update'");
    plain("UPDATE pg_settings_copy SET a = 1");
    plain("DECLARE c CURSOR WITHOUT HOLD FOR SELECT 1");
    plain("DECLARE c CURSOR FOR SELECT 1 AS with_hold");
    plain("SELECT set_config('a', f(1, 2), TRUE)");
    plain("SELECT set_config('a', 'b', true), set_config('c', 'd', /* x */ true);");
}

#[test]
fn reasons_have_distinct_labels() {
    let labels: std::collections::HashSet<_> = PinReason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(labels.len(), PinReason::ALL.len());
    for reason in PinReason::ALL {
        assert_eq!(Pins::of(reason).iter().collect::<Vec<_>>(), [reason]);
    }
}

#[test]
fn several_statements() {
    assert_eq!(pins("SELECT 1; SET x = 1"), ["hidden_set"]);
    assert_eq!(pins("SET x = 1; SELECT 1"), ["hidden_set"]);
    assert_eq!(pins("SELECT 1; RESET ALL"), ["hidden_set"]);
    assert_eq!(pins("SELECT 1 ; /* ; */ ; LISTEN c ; UNLISTEN *"), ["listen"]);
    assert_eq!(pins("SET x = 1;"), [""; 0]);
    assert_eq!(pins("BEGIN; SET LOCAL x = 1; SET TRANSACTION READ ONLY; COMMIT"), [""; 0]);
    let effects = classify("BEGIN; SELECT 1; COMMIT AND CHAIN");
    assert_eq!(effects.statements, Count::Many);
    assert_eq!(effects.transaction, Some(Transaction::Commit { chain: true }));
    let effects = classify("SELECT 1; UNLISTEN *; CLOSE ALL; DISCARD TEMP; DEALLOCATE a; DEALLOCATE ALL");
    assert!(effects.unpins.is_empty() && effects.pins.is_empty());
    assert_eq!(effects.changes, [Change::Deallocate("a".into()), Change::DeallocateAll]);
}

#[test]
fn changes_of_the_schema_are_seen() {
    for sql in [
        "ALTER TABLE t ADD b int",
        "drop view v",
        "CREATE INDEX ON t (a)",
        "SELECT 1; CREATE TABLE t (a int)",
    ] {
        assert!(classify(sql).alters_schema, "{sql}");
    }
    for sql in [
        "CREATE TEMP TABLE t (a int)",
        "create temporary view v as select 1",
        "INSERT INTO t VALUES ('ALTER')",
    ] {
        assert!(!classify(sql).alters_schema, "{sql}");
    }
}

#[test]
fn function_bodies_are_not_trusted_to_end() {
    let body = "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END";
    let effects = classify(body);
    assert_eq!((effects.statements, effects.transaction), (Count::One, None));
    assert!(effects.keeps_session());
    assert_eq!(pins(&format!("{body}; SET x = 1")), ["hidden_set"]);
    assert_eq!(pins("CREATE PROCEDURE f() BEGIN ATOMIC SELECT 1 case; END; SET x = 1"), ["hidden_set"]);
    plain("CREATE RULE r AS ON INSERT TO t DO ALSO (UPDATE a SET b = 1; DELETE FROM c)");
}

#[test]
fn do_blocks() {
    for (sql, expected) in [
        ("DO $$ BEGIN SET x = 1; END $$", "hidden_set"),
        ("DO $$ BEGIN EXECUTE 'SET x = ' || y; END $$", "hidden_set"),
        ("DO 'BEGIN EXECUTE ''SET x = 1''; END'", "hidden_set"),
        ("DO $$ BEGIN IF a THEN RESET x; END IF; END $$ LANGUAGE plpgsql", "hidden_set"),
        ("DO $$ BEGIN EXECUTE $q$ DEALLOCATE ALL $q$; END $$", "hidden_set"),
        ("DO E'BEGIN\\nSET x = 1; END'", "hidden_set"),
        ("DO $$ BEGIN PERFORM set_config('a', 'b', false); END $$", "set_config"),
        ("DO $$ BEGIN EXECUTE 'SELECT pg_advisory_lock(1)'; END $$", "advisory_lock"),
        ("DO $$ BEGIN LISTEN c; END $$", "listen"),
        ("DO LANGUAGE plpgsql $a$ BEGIN CREATE TEMP TABLE t (); END $a$", "temporary_object"),
    ] {
        assert_eq!(pins(sql), [expected], "{sql}");
    }
    plain("DO $$ BEGIN UPDATE t SET x = 1; SET LOCAL y = 2; PERFORM set_config('a', 'b', true); END $$");
}

#[test]
fn owned_effects_are_the_same() {
    for sql in ["SET x = 1", "DEALLOCATE a", "DISCARD ALL", "LISTEN x; PREPARE y AS SELECT 1"] {
        let owned: Effects<'static> = classify(sql).into_owned();
        assert_eq!(owned, classify(sql));
    }
}
