use wire::sql::classify;

use super::*;

fn deeds(sql: &str) -> Deeds {
    Deeds::of(classify(sql))
}

fn run(state: &mut SessionState, applied: &mut Rc<Settings>, sql: &str) {
    let deeds = deeds(sql);
    state.sending(&deeds, false);
    state.succeeded(&deeds, applied);
}

#[test]
fn a_set_is_kept_when_its_transaction_commits_and_undone_when_it_does_not() {
    let mut applied = Rc::default();
    let mut state = SessionState::default();
    run(&mut state, &mut applied, "SET work_mem = '8MB'");
    state.transaction_over(false, &mut applied);
    assert_eq!(state.settings, applied);
    let kept = state.settings.clone();

    run(&mut state, &mut applied, "BEGIN");
    run(&mut state, &mut applied, "SET work_mem = '9MB'");
    assert_ne!(state.settings, kept);
    run(&mut state, &mut applied, "ROLLBACK");
    state.transaction_over(false, &mut applied);
    assert_eq!((&state.settings, &applied), (&kept, &kept));

    run(&mut state, &mut applied, "SET work_mem = '10MB'");
    state.transaction_over(true, &mut applied);
    assert_eq!(state.settings, kept);
    assert!(!state.is_pinned());
}

#[test]
fn only_differences_are_replayed() {
    let settings = |pairs: &[(&str, &str)]| {
        Rc::new(startup_settings(&pairs.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect::<Vec<_>>()))
    };
    let (a, b) = (settings(&[("x.y", "1"), ("a", "2")]), settings(&[("a", "2"), ("b", "it's \\")]));
    assert_eq!(replay(&a, &a.clone()), None);
    assert_eq!(
        replay(&a, &b).unwrap(),
        "RESET \"x\".\"y\";SELECT pg_catalog.set_config('b', E'it''s \\\\', false);"
    );
    let role = settings(&[("role", "r")]);
    assert!(replay(&role, &Rc::default()).unwrap().starts_with("RESET SESSION AUTHORIZATION;RESET ROLE;"));
}

#[test]
fn a_reset_goes_back_to_what_the_client_began_with() {
    let startup = Rc::new(startup_settings(&[("datestyle".into(), "German".into())]));
    let mut state = SessionState::new(startup.clone(), Pins::NONE);
    let mut applied = startup.clone();
    run(&mut state, &mut applied, "RESET datestyle");
    state.transaction_over(false, &mut applied);
    assert_eq!(state.settings, startup);
    assert!(applied.is_empty(), "the server's own default is another");
}

#[test]
fn a_pin_holds_until_it_is_undone_and_committed() {
    let mut applied = Rc::default();
    let mut state = SessionState::default();
    run(&mut state, &mut applied, "LISTEN a");
    state.transaction_over(false, &mut applied);
    run(&mut state, &mut applied, "LISTEN b");
    state.transaction_over(false, &mut applied);
    run(&mut state, &mut applied, "UNLISTEN a");
    state.transaction_over(false, &mut applied);
    assert!(state.is_pinned());
    run(&mut state, &mut applied, "UNLISTEN *");
    assert!(state.is_pinned(), "not yet committed");
    state.transaction_over(false, &mut applied);
    assert!(!state.is_pinned());

    run(&mut state, &mut applied, "CREATE TEMP TABLE t (a int)");
    state.transaction_over(false, &mut applied);
    assert!(state.is_pinned());
    run(&mut state, &mut applied, "DISCARD ALL");
    state.transaction_over(false, &mut applied);
    assert!(!state.is_pinned());
}

#[test]
fn several_statements_that_succeed_or_fail_together_are_known() {
    // What asyncpg runs when a connection goes back to its pool.
    let reset = Deeds::of_query(b"SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;");
    assert!(reset.is_of_many() && reset.effects.as_ref().is_some_and(|effects| effects.pins.is_empty()));
    let mut applied = Rc::default();
    let mut state = SessionState::default();
    run(&mut state, &mut applied, "SET work_mem = '8MB'");
    run(&mut state, &mut applied, "LISTEN a");
    state.succeeded(&reset, &mut applied);
    state.transaction_over(false, &mut applied);
    assert!(state.settings.is_empty() && !state.is_pinned());
    for text in ["BEGIN; SET a = 1; COMMIT", "SET a = 1; DO $$ BEGIN SET b = 2; END $$"] {
        let pins = Deeds::of_query(text.as_bytes()).effects.map(|effects| effects.pins);
        assert!(pins.is_some_and(|pins| pins.contains(PinReason::HiddenSet)), "{text}");
    }
}

#[test]
fn what_a_session_began_with_pins_it_for_good() {
    let pairs = [("Client_Encoding".into(), "gbk".into()), ("work_mem".into(), "1MB".into())];
    let pins = startup_pins(&pairs);
    assert!(pins == Pins::of(PinReason::StringSyntax));
    let startup = Rc::new(startup_settings(&pairs));
    let (mut state, mut applied) = (SessionState::new(startup.clone(), pins), startup);
    run(&mut state, &mut applied, "DISCARD ALL");
    state.transaction_over(false, &mut applied);
    assert!(state.is_pinned(), "the setting is back");
}

#[test]
fn who_asks_a_sequence_for_its_last_value_outside_a_transaction_is_pinned() {
    let mut state = SessionState::default();
    state.sending(&deeds("SELECT lastval()"), true);
    assert!(!state.is_pinned());
    state.sending(&deeds("SELECT lastval()"), false);
    assert!(state.is_pinned());
}

#[test]
fn functions_called_by_number_pin_but_for_those_of_large_objects() {
    assert!(Deeds::of_call(954).is_nothing());
    assert!(!Deeds::of_call(2880).is_nothing(), "pg_advisory_lock");
}

#[test]
fn names_of_the_router_are_not_for_clients() {
    assert!(deeds("DEALLOCATE tenantry_5").names_reserved());
    assert!(deeds("SELECT 1; PREPARE \"tenantry_5\" AS SELECT 1").names_reserved());
    assert!(!deeds("DEALLOCATE mine").names_reserved());
}

#[test]
fn a_statement_that_changes_a_role_is_seen_among_others() {
    assert!(deeds("ALTER USER x PASSWORD 'y'").alters_role());
    for text in ["SET a = 1; ALTER ROLE x SET b = 1", "BEGIN; SET a = 1; ALTER ROLE x SET b = 1; COMMIT"] {
        assert!(Deeds::of_query(text.as_bytes()).alters_role(), "{text}");
    }
}

#[test]
fn what_is_kept_for_replay_is_bounded_and_beyond_that_the_client_keeps_its_connection() {
    let (mut applied, mut state) = (Rc::default(), SessionState::default());
    let long = "x".repeat(SETTINGS_BYTES_MAX - 100);
    for _ in 0..3 {
        run(&mut state, &mut applied, &format!("SET my.long = '{long}'"));
    }
    assert!(!state.is_pinned(), "the same one takes the place of the one before");
    run(&mut state, &mut applied, &format!("SET my.other = '{}'", "y".repeat(100)));
    state.transaction_over(false, &mut applied);
    assert!(state.pins.contains(PinReason::HiddenSet));
    assert_eq!((state.settings.len(), &state.settings), (1, &applied));
    run(&mut state, &mut applied, "DISCARD ALL");
    state.transaction_over(false, &mut applied);
    assert!(!state.is_pinned() && state.settings.is_empty());
}

#[test]
fn names_are_kept_up_to_a_bound_and_beyond_it_only_discard_all_ends_the_pin() {
    let (mut applied, mut state) = (Rc::default(), SessionState::default());
    for n in 0..2 * NAMES_BYTES_MAX / NAME_BYTES {
        run(&mut state, &mut applied, &format!("LISTEN c{n}"));
    }
    assert!(state.listens.len() < NAMES_BYTES_MAX / NAME_BYTES);
    run(&mut state, &mut applied, "UNLISTEN *");
    state.transaction_over(false, &mut applied);
    assert!(state.is_pinned());
    run(&mut state, &mut applied, "DISCARD ALL");
    state.transaction_over(false, &mut applied);
    assert!(!state.is_pinned());
}
