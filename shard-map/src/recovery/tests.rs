use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::fleet::Fleet;
use crate::ids::{Epoch, ServerName, TenantId};
use crate::policy::{Capacity, Quota};
use crate::server::{Server, ServerClass, ServerState};
use crate::tenant::{Tenant, TenantState};
use crate::user::{Access, PoolMode, User};

fn id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn name(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

fn server(of: &str) -> CatalogServer {
    let number = i64::from(of.bytes().last().unwrap() - b'0');
    let server = Server {
        name: name(of),
        host: "db".into(),
        port: 5400 + u16::try_from(number).unwrap(),
        class: ServerClass::Shared,
        max_connections: 80,
        labels: [].into(),
        state: ServerState::Active,
        capacity: Capacity::default(),
        quota: Quota::default(),
    };
    CatalogServer { server, system_identifier: number }
}

fn tenant(of: &str, on: &str, epoch: i64) -> Tenant {
    Tenant {
        id: id(of),
        server: name(on),
        epoch: Epoch(epoch),
        state: TenantState::Open,
        labels: [("plan".to_owned(), "gold".to_owned())].into(),
        key_version: 2,
        schema_version: Some(7),
        quota: None,
        read_only: false,
    }
}

fn record(of: &str, database: &str, epoch: i64, state: RecordState) -> Record {
    Record { id: id(of), database: database.to_owned(), epoch: Epoch(epoch), state, moved_to: None }
}

fn sealed(of: &str, epoch: i64, to: &str) -> Record {
    Record { moved_to: Some(name(to)), ..record(of, &format!("{of}__sealed"), epoch, RecordState::Sealed) }
}

/// A sound fleet: a and b on s1, c on s2; nobody on s3.
fn sound() -> (CatalogView, Survey) {
    let mut catalog = CatalogView {
        fleet: Some("f".to_owned()),
        term: 4,
        version: Some(100),
        routers_version: 100,
        operation_number: 9,
        ..CatalogView::default()
    };
    let mut survey = Survey::new();
    for (of, tenants) in [("s1", &[("a", 3), ("b", 5)][..]), ("s2", &[("c", 7)][..]), ("s3", &[][..])] {
        let server = server(of);
        let mut registry = Registry {
            system_identifier: server.system_identifier,
            fleet: Some("f".to_owned()),
            term: 4,
            connections_max: 90,
            ..Registry::default()
        };
        for (of_tenant, epoch) in tenants {
            catalog.tenants.insert(id(of_tenant), tenant(of_tenant, of, *epoch));
            registry.records.push(record(of_tenant, of_tenant, *epoch, RecordState::Open));
            registry.databases.insert((*of_tenant).to_owned());
        }
        catalog.servers.insert(name(of), server);
        survey.insert(name(of), Seen::Registry(Box::new(registry)));
    }
    let user = User {
        name: "web".to_owned(),
        verifier: "SCRAM".to_owned(),
        tenants: "*".parse().unwrap(),
        access: Access::App,
        pool_mode: PoolMode::Transaction,
    };
    catalog.users.insert(user.name.clone(), user);
    (catalog, survey)
}

fn registry<'a>(survey: &'a mut Survey, of: &str) -> &'a mut Registry {
    match survey.get_mut(of).unwrap() {
        Seen::Registry(registry) => registry,
        Seen::Unreachable(why) => panic!("{why}"),
    }
}

fn kinds(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.kind.as_str()).collect()
}

fn move_operation(number: i64, of: &str, state: &str, step: &str) -> OperationView {
    OperationView {
        id: number,
        kind: "move".to_owned(),
        tenant: Some(id(of)),
        state: state.to_owned(),
        step: step.to_owned(),
        from: Some(name("s1")),
        to: Some(name("s3")),
        becomes: None,
    }
}

/// What a rebuild makes of it: the catalog afterwards, and what is left. Another rebuild must find nothing to do.
#[track_caller]
fn rebuilt(catalog: &CatalogView, survey: &Survey) -> (CatalogView, Vec<&'static str>) {
    rebuilt_with(catalog, survey, &Sources::default())
}

#[track_caller]
fn rebuilt_with(
    catalog: &CatalogView,
    survey: &Survey,
    sources: &Sources,
) -> (CatalogView, Vec<&'static str>) {
    let (changes, left, _) = rebuild(catalog, survey, sources);
    let (mut after, mut survey) = (catalog.clone(), survey.clone());
    changes.apply_to(&mut after);
    changes.apply_to_survey(&mut survey);
    changes.raise_epochs(&mut survey);
    let (again, left_again, _) = rebuild(&after, &survey, sources);
    assert_eq!(again, Changes::default(), "one rebuild is enough");
    assert_eq!(kinds(&left), kinds(&left_again));
    for (id, before) in &catalog.tenants {
        let later = after.tenants.get(id).map_or(before.epoch, |tenant| tenant.epoch);
        assert!(later >= before.epoch, "an epoch went back: {id}");
    }
    (after, kinds(&left))
}

#[test]
fn a_sound_fleet_has_no_findings_and_needs_no_change() {
    let (catalog, survey) = sound();
    assert_eq!(find(&catalog, &survey), []);
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((after, left), (catalog, vec![]));
}

#[test]
fn each_difference_is_named() {
    type Damage = fn(&mut CatalogView, &mut Survey);
    let damages: [(&str, Damage); 15] = [
        ("unreachable_server", |_, survey| {
            survey.insert(name("s2"), Seen::Unreachable("no answer".to_owned()));
        }),
        ("another_cluster", |_, survey| registry(survey, "s3").system_identifier = 77),
        ("another_fleet", |_, survey| registry(survey, "s3").fleet = Some("g".to_owned())),
        ("lost_registry", |_, survey| registry(survey, "s3").lacks = Some("its database")),
        ("term_behind", |_, survey| registry(survey, "s3").term = 5),
        ("version_behind", |catalog, _| catalog.routers_version = 101),
        ("two_claims", |_, survey| {
            registry(survey, "s3").records.push(record("c", "c", 7, RecordState::Open));
            registry(survey, "s3").databases.insert("c".to_owned());
        }),
        ("wrong_server", |catalog, _| catalog.tenants.get_mut("a").unwrap().server = name("s2")),
        ("epoch_behind", |catalog, _| catalog.tenants.get_mut("a").unwrap().epoch = Epoch(2)),
        ("epoch_ahead", |catalog, _| catalog.tenants.get_mut("a").unwrap().epoch = Epoch(4)),
        ("state_differs", |_, survey| registry(survey, "s2").records[0].state = RecordState::Suspended),
        ("missing_tenant", |catalog, _| drop(catalog.tenants.remove("b"))),
        ("missing_record", |catalog, _| drop(catalog.tenants.insert(id("d"), tenant("d", "s1", 1)))),
        ("missing_database", |_, survey| {
            registry(survey, "s2").databases.remove("c");
        }),
        ("orphan_database", |_, survey| {
            registry(survey, "s3").databases.insert("stray".to_owned());
        }),
    ];
    for (kind, damage) in damages {
        let (mut catalog, mut survey) = sound();
        damage(&mut catalog, &mut survey);
        assert_eq!(kinds(&find(&catalog, &survey)), [kind]);
    }
}

#[test]
fn an_empty_catalog_is_made_anew_from_servers_and_a_file() {
    let (whole, survey) = sound();
    let file = MapFile::of(&whole);
    let sources = Sources { file: Some(file), ..Sources::default() };
    let (after, left) = rebuilt_with(&CatalogView::default(), &survey, &sources);
    assert_eq!(left, Vec::<&str>::new());
    assert_eq!(
        (&after.servers, &after.tenants, &after.users),
        (&whole.servers, &whole.tenants, &whole.users)
    );
    assert_eq!((after.fleet, after.term), (whole.fleet, 4));
    assert!(after.version > whole.version, "every router must load it anew");
    // An empty catalog has a fleet id of its own, which means nothing.
    let fresh = CatalogView { fleet: Some("g".to_owned()), version: Some(0), ..CatalogView::default() };
    assert!(kinds(&find(&fresh, &survey)).contains(&"missing_tenant"));
    assert_eq!(
        rebuilt_with(&fresh, &survey, &sources),
        rebuilt_with(&CatalogView::default(), &survey, &sources)
    );
    // Without a file: what the servers know, and a word about the rest.
    let declared = Fleet::parse(
        "[[servers]]\nname='s1'\nhost='db'\nport=5401\n[[servers]]\nname='s2'\nhost='db'\nport=5402\n
         [[servers]]\nname='s3'\nhost='db'\nport=5403",
    );
    let sources = Sources { declared: Some(declared.unwrap()), ..Sources::default() };
    let (changes, left, notes) = rebuild(&CatalogView::default(), &survey, &sources);
    assert_eq!((changes.tenants.len(), changes.servers.len(), left.len()), (3, 3, 0));
    assert!(notes.iter().any(|note| note.contains("3 tenants get no labels")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("no users")), "{notes:?}");
}

#[test]
fn a_declaration_names_lost_servers_and_changes_none_that_the_catalog_has() {
    let (mut catalog, survey) = sound();
    catalog.servers.remove("s3");
    let declared = "[[servers]]\nname='s1'\nhost='elsewhere'\nmax_connections=1
        [[servers]]\nname='s3'\nhost='db'\nport=5403";
    let declared = Some(Fleet::parse(declared).unwrap());
    let sources = Sources { declared, ..Sources::default() };
    let (changes, ..) = rebuild(&catalog, &survey, &sources);
    let names: Vec<_> = changes.servers.iter().map(|server| server.server.name.as_str()).collect();
    assert_eq!(names, ["s3"]);
    assert!(sources.servers_as_given(&catalog).iter().any(|server| server.host == "elsewhere"));
}

#[test]
fn swapped_placements_are_set_right_and_no_epoch_goes_back() {
    let (mut catalog, survey) = sound();
    let (a, c) = (catalog.tenants["a"].clone(), catalog.tenants["c"].clone());
    *catalog.tenants.get_mut("a").unwrap() = Tenant { id: id("a"), ..c };
    *catalog.tenants.get_mut("c").unwrap() = Tenant { id: id("c"), ..a };
    let (changes, ..) = rebuild(&catalog, &survey, &Sources::default());
    assert_eq!(changes.epochs[&name("s1")], [(id("a"), Epoch(7))], "the registry catches up");
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!(left, Vec::<&str>::new());
    assert_eq!((&after.tenants["a"].server, &after.tenants["c"].server), (&name("s1"), &name("s2")));
    assert_eq!((after.tenants["a"].epoch, after.tenants["c"].epoch), (Epoch(7), Epoch(7)));
}

#[test]
fn a_deleted_tenant_leaves_the_map_only_if_every_server_was_asked_and_none_has_it() {
    let (mut catalog, mut survey) = sound();
    let deleted = |of: &str| Tenant { state: TenantState::Deleted, ..tenant(of, "s1", 1) };
    catalog.tenants.insert(id("d"), deleted("d"));
    let (after, left) = rebuilt(&catalog, &survey);
    assert!(!after.tenants.contains_key("d") && left.is_empty());
    registry(&mut survey, "s3").databases.insert("d__deleted".to_owned());
    let (after, left) = rebuilt(&catalog, &survey);
    assert!(after.tenants.contains_key("d"), "its database is there");
    assert_eq!(left, ["missing_record", "orphan_database"]);
    survey.insert(name("s3"), Seen::Unreachable("no answer".to_owned()));
    assert!(rebuilt(&catalog, &survey).0.tenants.contains_key("d"), "it may be on the server that is away");
}

#[test]
fn a_tenant_whose_database_was_lost_keeps_its_row_however_often_it_is_rebuilt() {
    for state in [TenantState::Open, TenantState::Suspended] {
        let (mut catalog, mut survey) = sound();
        catalog.tenants.get_mut("a").unwrap().state = state;
        lose_registry(&mut survey, "s1");
        registry(&mut survey, "s1").databases.remove("a");
        let (after, left) = rebuilt(&catalog, &survey);
        assert_eq!((&after.tenants, left), (&catalog.tenants, vec!["missing_record"]));
        // The registry is made by now, or an operator armed the server: nothing shows that anything was lost.
        let made = registry(&mut survey, "s1");
        *made = Registry { lacks: None, fleet: Some("f".to_owned()), term: 4, ..made.clone() };
        made.records.push(record("b", "b", 5, RecordState::Open));
        let (after, left) = rebuilt(&catalog, &survey);
        assert_eq!((&after.tenants, left), (&catalog.tenants, vec!["missing_record"]));
        // A backup was restored: it may have been deleted since, or not.
        registry(&mut survey, "s2").term = 6;
        assert!(rebuilt(&catalog, &survey).0.tenants.contains_key("a"));
    }
}

#[test]
fn a_tenant_that_is_being_made_keeps_its_row() {
    for kind in ["create", "clone"] {
        let (mut catalog, survey) = sound();
        let reserved = Tenant { state: TenantState::Creating, ..tenant("d", "s1", 9) };
        catalog.tenants.insert(id("d"), reserved);
        let make = OperationView { kind: kind.to_owned(), ..move_operation(3, "d", "running", "database") };
        catalog.operations.insert(3, make);
        assert_eq!(rebuilt(&catalog, &survey), (catalog.clone(), vec![]), "{kind}");
        catalog.operations.clear();
        assert!(!rebuilt(&catalog, &survey).0.tenants.contains_key("d"), "nobody makes it any more");
    }
}

#[test]
fn two_claims_are_not_decided() {
    let (mut catalog, mut survey) = sound();
    registry(&mut survey, "s3").records.push(record("c", "c", 9, RecordState::Open));
    registry(&mut survey, "s3").databases.insert("c".to_owned());
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((&after.tenants["c"], left), (&catalog.tenants["c"], vec!["two_claims"]));
    // Of which the catalog lost all knowledge: routers are sent where the higher epoch is.
    catalog.tenants.remove("c");
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((&after.tenants["c"].server, left), (&name("s3"), vec!["two_claims"]));
}

#[test]
fn what_an_operation_is_changing_is_left_to_it() {
    let (mut catalog, mut survey) = sound();
    catalog.operations.insert(5, move_operation(5, "a", "running", "cutover"));
    registry(&mut survey, "s1").moves.insert(5, "a__sealed".to_owned());
    registry(&mut survey, "s1").records[0] = sealed("a", 4, "s3");
    registry(&mut survey, "s1").databases = BTreeSet::from(["a__sealed".to_owned(), "b".to_owned()]);
    registry(&mut survey, "s3").records.push(record("a", "a__arriving", 4, RecordState::Arriving));
    registry(&mut survey, "s3").databases.insert("a__arriving".to_owned());
    assert_eq!(find(&catalog, &survey), []);
    let (after, _) = rebuilt(&catalog, &survey);
    assert_eq!(after, catalog);
    // Open at its target by now: the catalog may follow, as the operation will.
    registry(&mut survey, "s3").records[0].state = RecordState::Open;
    let (after, _) = rebuilt(&catalog, &survey);
    assert_eq!((&after.tenants["a"].server, after.tenants["a"].epoch), (&name("s3"), Epoch(4)));
    assert_eq!(after.operations, catalog.operations);
}

/// A move of `a` from s1 to s3 whose operation is lost.
fn with_lost_move(here: Record, there: Option<Record>) -> (CatalogView, Survey) {
    let (catalog, mut survey) = sound();
    let source = registry(&mut survey, "s1");
    source.databases = BTreeSet::from([here.database.clone(), "b".to_owned()]);
    source.moves.insert(12, here.database.clone());
    source.move_number = 12;
    source.records[0] = here;
    if let Some(there) = there {
        let target = registry(&mut survey, "s3");
        target.databases.insert(there.database.clone());
        target.records.push(there);
    }
    (catalog, survey)
}

#[test]
fn a_lost_move_is_taken_up_where_the_registries_say_that_it_stands() {
    let arriving = || Some(record("a", "a__arriving", 4, RecordState::Arriving));
    let open = || Some(record("a", "a", 4, RecordState::Open));
    for (here, there, state, step, home) in [
        (record("a", "a", 3, RecordState::Open), arriving(), "running", "undo", "s1"),
        (record("a", "a", 3, RecordState::Open), None, "running", "undo", "s1"),
        (sealed("a", 4, "s3"), arriving(), "running", "cutover", "s1"),
        (sealed("a", 4, "s3"), open(), "running", "release", "s3"),
    ] {
        let (catalog, survey) = with_lost_move(here, there);
        assert!(kinds(&find(&catalog, &survey)).contains(&"lost_move"));
        let (after, left) = rebuilt(&catalog, &survey);
        assert_eq!(left, Vec::<&str>::new(), "{step}");
        let operation = &after.operations[&12];
        assert_eq!((operation.state.as_str(), operation.step.as_str()), (state, step));
        assert_eq!((after.operation_number, &after.tenants["a"].server), (12, &name(home)));
    }
}

#[test]
fn a_sealed_copy_that_nobody_will_drop_is_put_on_record() {
    let (mut catalog, mut survey) =
        with_lost_move(sealed("a", 4, "s3"), Some(record("a", "a", 4, RecordState::Open)));
    registry(&mut survey, "s1").moves.clear();
    catalog.tenants.insert(id("a"), tenant("a", "s3", 4));
    assert_eq!(kinds(&find(&catalog, &survey)), ["lost_move"]);
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((left, after.operation_number), (vec![], 13), "12 was a move's");
    assert_eq!(after.operations[&13].state, "switched");
    let mut away = survey.clone();
    away.insert(name("s3"), Seen::Unreachable("no answer".to_owned()));
    assert_eq!(kinds(&find(&after, &away)), ["unreachable_server"], "its target can't be asked");
    registry(&mut survey, "s1").databases.remove("a__sealed");
    assert_eq!(kinds(&find(&after, &survey)), ["stale_operation"], "the copy is gone by now");
    assert_eq!(find(&catalog, &survey), [], "and the record of it stays");
}

#[test]
fn a_number_that_was_given_to_another_operation_is_left_alone() {
    let (mut catalog, survey) = with_lost_move(record("a", "a", 3, RecordState::Open), None);
    let other = OperationView { state: "done".to_owned(), ..move_operation(12, "b", "done", "open") };
    catalog.operations.insert(12, other.clone());
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((&after.operations[&12], left), (&other, vec!["lost_move"]));
}

#[test]
fn a_database_that_is_being_dropped_is_named_when_no_operation_sees_to_it() {
    let (mut catalog, mut survey) = sound();
    registry(&mut survey, "s1").databases.insert("b__16999__doomed".to_owned());
    assert_eq!(kinds(&find(&catalog, &survey)), ["orphan_database"]);
    // It is nobody's: a rebuild makes no tenant of it.
    assert_eq!(rebuilt(&catalog, &survey), (catalog.clone(), vec!["orphan_database"]));
    catalog.operations.insert(3, move_operation(3, "b", "running", "undo"));
    assert_eq!(find(&catalog, &survey), []);
}

#[test]
fn a_tenant_that_gets_another_id_is_left_to_its_operation_under_both() {
    let (mut catalog, mut survey) = sound();
    let reserved = Tenant { state: TenantState::Creating, ..tenant("z", "s1", 9) };
    catalog.tenants.insert(id("z"), reserved);
    assert_eq!(kinds(&find(&catalog, &survey)), ["missing_record"]);
    let rename = OperationView {
        kind: "rename".to_owned(),
        becomes: Some(id("z")),
        ..move_operation(3, "b", "running", "rename")
    };
    catalog.operations.insert(3, rename);
    assert_eq!(find(&catalog, &survey), []);
    assert_eq!(rebuilt(&catalog, &survey), (catalog.clone(), vec![]));
    let there = registry(&mut survey, "s1");
    there.records.retain(|record| record.id != id("b"));
    there.records.push(record("z", "z", 9, RecordState::Open));
    there.databases.remove("b");
    there.databases.insert("z".to_owned());
    assert_eq!(find(&catalog, &survey), [], "done on the server, not yet in the catalog");
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!(
        (after, left),
        (catalog, vec![]),
        "labels, quota and selectors are the operation's to carry over"
    );
}

#[test]
fn operations_of_a_restored_backup_do_not_go_on() {
    let (mut catalog, mut survey) = sound();
    let create = OperationView { kind: "create".to_owned(), ..move_operation(3, "b", "running", "database") };
    catalog.operations.insert(3, create);
    catalog.operations.insert(4, move_operation(4, "a", "running", "copy"));
    catalog.operations.insert(5, move_operation(5, "c", "switched", "switched"));
    registry(&mut survey, "s2").term = 6;
    assert!(kinds(&find(&catalog, &survey)).contains(&"stale_operation"));
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!(left, Vec::<&str>::new());
    let states: Vec<&str> = after.operations.values().map(|operation| operation.state.as_str()).collect();
    assert_eq!((states, after.term), (vec!["failed", "failed", "completed"], 6));
}

#[test]
fn the_newer_of_file_and_catalog_counts_for_what_registries_do_not_know() {
    let (catalog, survey) = sound();
    let mut file = MapFile::of(&catalog);
    file.tenants.get_mut("a").unwrap().labels = [].into();
    file.tenants.get_mut("a").unwrap().server = name("s3");
    file.version = 99;
    let with = |file: &MapFile| Sources { file: Some(file.clone()), ..Sources::default() };
    assert_eq!(rebuilt_with(&catalog, &survey, &with(&file)).0, catalog, "the catalog is newer");
    file.version = 101;
    let (after, _) = rebuilt_with(&catalog, &survey, &with(&file));
    assert!(after.tenants["a"].labels.is_empty());
    assert_eq!(after.tenants["a"].server, name("s1"), "never a placement");
    let drop_web = MapFile { users: BTreeMap::new(), ..file };
    let (_, _, notes) = rebuild(&catalog, &survey, &with(&drop_web));
    assert!(notes.iter().any(|note| note.contains("no user web")), "{notes:?}");
}

#[test]
fn a_file_is_read_back_and_an_altered_one_never() {
    let file = MapFile::of(&sound().0);
    let text = file.encode().unwrap();
    assert_eq!(MapFile::decode(text.as_bytes()).unwrap(), file);
    for at in 0..text.len() {
        let mut altered = text.clone().into_bytes();
        altered[at] ^= 1;
        assert!(MapFile::decode(&altered).is_err(), "bit at {at}");
        assert!(MapFile::decode(&text.as_bytes()[..at]).is_err(), "cut at {at}");
    }
    let snapshot = crate::snapshot::ShardMap {
        version: 100,
        trail: crate::Trail::default(),
        tenants: file.tenants.clone().into_iter().collect(),
        servers: file.servers.clone().into_iter().collect(),
        users: file.users.clone().into_iter().collect(),
        holds: [].into(),
    };
    assert_eq!(MapFile::decode(&snapshot.encode()).unwrap(), file, "a router's snapshot is one, too");
}

#[test]
fn an_import_is_taken_whole_or_refused() {
    let (catalog, survey) = sound();
    let file = MapFile::of(&catalog);
    assert_eq!(import(&catalog, &survey, &file).unwrap(), Changes::default());
    let mut without = catalog.clone();
    without.tenants.remove("a");
    without.users.clear();
    let changes = import(&without, &survey, &file).unwrap();
    assert_eq!((changes.tenants.len(), changes.users.len()), (1, 1));
    for (change, reason) in [
        (tenant("a", "s1", 2), "would go back"),
        (tenant("a", "s2", 3), "lives on s1"),
        (tenant("d", "s1", 1), "no server has it"),
        (Tenant { state: TenantState::Suspended, ..tenant("a", "s1", 3) }, "the file says suspended"),
    ] {
        let mut file = file.clone();
        file.tenants.insert(change.id.clone(), change);
        let refused = import(&catalog, &survey, &file).unwrap_err().to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn a_declaration_changes_what_it_names_and_reports_the_rest() {
    let (mut catalog, mut survey) = sound();
    catalog.servers.remove("s3");
    let declared = "[placement]\ntenants_per_server_max = 50
        [[servers]]\nname='s1'\nhost='db'\nport=5401\nclass='dedicated'\nmax_connections=90
        [[servers]]\nname='s3'\nhost='db'\nport=5403
        [[users]]\nname='reports'\naccess='readonly'";
    let (changes, rest) = declare(&catalog, &survey, &Fleet::parse(declared).unwrap()).unwrap();
    assert_eq!((changes.servers.len(), changes.users.len()), (2, 1));
    assert_eq!(changes.policy.as_ref().unwrap().tenants_per_server_max, 50);
    assert!(!changes.users[0].has_password());
    assert_eq!(rest.len(), 2, "{rest:?}");
    let mut after = catalog.clone();
    changes.apply_to(&mut after);
    let again = declare(&after, &survey, &Fleet::parse(declared).unwrap()).unwrap();
    assert_eq!(again.0, Changes::default());
    survey.insert(name("s3"), Seen::Unreachable("password authentication failed".to_owned()));
    let refused = declare(&catalog, &survey, &Fleet::parse(declared).unwrap()).unwrap_err();
    assert!(refused.to_string().contains("server s3: it is not armed"), "{refused}");
}

/// What a server's registry is when its database was dropped: nothing, but the server's own databases.
fn lose_registry(survey: &mut Survey, of: &str) {
    let seen = registry(survey, of);
    *seen =
        Registry { lacks: Some("its database"), records: Vec::new(), fleet: None, term: 0, ..seen.clone() };
}

#[test]
fn a_lost_registry_is_made_anew_with_the_records_of_its_tenants() {
    let (mut catalog, mut survey) = sound();
    catalog.tenants.get_mut("b").unwrap().state = TenantState::Suspended;
    catalog.tenants.insert(id("x"), Tenant { state: TenantState::Deleted, ..tenant("x", "s1", 6) });
    // It lives on s2, and its last move left a copy on s1.
    let source = registry(&mut survey, "s1");
    source.databases.extend(["x__deleted".to_owned(), "c__sealed".to_owned()]);
    catalog
        .operations
        .insert(3, OperationView { to: Some(name("s2")), ..move_operation(3, "c", "switched", "switched") });
    lose_registry(&mut survey, "s1");
    let named = kinds(&find(&catalog, &survey));
    assert_eq!(named.iter().filter(|kind| **kind == "missing_record").count(), 3, "{named:?}");
    assert!(named.contains(&"lost_registry"), "{named:?}");
    let (changes, ..) = rebuild(&catalog, &survey, &Sources::default());
    assert_eq!(changes.registries, [name("s1")]);
    let expected = [
        record("a", "a", 3, RecordState::Open),
        record("b", "b", 5, RecordState::Suspended),
        sealed("c", 7, "s2"),
        record("x", "x__deleted", 6, RecordState::Leaving),
    ];
    assert_eq!(changes.records[&name("s1")], expected);
    assert_eq!((&changes.tenants[..], &changes.gone[..], changes.version_above), (&[][..], &[][..], None));
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((after, left), (catalog.clone(), vec![]));
    // A database that is gone as well: its row is what a restore needs.
    registry(&mut survey, "s1").databases.remove("a");
    let (changes, left, _) = rebuild(&catalog, &survey, &Sources::default());
    assert_eq!((changes.gone, kinds(&left)), (vec![], vec!["missing_record"]));
}

#[test]
fn a_lost_record_takes_the_highest_epoch_that_anybody_may_have_seen() {
    let (mut catalog, mut survey) = sound();
    registry(&mut survey, "s1").records.clear();
    let mut file = MapFile::of(&catalog);
    file.tenants.get_mut("a").unwrap().epoch = Epoch(8);
    let sources = Sources { file: Some(file), ..Sources::default() };
    let epochs = |catalog: &CatalogView, survey: &Survey| -> Vec<i64> {
        let (changes, ..) = rebuild(catalog, survey, &sources);
        changes.records.values().flatten().map(|record| record.epoch.0).collect()
    };
    assert_eq!(epochs(&catalog, &survey), [8, 5], "the file's, and the catalog's");
    // Sealed at its source when it came here: the catalog was not told yet.
    registry(&mut survey, "s2").records.push(sealed("b", 6, "s1"));
    assert_eq!(epochs(&catalog, &survey), [8, 6]);
    catalog.routers_version = 120;
    assert_eq!(epochs(&catalog, &survey), [120, 120], "the catalog is older than the routers");
    let (after, left) = rebuilt_with(&catalog, &survey, &sources);
    assert_eq!((after.tenants["a"].epoch, left), (Epoch(120), vec![]));
}

#[test]
fn a_lost_record_is_not_put_back_where_it_may_be_wrong() {
    type Doubt = fn(&mut CatalogView, &mut Survey);
    let doubts: [(&str, Doubt); 8] = [
        ("it lives elsewhere", |_, survey| {
            registry(survey, "s3").records.push(record("a", "a", 2, RecordState::Open));
        }),
        ("it is suspended elsewhere", |_, survey| {
            registry(survey, "s3").records.push(record("a", "a", 2, RecordState::Suspended));
        }),
        ("it was sealed and sent elsewhere", |_, survey| {
            registry(survey, "s2").records.push(sealed("a", 4, "s3"));
        }),
        ("a server can't be asked", |_, survey| {
            survey.insert(name("s3"), Seen::Unreachable("no answer".to_owned()));
        }),
        ("the catalog has it elsewhere", |catalog, _| {
            catalog.tenants.get_mut("a").unwrap().server = name("s2");
        }),
        ("it is deleted, and its database is not aside", |catalog, _| {
            catalog.tenants.get_mut("a").unwrap().state = TenantState::Deleted;
        }),
        ("nobody knows of it", |catalog, _| drop(catalog.tenants.remove("a"))),
        ("an operation is at work on it", |catalog, _| {
            let delete =
                OperationView { kind: "delete".to_owned(), ..move_operation(3, "a", "running", "drain") };
            catalog.operations.insert(3, delete);
        }),
    ];
    for (doubt, make) in doubts {
        let (mut catalog, mut survey) = sound();
        registry(&mut survey, "s1").records.retain(|record| record.id != id("a"));
        make(&mut catalog, &mut survey);
        let (changes, ..) = rebuild(&catalog, &survey, &Sources::default());
        assert_eq!(changes.records, BTreeMap::new(), "{doubt}");
    }
    // Its copy is no claim: where it is sealed, it is never opened.
    let (catalog, mut survey) = sound();
    registry(&mut survey, "s1").records.retain(|record| record.id != id("a"));
    registry(&mut survey, "s1").databases.remove("a");
    registry(&mut survey, "s1").databases.insert("a__sealed".to_owned());
    let (changes, ..) = rebuild(&catalog, &survey, &Sources::default());
    assert_eq!(changes.records, BTreeMap::new());
}

#[test]
fn a_move_goes_on_although_its_source_lost_its_registry() {
    let (mut catalog, mut survey) = sound();
    catalog.operations.insert(5, move_operation(5, "a", "running", "cutover"));
    registry(&mut survey, "s3").records.push(record("a", "a__arriving", 4, RecordState::Arriving));
    registry(&mut survey, "s3").databases.insert("a__arriving".to_owned());
    for (here, expected) in
        [("a", record("a", "a", 3, RecordState::Open)), ("a__sealed", sealed("a", 4, "s3"))]
    {
        let source = registry(&mut survey, "s1");
        source.databases = BTreeSet::from([here.to_owned(), "b".to_owned()]);
        source.moves = BTreeMap::from([(5, here.to_owned())]);
        lose_registry(&mut survey, "s1");
        let (changes, left, _) = rebuild(&catalog, &survey, &Sources::default());
        assert_eq!((&changes.records[&name("s1")][0], left), (&expected, vec![]));
        assert_eq!((changes.operations, changes.tenants), (vec![], vec![]));
    }
}

#[test]
fn users_of_an_old_file_come_back_beside_those_that_there_are() {
    let (catalog, survey) = sound();
    let mut old = MapFile { version: 1, ..MapFile::of(&catalog) };
    let web = User { access: Access::Readonly, ..catalog.users["web"].clone() };
    let lost = User { name: "lost".to_owned(), ..web.clone() };
    old.users = [(web.name.clone(), web), (lost.name.clone(), lost.clone())].into();
    old.tenants.get_mut("a").unwrap().server = name("s3");
    let sources = Sources { users: Some(old), ..Sources::default() };
    let (after, left) = rebuilt_with(&catalog, &survey, &sources);
    assert_eq!((&after.users["lost"], left), (&lost, vec![]));
    assert_eq!((&after.users["web"], &after.tenants), (&catalog.users["web"], &catalog.tenants));
}

#[test]
fn the_version_is_over_all_that_is_known_whatever_the_clock_says() {
    let (mut catalog, survey) = sound();
    let above = |catalog: &CatalogView, sources: &Sources| rebuild(catalog, &survey, sources).0.version_above;
    assert_eq!(above(&catalog, &Sources::default()), None);
    catalog.routers_version = 4_102_444_800_000;
    assert_eq!(above(&catalog, &Sources::default()), Some(4_102_444_800_000), "a router is ahead");
    let file = MapFile { version: 4_102_444_900_000, ..MapFile::of(&catalog) };
    let sources = Sources { file: Some(file), ..Sources::default() };
    assert_eq!(above(&catalog, &sources), Some(4_102_444_900_000));
}
