use shard_map::{Server, ServerClass, ServerState};

use super::*;

fn row() -> ServerRow {
    ServerRow {
        server: Server {
            name: "pg-1".parse().unwrap(),
            host: "db1".to_owned(),
            port: 5432,
            class: ServerClass::Shared,
            max_connections: 90,
            capacity: Default::default(),
            quota: Default::default(),
            labels: BTreeMap::new().into(),
            state: ServerState::Active,
        },
        system_identifier: 5,
        tenants: 2,
    }
}

fn health() -> Health {
    serde_json::from_value(serde_json::json!({
        "version": "17.2", "version_number": 170_002, "standby": false, "system_identifier": 5,
        "wal_level": "logical", "settings": [10, 10, 4, 8], "max_connections": 100, "reserved_connections": 3,
        "connections": 20, "invalid_databases": [], "slots": [], "prepared": [], "unix_ms": 0,
    }))
    .unwrap()
}

fn registry() -> RegistryHealth {
    let schema = Some(registry::schema_newest());
    RegistryHealth { fleet: Some("ours".to_owned()), term: Some(4), schema, readable: true }
}

fn judged(health: Health, registry: RegistryHealth, moves: &BTreeMap<i64, MoveState>) -> Part {
    let expected = Expected { fleet: Some("ours"), term: Some(4), moves, moves_known: true, addresses: &[] };
    judge(&row(), &Ok((health, Ok(registry))), &expected)
}

fn slot(name: &str, active: bool, retained: i64) -> Slot {
    Slot { name: name.to_owned(), active, retained: Some(retained), lost: false }
}

#[test]
fn a_sound_server_has_nothing_wrong() {
    let part = judged(health(), registry(), &BTreeMap::new());
    assert_eq!(part.wrong(), Vec::<String>::new());
}

#[test]
fn a_server_that_is_not_what_it_should_be_is_told() {
    let mut seen = health();
    seen.version_number = 140_000;
    seen.system_identifier = 6;
    seen.standby = true;
    seen.wal_level = "replica".to_owned();
    seen.settings[3] = 2;
    seen.max_connections = 99;
    seen.connections = 95;
    seen.clock_ahead_ms = 3_000;
    let part = judged(seen, registry(), &BTreeMap::new());
    let expected = [
        "PostgreSQL 17.2 is too old",
        "another Postgres cluster answers",
        "it is a standby",
        "wal_level is replica, must be logical; max_worker_processes is 2, must be at least 8",
        "routers may open 90 connections, and its max_connections (99) leaves 89",
        "1 of its 99 connections are free",
        "its clock is 3 s ahead",
    ];
    let wrong = part.wrong();
    assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
    for (told, expected) in wrong.iter().zip(expected) {
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_registry_of_another_fleet_a_higher_term_or_none_is_told() {
    let wrong = |registry| judged(health(), registry, &BTreeMap::new()).wrong().join("\n");
    assert!(
        wrong(RegistryHealth { fleet: Some("theirs".to_owned()), ..registry() }).contains("another fleet")
    );
    assert!(wrong(RegistryHealth { term: Some(5), ..registry() }).contains("it has seen term 5"));
    assert_eq!(wrong(RegistryHealth { term: Some(3), ..registry() }), "", "a new leader tells it later");
    assert!(wrong(RegistryHealth { readable: false, ..registry() }).contains("not armed"));
    assert!(wrong(RegistryHealth { schema: Some(0), ..registry() }).contains("schema is older"));
}

#[test]
fn a_server_that_does_not_answer_is_told_with_its_address() {
    let error =
        Error::ServerUnreachable { server: "pg-1".to_owned(), message: "connection refused".to_owned() };
    let expected =
        Expected { fleet: None, term: None, moves: &BTreeMap::new(), moves_known: true, addresses: &[] };
    let part = judge(&row(), &Err(error), &expected);
    assert_eq!(part.wrong(), ["Error: it can't be reached at db1:5432: connection refused"]);
    assert!(part.remedies()[0].contains("tenantry server add pg-1"));
}

#[test]
fn a_slot_is_told_with_the_move_that_it_belongs_to() {
    let state = |id, state: &str| {
        (id, MoveState { id, tenant: Some("acme".parse().unwrap()), state: state.to_owned() })
    };
    let moves = BTreeMap::from([state(1, "running"), state(2, "completed")]);
    let mut seen = health();
    seen.slots = vec![
        slot("tenantry_move_1", false, 5 << 20),
        slot("tenantry_reverse_1", false, RETAINED_MAX + 1),
        slot("tenantry_move_2", false, 5 << 20),
        slot("tenantry_move_3", false, 5 << 20),
        slot("standby", true, 5 << 20),
        slot("old_standby", false, 5 << 20),
    ];
    let part = judged(seen, registry(), &moves);
    assert_eq!(
        part.wrong(),
        [
            "Warning: replication slot tenantry_reverse_1 of move 1 (tenant acme), retains 8192 MB of WAL: the disk may fill up",
            "Error: replication slot tenantry_move_2 was left by move 2 (completed), retains 5 MB of WAL",
            "Error: replication slot tenantry_move_3 was left by move 3 (not on record), retains 5 MB of WAL",
            "Warning: replication slot old_standby is inactive, retains 5 MB of WAL; it belongs to no move",
        ]
    );
    assert_eq!(
        part.remedies()[1],
        "psql -h db1 -p 5432 -U postgres -d postgres -c 'SELECT pg_drop_replication_slot('\\''tenantry_move_2'\\'')'"
    );
}

#[test]
fn what_was_left_on_a_server_is_told() {
    let mut seen = health();
    seen.invalid_databases = vec!["gone".to_owned()];
    let prepared = |gid: &str, age_s| Prepared { gid: gid.to_owned(), database: "acme".to_owned(), age_s };
    seen.prepared = vec![prepared("young", 10), prepared("it's", 700)];
    let part = judged(seen, registry(), &BTreeMap::new());
    assert_eq!(part.wrong().len(), 2);
    assert!(part.remedies()[0].contains("DROP DATABASE \"gone\""), "{:?}", part.remedies());
    assert!(part.remedies()[1].contains(r"ROLLBACK PREPARED '\''it'\'''\''s'\''"), "{:?}", part.remedies());
}

#[test]
fn what_something_under_way_drops_is_not_told() {
    let mut seen = health();
    seen.invalid_databases = vec!["acme__16939__doomed".to_owned()];
    let told = |state: &str| {
        let known = MoveState { id: 3, tenant: TenantId::new("acme").ok(), state: state.to_owned() };
        judged(seen.clone(), registry(), &BTreeMap::from([(3, known)])).wrong().len()
    };
    assert_eq!((told("running"), told("aborted")), (0, 1));
}

/// The words that a shell makes of a command, and what it says of it.
fn words(command: &str) -> Vec<String> {
    let script = format!("psql() {{ printf '%s\\0' \"$@\"; }}; {command}");
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn what_clients_named_is_never_run_by_the_shell_that_a_remedy_is_pasted_into() {
    let evil = r#"a'b"c`id`$(id)\;x=y -d"#;
    let mut seen = health();
    seen.invalid_databases = vec![evil.to_owned()];
    seen.prepared = vec![Prepared { gid: evil.to_owned(), database: evil.to_owned(), age_s: 700 }];
    let part = judged(seen, registry(), &BTreeMap::new());
    let remedies = part.remedies();
    let drop = words(remedies[0]);
    assert_eq!(drop[6..], ["-d", "postgres", "-c", r#"DROP DATABASE "a'b""c`id`$(id)\;x=y -d""#]);
    let rollback = words(remedies[1].strip_prefix("ask whose it is; then ").unwrap());
    let database = r#"dbname='a\'b"c`id`$(id)\\;x=y -d'"#;
    assert_eq!(rollback[6..], ["-d", database, "-c", r#"ROLLBACK PREPARED 'a''b"c`id`$(id)\;x=y -d'"#]);
}

#[test]
fn a_lost_registry_is_for_a_rebuild_to_make_anew() {
    let expected =
        Expected { fleet: None, term: None, moves: &BTreeMap::new(), moves_known: true, addresses: &[] };
    let unreadable = || Err(Error::Failed("relation \"tenant\" does not exist".to_owned()));
    let part = judge(&row(), &Ok((health(), unreadable())), &expected);
    assert!(part.remedies()[0].starts_with("tenantry map rebuild --apply"), "{:?}", part.remedies());
}
