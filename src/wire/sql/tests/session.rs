//! Changes that are replayed, and releases.

use super::super::{Change, PinReason, Pins, classify, classify_bytes};
use super::{pins, plain};

fn set(sql: &str, parameter: &str) {
    let text = sql.trim_end_matches([';', ' ']);
    let expected = Change::Set { parameter: parameter.to_owned().into(), text: text.to_owned().into() };
    assert_eq!(classify(sql).changes, [expected], "{sql}");
}

fn reset(sql: &str, parameter: &str) {
    let expected = Change::Reset { parameter: parameter.to_owned().into(), text: sql.to_owned().into() };
    let effects = classify(sql);
    assert_eq!(effects.changes, [expected], "{sql}");
    assert!(effects.pins.is_empty(), "{sql}");
}

#[test]
fn parameters_that_can_be_replayed() {
    for (sql, parameter) in [
        ("SET x = 1", "x"),
        ("set SESSION Work_Mem TO '4MB' ; ", "work_mem"),
        ("SET \"DateStyle\" = ISO, MDY", "datestyle"),
        ("SET app.\"User\" = '1; SET y'", "app.user"),
        ("SET session.id = 1", "session.id"),
        ("SET local.id = 1", "local.id"),
        ("SET transaction.id = 1", "transaction.id"),
        ("SET TIME ZONE 'UTC'", "timezone"),
        ("SET TIME ZONE INTERVAL '1' HOUR TO MINUTE", "timezone"),
        ("SET TimeZone TO 'UTC'", "timezone"),
        ("SET NAMES 'UTF8'", "client_encoding"),
        ("SET ROLE admin", "role"),
        ("SET role TO admin", "role"),
        ("SET SESSION ROLE NONE", "role"),
        ("SET SESSION AUTHORIZATION bob", "session_authorization"),
        ("SET SESSION SESSION AUTHORIZATION bob", "session_authorization"),
        ("SET SCHEMA 'a'", "search_path"),
        ("SET XML OPTION DOCUMENT", "xmloption"),
        ("SET sort_mem = 1", "work_mem"),
        ("SET standard_conforming_strings = on", "standard_conforming_strings"),
    ] {
        set(sql, parameter);
        assert!(classify(sql).pins.is_empty(), "{sql}");
    }
    let effects = classify("/* app */ SET x = 'é' -- end");
    assert_eq!(effects.changes, [Change::Set { parameter: "x".into(), text: "SET x = 'é'".into() }]);
}

#[test]
fn parameters_back_at_their_default() {
    for (sql, parameter) in [
        ("SET x TO DEFAULT", "x"),
        ("SET TIME ZONE LOCAL", "timezone"),
        ("SET TIME ZONE DEFAULT", "timezone"),
        ("SET SESSION AUTHORIZATION DEFAULT", "session_authorization"),
        ("SET NAMES", "client_encoding"),
        ("RESET X", "x"),
        ("RESET app.x", "app.x"),
        ("RESET session.x", "session.x"),
        ("RESET ROLE", "role"),
        ("RESET TIME ZONE", "timezone"),
        ("RESET SESSION AUTHORIZATION", "session_authorization"),
    ] {
        reset(sql, parameter);
    }
    assert_eq!(classify("RESET ALL;").changes, [Change::ResetAll]);
}

#[test]
fn settings_of_the_transaction() {
    for sql in [
        "SET LOCAL x = 1",
        "SET LOCAL TIME ZONE 'UTC'",
        "SET LOCAL ROLE a",
        "SET LOCAL SESSION AUTHORIZATION a",
        "SET LOCAL SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SET SESSION TRANSACTION READ ONLY",
        "SET TRANSACTION SNAPSHOT 'a'",
        "SET CONSTRAINTS ALL DEFERRED",
        "SET transaction_read_only = on",
        "RESET transaction_isolation",
    ] {
        plain(sql);
    }
}

#[test]
fn session_characteristics_are_three_parameters() {
    let sql = "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE";
    let effects = classify(sql);
    let texts = [
        ("default_transaction_isolation", "SET default_transaction_isolation TO 'repeatable read'"),
        ("default_transaction_read_only", "SET default_transaction_read_only TO on"),
        ("default_transaction_deferrable", "SET default_transaction_deferrable TO off"),
    ];
    let expected =
        texts.map(|(parameter, text)| Change::Set { parameter: parameter.into(), text: text.into() });
    assert_eq!(effects.changes, expected);
    assert!(effects.pins.is_empty());
    assert_eq!(pins("SET SESSION CHARACTERISTICS AS TRANSACTION SOMEHOW"), ["hidden_set"]);
}

#[test]
fn settings_that_also_pin() {
    set("SET search_path = pg_temp, public", "search_path");
    assert_eq!(pins("SET search_path = 'PG_TEMP'"), ["temporary_schema"]);
    assert_eq!(pins("SET standard_conforming_strings = off"), ["string_syntax"]);
    assert_eq!(pins("SET search_path = a, U&'x' UESCAPE '!'"), ["temporary_schema"]);
    assert_eq!(pins("SET search_path = 'a'\n'b'"), ["temporary_schema"], "in parts it may say anything");
    assert_eq!(pins("SET search_path =\n  a, 'b'"), [""; 0]);
    assert_eq!(pins("SET seed = 0.5"), ["session_function"]);
    for encoding in ["gbk", "'Shift_JIS_2004'", "BIG5", "'windows-949'", "E'\\x47BK'"] {
        assert_eq!(pins(&format!("SET client_encoding TO {encoding}")), ["string_syntax"], "{encoding}");
    }
    for encoding in ["utf8", "'UTF-8'", "latin1", "'EUC_JP'", "WIN1252", "SQL_ASCII", "DEFAULT"] {
        assert_eq!(pins(&format!("SET client_encoding = {encoding}")), [""; 0], "{encoding}");
    }
}

#[test]
fn a_call_of_set_config_is_a_set() {
    let text = "SELECT pg_catalog.set_config('TimeZone', 'UTC', false)";
    let expected = Change::Set { parameter: "timezone".into(), text: text.into() };
    for sql in [
        "SELECT set_config('TimeZone', 'UTC', false)",
        "select pg_catalog.SET_CONFIG ('TimeZone','UTC',FALSE) AS done;",
    ] {
        let effects = classify(sql);
        assert!(effects.changes == std::slice::from_ref(&expected), "{sql}: {effects:?}");
        assert!(effects.pins.is_empty(), "{sql}");
    }
    let two = "SELECT set_config('a.b', $$c$$, false), set_config('search_path', '', false), set_config('d', 'e', true)";
    let names: Vec<_> = classify(two).changes.into_iter().map(|change| format!("{change:?}")).collect();
    assert_eq!(names.len(), 2);
    assert!(names[0].contains("set_config('a.b', $$c$$, false)"), "{names:?}");
    plain("SELECT set_config('transaction_isolation', 'serializable', false)");
    assert_eq!(pins("SELECT set_config('a', 'b', false); SELECT 1"), ["hidden_set"]);
}

#[test]
fn releases() {
    let check = |sql: &str, change: Change<'_>, unpins: Pins| {
        let effects = classify(sql);
        assert_eq!(effects.changes, [change], "{sql}");
        assert_eq!(effects.unpins, unpins, "{sql}");
        assert!(effects.pins.is_empty(), "{sql}");
    };
    let of = Pins::of;
    check("DISCARD ALL;", Change::DiscardAll, Pins::DISCARDED);
    check("DISCARD TEMP", Change::DiscardTemp, of(PinReason::TemporaryObject));
    check("discard temporary", Change::DiscardTemp, of(PinReason::TemporaryObject));
    check("DISCARD PLANS", Change::DiscardPlans, Pins::NONE);
    check("DISCARD SEQUENCES", Change::DiscardSequences, of(PinReason::Sequence));
    check("UNLISTEN *", Change::UnlistenAll, of(PinReason::Listen));
    check("UNLISTEN Chan", Change::Unlisten("chan".into()), Pins::NONE);
    check("DEALLOCATE ALL", Change::DeallocateAll, of(PinReason::PreparedStatement));
    check("DEALLOCATE PREPARE ALL", Change::DeallocateAll, of(PinReason::PreparedStatement));
    check("DEALLOCATE PREPARE", Change::Deallocate("prepare".into()), Pins::NONE);
    check("DEALLOCATE \"S\"\"1\"", Change::Deallocate("S\"1".into()), Pins::NONE);
    check("DEALLOCATE \"all\"", Change::Deallocate("all".into()), Pins::NONE);
    check("CLOSE ALL", Change::CloseAll, of(PinReason::HoldCursor));
    check("CLOSE c", Change::CloseCursor("c".into()), Pins::NONE);
    check("SELECT pg_advisory_unlock_all()", Change::UnlockAll, of(PinReason::AdvisoryLock));
    check("select pg_catalog.pg_advisory_unlock_all ( ) ;", Change::UnlockAll, of(PinReason::AdvisoryLock));
    plain("SELECT pg_advisory_unlock_all() WHERE false");
    assert!(Pins::DISCARDED.contains(PinReason::HiddenSet) && !Pins::DISCARDED.contains(PinReason::Load));
}

#[test]
fn names_are_reported_when_they_pin() {
    assert_eq!(classify("LISTEN \"A\"").changes, [Change::Listen("A".into())]);
    assert_eq!(classify("PREPARE A AS SELECT 1").changes, [Change::Prepare("a".into())]);
    assert_eq!(classify("DECLARE c CURSOR WITH HOLD FOR SELECT 1").changes, [Change::HoldCursor("c".into())]);
    let long = "é".repeat(40);
    assert_eq!(classify(&format!("DEALLOCATE {long}")).changes, [Change::Deallocate("é".repeat(31).into())]);
}

#[test]
fn other_encodings_are_not_replayed() {
    let effects = classify_bytes(b"SET x = '\xe9'");
    assert!(effects.changes.is_empty() && effects.pins.contains(PinReason::HiddenSet));
    assert!(classify_bytes(b"SELECT '\xe9'").keeps_session());
}
