use super::*;
use crate::placement::Usage;
use crate::policy::Capacity;
use crate::server::{ServerClass, ServerState};

fn server(name: &str, tenants_max: Option<u32>) -> Server {
    Server {
        name: ServerName::new(name).unwrap(),
        host: "localhost".into(),
        port: 5432,
        class: ServerClass::Shared,
        max_connections: 100,
        labels: Labels::default(),
        state: ServerState::Active,
        capacity: Capacity { tenants_max, ..Capacity::default() },
        quota: Quota::default(),
    }
}

/// Servers with their versions and how many tenants each may have; the first one is left.
fn places(servers: &[(&str, i32, u32)]) -> Places {
    let candidate = |(name, _, most): &(&str, i32, u32)| Candidate {
        server: server(name, Some(*most)),
        usage: Usage::default(),
        anti_affine: Vec::new(),
    };
    Places {
        candidates: servers.iter().map(candidate).collect(),
        majors: servers.iter().map(|(name, major, _)| (ServerName::new(name).unwrap(), *major)).collect(),
        neighbours: BTreeSet::new(),
        policy: PlacementPolicy::default(),
    }
}

fn leaver(id: &str, bytes: Option<u64>) -> Leaver {
    let (labels, quota) = (Labels::default(), Quota::default());
    Leaver { id: TenantId::new(id).unwrap(), labels, quota, bytes }
}

fn planned(leavers: Vec<Leaver>, places: Places) -> Plan {
    let from = places.candidates[0].server.clone();
    plan((&from, 15), leavers, places)
}

/// `tenant>server` of each wave.
fn told(plan: &Plan) -> Vec<Vec<String>> {
    let wave = |wave: &Vec<Planned>| wave.iter().map(|one| format!("{}>{}", one.tenant, one.to)).collect();
    plan.waves.iter().map(wave).collect()
}

#[test]
fn waves_are_one_a_tenth_and_the_rest() {
    for (count, sizes) in [
        (0, vec![]),
        (1, vec![1]),
        (2, vec![1, 1]),
        (3, vec![1, 1, 1]),
        (10, vec![1, 1, 8]),
        (11, vec![1, 2, 8]),
        (100, vec![1, 10, 89]),
    ] {
        let waves = in_waves((0..count).collect());
        assert_eq!(waves.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{count}");
        assert_eq!(waves.concat(), (0..count).collect::<Vec<_>>());
    }
}

#[test]
fn the_smallest_goes_first_and_what_was_not_measured_last() {
    let leavers = vec![leaver("b", Some(5)), leaver("c", None), leaver("a", Some(5)), leaver("d", Some(1))];
    let plan = planned(leavers, places(&[("old", 15, 9), ("new", 18, 9)]));
    assert_eq!(told(&plan), [vec!["d>new"], vec!["a>new"], vec!["b>new", "c>new"]]);
    assert_eq!(plan.waves[0][0].version, 18);
}

#[test]
fn the_newest_version_is_preferred_and_each_tenant_counts_for_the_next() {
    let leavers = |count: u64| (0..count).map(|n| leaver(&format!("t{n}"), Some(n))).collect::<Vec<_>>();
    let all = places(&[("old", 15, 9), ("mid", 16, 9), ("new-a", 18, 2), ("new-b", 18, 1)]);
    let plan = planned(leavers(4), all);
    assert_eq!(told(&plan).concat(), ["t0>new-a", "t1>new-b", "t2>new-a", "t3>mid"]);
    assert_eq!(plan.unplaced, []);
}

#[test]
fn who_fits_nowhere_is_told_why() {
    let mut all = places(&[("old", 15, 9), ("same", 15, 9), ("new", 17, 1), ("gone", 18, 9)]);
    all.majors.remove(&ServerName::new("gone").unwrap());
    let plan = planned(vec![leaver("a", Some(1)), leaver("b", Some(2))], all);
    assert_eq!(told(&plan), [["a>new"]]);
    assert_eq!(plan.unplaced[0].tenant.as_str(), "b");
    let why = &plan.unplaced[0].why;
    for part in
        ["gone: it does not answer", "new: it is full", "old: its Postgres is not newer (15)", "same: its"]
    {
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn tenants_that_are_kept_apart_are_so_on_their_new_servers() {
    let mut all = places(&[("old", 15, 9), ("new-a", 18, 9), ("new-b", 18, 9)]);
    all.policy.anti_affinity = vec!["group".to_owned()];
    all.neighbours.insert((ServerName::new("new-a").unwrap(), "group".into(), "y".into()));
    let of = |id: &str, group: &str| Leaver {
        labels: [("group".to_owned(), group.to_owned())].into(),
        ..leaver(id, Some(1))
    };
    let plan = planned(vec![of("a", "x"), of("b", "x"), of("c", "x"), of("d", "y"), of("e", "z")], all);
    assert_eq!(told(&plan).concat(), ["a>new-a", "b>new-b", "d>new-b", "e>new-a"]);
    assert_eq!(plan.unplaced[0].tenant.as_str(), "c");
}

#[test]
fn quotas_and_bytes_are_counted() {
    let mut all = places(&[("old", 15, 9), ("new-a", 18, 9), ("new-b", 18, 9)]);
    for candidate in &mut all.candidates {
        candidate.server.capacity.bytes_max = Some(crate::bytes::Bytes(100));
        candidate.usage.bytes = Some(0);
    }
    let plan = planned(vec![leaver("a", Some(60)), leaver("b", Some(60)), leaver("c", Some(60))], all);
    assert_eq!(told(&plan).concat(), ["a>new-a", "b>new-b"]);
    assert!(plan.unplaced[0].why.contains("it brings"), "{}", plan.unplaced[0].why);
}
