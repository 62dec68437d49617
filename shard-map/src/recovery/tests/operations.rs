//! What is made of operations: those under way, those that are over, and moves that nobody remembers.

use super::*;
use crate::moves::Phase;

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

#[test]
fn a_move_is_nobodys_only_in_a_phase_that_is_past_where_its_servers_are() {
    for phase in Phase::ALL {
        let (mut catalog, mut survey) = sound();
        catalog.operations.insert(5, move_operation(5, "a", "running", phase.as_str()));
        registry(&mut survey, "s1").moves.insert(5, "a".to_owned());
        let is_past = matches!(
            phase,
            Phase::Release | Phase::Verify | Phase::Switched | Phase::Complete | Phase::Completed
        ) || phase == Phase::Undone;
        let found = find(&catalog, &survey);
        assert_eq!(kinds(&found).contains(&"lost_move"), is_past, "{phase}: {found:?}");
        if !is_past {
            assert_eq!(found, [], "{phase}");
            assert_eq!(rebuilt(&catalog, &survey).0, catalog, "{phase}");
        }
    }
}

#[test]
fn a_move_that_is_turned_round_is_left_to_the_one_that_does_it() {
    let (mut catalog, mut survey) = sound();
    catalog.tenants.insert(id("a"), tenant("a", "s3", 4));
    catalog.operations.insert(5, move_operation(5, "a", "switched", "switched"));
    let back = OperationView {
        from: Some(name("s3")),
        to: Some(name("s1")),
        ..move_operation(6, "a", "running", "catch_up")
    };
    catalog.operations.insert(6, back);
    let source = registry(&mut survey, "s1");
    source.databases = BTreeSet::from(["a__arriving".to_owned(), "b".to_owned()]);
    source.records[0] = record("a", "a__arriving", 5, RecordState::Arriving);
    let target = registry(&mut survey, "s3");
    target.databases.insert("a".to_owned());
    target.records.push(record("a", "a", 4, RecordState::Open));
    target.moves.insert(6, "a".to_owned());
    assert_eq!(find(&catalog, &survey), []);
    let (after, _) = rebuilt(&catalog, &survey);
    assert_eq!(after.operations, catalog.operations);
    catalog.operations.remove(&6);
    assert!(kinds(&find(&catalog, &survey)).contains(&"stale_operation"), "nobody sees to it");
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
fn the_copy_of_a_tenant_that_was_lost_with_its_server_is_named_and_never_made_a_move() {
    let (mut catalog, mut survey) = with_lost_move(sealed("a", 4, "s3"), None);
    registry(&mut survey, "s1").moves.clear();
    registry(&mut survey, "s1").move_number = 0;
    catalog.tenants.remove("a");
    catalog.servers.remove("s3");
    survey.remove("s3");
    assert_eq!(rebuilt(&catalog, &survey), (catalog.clone(), vec!["kept_copy"]));
    // Made anew elsewhere.
    catalog.tenants.insert(id("a"), tenant("a", "s2", 9));
    registry(&mut survey, "s2").records.push(record("a", "a", 9, RecordState::Open));
    registry(&mut survey, "s2").databases.insert("a".to_owned());
    assert_eq!(rebuilt(&catalog, &survey), (catalog.clone(), vec!["kept_copy"]));
    // Named by a file alone, and silent: it may come back.
    survey.insert(name("s3"), Seen::Unreachable("no answer".to_owned()));
    let (after, left) = rebuilt(&catalog, &survey);
    assert_eq!((after, left), (catalog.clone(), vec!["unreachable_server", "lost_move"]));
    survey.remove("s3");
    registry(&mut survey, "s1").databases.remove("a__sealed");
    assert_eq!(find(&catalog, &survey), [], "it was dropped, and the record of it stays");
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
