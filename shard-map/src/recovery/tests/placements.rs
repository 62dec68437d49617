//! Where tenants belong, and what is said when catalog and servers differ.

use super::*;

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
