use super::*;
use crate::policy::{Capacity, ClassPolicy};

fn candidate(name: &str, class: ServerClass, tenants: u32, max_connections: u32) -> Candidate {
    let server = Server {
        name: ServerName::new(name).unwrap(),
        host: "localhost".into(),
        port: 5432,
        class,
        max_connections,
        labels: [("region".to_owned(), "eu".to_owned())].into(),
        state: ServerState::Active,
        capacity: Capacity::default(),
        quota: Quota::default(),
    };
    Candidate { server, usage: Usage { tenants, ..Usage::default() }, anti_affine: Vec::new() }
}

fn shared(name: &str, tenants: u32) -> Candidate {
    candidate(name, ServerClass::Shared, tenants, 100)
}

fn labelled(key: &str, value: &str) -> Wish {
    Wish { labels: [(key.to_owned(), value.to_owned())].into(), ..Wish::default() }
}

fn named(name: &str) -> Wish {
    Wish { server: Some(ServerName::new(name).unwrap()), ..Wish::default() }
}

fn chosen(candidates: &[Candidate], wish: &Wish, policy: &PlacementPolicy) -> String {
    match choose(candidates, wish, policy) {
        Ok(decision) => decision.server.to_string(),
        Err(error) => error.to_string(),
    }
}

fn by_default(candidates: &[Candidate], wish: &Wish) -> String {
    chosen(candidates, wish, &PlacementPolicy::default())
}

#[test]
fn the_least_full_shared_server_is_taken_and_equal_ones_by_name() {
    let all = [
        shared("a", 10),
        candidate("b", ServerClass::Shared, 15, 200),
        candidate("c", ServerClass::Dedicated, 0, 100),
    ];
    assert_eq!(by_default(&all, &Wish::default()), "b", "twice as large");
    assert_eq!(by_default(&all[..1], &Wish::default()), "a");
    assert_eq!(by_default(&[shared("b", 3), shared("a", 3)], &Wish::default()), "a");
}

#[test]
fn each_server_is_accounted_for_in_the_order_of_preference() {
    let mut all = [shared("a", 400), shared("b", 300), shared("c", 0), shared("d", 200)];
    all[2].server.state = ServerState::Draining;
    let policy = PlacementPolicy { tenants_per_server_max: 1000, ..PlacementPolicy::default() };
    let decision = choose(&all, &Wish::default(), &policy).unwrap();
    let order: Vec<_> =
        decision.servers.iter().map(|verdict| (verdict.server.as_str(), verdict.fits)).collect();
    assert_eq!(order, [("d", true), ("b", true), ("a", true), ("c", false)]);
    assert_eq!(decision.why, "it is the least full of 3 that fit: 20 % full (200 of 1000 tenants)");
    assert!(decision.servers[3].reason.contains("draining"), "{:?}", decision.servers[3]);
}

#[test]
fn a_dedicated_server_only_takes_who_asks_for_it() {
    let all = [candidate("c", ServerClass::Dedicated, 0, 100)];
    let refused = by_default(&all, &Wish::default());
    assert_eq!(refused, "no server can take the tenant: c: it is dedicated, shared was asked for");
    let dedicated = Wish { class: Some(ServerClass::Dedicated), ..Wish::default() };
    assert_eq!(by_default(&all, &dedicated), "c");
}

#[test]
fn labels_and_draining_exclude_and_say_so() {
    let mut all = [shared("a", 0)];
    assert!(by_default(&all, &labelled("region", "us")).contains("a: its region is eu, not us"));
    assert_eq!(by_default(&all, &labelled("region", "eu")), "a");
    assert_eq!(by_default(&all, &labelled("plan", "gold")), "a", "no server has plans");
    all[0].server.state = ServerState::Draining;
    assert!(by_default(&all, &Wish::default()).contains("draining"));
    assert!(by_default(&all, &named("a")).contains("draining"));
}

#[test]
fn a_server_that_does_not_answer_is_passed_over_unless_it_is_named() {
    let all = [shared("a", 0), shared("b", 9)];
    let wish = Wish { away: vec![ServerName::new("a").unwrap()], ..Wish::default() };
    assert_eq!(by_default(&all, &wish), "b");
    assert!(by_default(&all[..1], &wish).contains("a: it does not answer"));
    assert_eq!(by_default(&all, &Wish { server: Some(ServerName::new("a").unwrap()), ..wish }), "a");
}

#[test]
fn tenants_of_one_group_are_kept_apart() {
    let mut all = [shared("a", 0), shared("b", 9)];
    all[0].anti_affine = vec!["group".to_owned()];
    let policy = PlacementPolicy { anti_affinity: vec!["group".to_owned()], ..PlacementPolicy::default() };
    let wish = labelled("group", "acme");
    assert_eq!(chosen(&all, &wish, &policy), "b");
    assert_eq!(by_default(&all, &wish), "a", "only where the policy says so");
    assert!(chosen(&all[..1], &wish, &policy).contains("a: a tenant with group=acme is there"));
    let by_name = Wish { server: Some(ServerName::new("a").unwrap()), ..wish };
    assert_eq!(chosen(&all, &by_name, &policy), "a", "the operator knows better");
}

#[test]
fn a_server_is_full_by_the_part_that_is_nearest_to_its_limit() {
    let capacity =
        Capacity { tenants_max: Some(100), bytes_max: Some(Bytes(100 << 30)), active_sessions_max: Some(8) };
    let policy = PlacementPolicy {
        connections_overcommit: Some(2),
        shared: ClassPolicy { capacity, quota: Quota { connections: Some(10), ..Quota::default() } },
        ..PlacementPolicy::default()
    };
    let mut one = shared("a", 10);
    let reason = |one: &Candidate, wish: &Wish| match choose(std::slice::from_ref(one), wish, &policy) {
        Ok(decision) => decision.servers[0].reason.clone(),
        Err(error) => error.to_string(),
    };
    assert_eq!(reason(&one, &Wish::default()), "55 % full (100 of 200 connections promised)");
    one.usage.bytes = Some(80 << 30);
    assert_eq!(reason(&one, &Wish::default()), "80 % full (80 GB of 100GB)");
    let moved = Wish { bytes: 30 << 30, ..Wish::default() };
    assert!(reason(&one, &moved).contains("it is full: 80 GB of 100GB, and it brings 30 GB"));
    one.usage.active_sessions_milli = Some(7_250);
    assert_eq!(reason(&one, &Wish::default()), "90 % full (7.2 of 8 sessions at work)");
    one.usage.active_sessions_milli = Some(8_001);
    assert!(reason(&one, &Wish::default()).contains("it is full: 8.0 of 8 sessions at work"));
    one.usage.active_sessions_milli = None;
    one.usage.bytes = Some(101 << 30);
    assert!(reason(&one, &Wish::default()).contains("it is full: 101 GB of 100GB"));
    assert!(reason(&one, &named("a")).contains("it is full"), "room is no wish");
    one.usage.bytes = None;
    let greedy = Wish { quota: Quota { connections: Some(101), ..Quota::default() }, ..Wish::default() };
    assert!(reason(&one, &greedy).contains("100 of 200 connections promised"), "and it asks for 101");
    one.usage = Usage { tenants: 10, own_quotas: 1, own_connections: 110, ..Usage::default() };
    assert!(reason(&one, &Wish::default()).contains("it is full: 200 of 200 connections promised"));
    one.usage.tenants = 100;
    assert!(reason(&one, &Wish::default()).contains("it is full: 100 of 100 tenants"));
    one.server.capacity.tenants_max = Some(1000);
    let roomy = choose(&[one], &named("a"), &PlacementPolicy::default()).unwrap();
    assert_eq!(
        roomy.servers[0].reason, "10 % full (100 of 1000 tenants)",
        "its own counts before the class's"
    );
}

#[test]
fn a_named_server_is_taken_or_refused_by_name() {
    let all = [candidate("a", ServerClass::Dedicated, 100, 100)];
    let full = PlacementPolicy { tenants_per_server_max: 100, ..PlacementPolicy::default() };
    assert!(chosen(&all, &named("a"), &full).contains("100 of 100 tenants"));
    assert_eq!(by_default(&all, &named("a")), "a");
    let unknown = choose(&all, &named("x"), &full);
    assert!(matches!(unknown, Err(NoPlacement::UnknownServer(_))));
}
