//! Registries that lost records while their databases stayed.

use super::*;

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
