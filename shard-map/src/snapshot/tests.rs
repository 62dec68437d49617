use super::*;
use crate::ids::Epoch;
use crate::policy::{Capacity, Quota};
use crate::server::{ServerClass, ServerState};
use crate::tenant::TenantState;

fn tenant(id: &str, epoch: i64) -> Tenant {
    Tenant {
        id: TenantId::new(id).unwrap(),
        server: ServerName::new("pg-1").unwrap(),
        epoch: Epoch(epoch),
        state: TenantState::Open,
        labels: [("plan".to_owned(), "gold".to_owned())].into(),
        key_version: 1,
        schema_version: None,
        quota: None,
        read_only: false,
    }
}

fn small_map() -> ShardMap {
    let trail = Trail::of([(6, 61), (7, 71)].into_iter());
    let mut map = ShardMap { version: 7, trail, ..ShardMap::default() };
    map.insert(Entry::Tenant(tenant("acme", 3)));
    map.insert(Entry::Server(Server {
        name: ServerName::new("pg-1").unwrap(),
        host: "10.0.0.1".into(),
        port: 5432,
        class: ServerClass::Shared,
        max_connections: 90,
        labels: [].into(),
        state: ServerState::Active,
        capacity: Capacity::default(),
        quota: Quota::default(),
    }));
    map
}

#[test]
fn a_file_gives_back_the_map() {
    let map = small_map();
    assert_eq!(ShardMap::decode(&map.encode()).unwrap(), map);
}

#[test]
fn a_file_of_the_format_before_is_read_and_has_no_trail() {
    let map = ShardMap { trail: Trail::default(), ..small_map() };
    let file = String::from_utf8(map.encode()).unwrap();
    let body = file.lines().skip(2).map(|line| format!("{line}\n")).collect::<String>();
    let before = format!("{MAGIC_BEFORE} 7 {}\n{body}", checksum(7, body.as_bytes()));
    assert_eq!(ShardMap::decode(before.as_bytes()).unwrap(), map);
    assert!(ShardMap::decode(before.replace("-map/1", "-map/3").as_bytes()).is_err());
}

#[test]
fn a_torn_or_altered_file_is_never_taken() {
    let file = small_map().encode();
    for length in 0..file.len() {
        assert!(ShardMap::decode(&file[..length]).is_err(), "cut at {length}");
    }
    for at in 0..file.len() {
        let mut altered = file.clone();
        altered[at] ^= 1;
        assert!(ShardMap::decode(&altered).is_err(), "bit at {at}");
    }
}

#[test]
fn changes_follow_one_another_without_a_gap() {
    let mut map = small_map();
    let change =
        |version| Change { version, mark: version, entry: Entry::NoTenant(TenantId::new("acme").unwrap()) };
    map.tenants.values_mut().for_each(|tenant| tenant.state = TenantState::Deleted);
    assert_eq!(map.apply(change(9)), Err(Gap { at: 7, to: 9 }));
    assert_eq!(map.tenants.len(), 1);
    map.apply(change(8)).unwrap();
    assert_eq!((map.version, map.tenants.len()), (8, 0));
}

#[test]
fn an_epoch_never_goes_back() {
    let mut map = small_map();
    map.apply(Change { version: 8, mark: 8, entry: Entry::Tenant(tenant("acme", 2)) }).unwrap();
    assert_eq!(map.tenants[&TenantId::new("acme").unwrap()].epoch, Epoch(3));
}

#[test]
fn what_only_a_damaged_catalog_says_is_not_believed() {
    let acme = TenantId::new("acme").unwrap();
    let mut map = small_map();
    let elsewhere = |epoch| Tenant { server: ServerName::new("pg-2").unwrap(), ..tenant("acme", epoch) };
    map.insert(Entry::Tenant(elsewhere(3)));
    assert_eq!(map.tenants[&acme].server.as_str(), "pg-1", "another server at the same epoch");
    map.insert(Entry::NoTenant(acme.clone()));
    map.insert(Entry::NoServer(ServerName::new("pg-1").unwrap()));
    assert_eq!((map.tenants.len(), map.servers.len()), (1, 1), "an open tenant vanishes");
    map.insert(Entry::Tenant(elsewhere(4)));
    assert_eq!(map.tenants[&acme].server.as_str(), "pg-2");
    map.insert(Entry::Tenant(Tenant { state: TenantState::Deleted, ..elsewhere(4) }));
    map.insert(Entry::NoTenant(acme));
    map.insert(Entry::NoServer(ServerName::new("pg-1").unwrap()));
    assert_eq!((map.tenants.len(), map.servers.len()), (0, 0), "deleted in order");
}

#[test]
fn a_map_that_is_loaded_anew_takes_over_what_it_cannot_have_lost() {
    let mut empty = ShardMap { version: 9, ..ShardMap::default() };
    empty.take_over(&small_map());
    assert_eq!((empty.version, empty.tenants.len(), empty.servers.len()), (9, 1, 1));
    let mut before = small_map();
    before.tenants.values_mut().for_each(|tenant| tenant.state = TenantState::Deleted);
    let mut later = ShardMap::default();
    later.take_over(&before);
    assert!(later.tenants.is_empty(), "it was deleted, and is gone by now");
    let user = User {
        name: "web".to_owned(),
        verifier: String::new(),
        tenants: "*".parse().unwrap(),
        access: crate::user::Access::App,
        pool_mode: crate::user::PoolMode::Transaction,
    };
    let mut with_user = small_map();
    with_user.users.insert(user.name.clone(), user);
    for (version, mark, users) in [(7, 71, 1), (7, 72, 0), (8, 71, 0)] {
        let trail = Trail::of([(version, mark)].into_iter());
        let mut emptied = ShardMap { version, trail, ..ShardMap::default() };
        emptied.take_over(&with_user);
        assert_eq!(emptied.users.len(), users, "only another version, or timeline, can have dropped it");
    }
    // At the same epoch the whole map counts: that is how a damaged one is set right.
    let mut repaired = small_map();
    repaired.tenants.values_mut().for_each(|t| t.server = ServerName::new("pg-2").unwrap());
    repaired.take_over(&small_map());
    assert!(repaired.tenants.values().all(|tenant| tenant.server.as_str() == "pg-2"));
}
