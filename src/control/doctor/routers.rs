//! Routers, by what they report, and the holds that they are to acknowledge.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{HoldHealth, RouterHealth};

use super::catalog::judge_clock;
use super::diagnosis::{Part, age, count};

/// How long a router may lack a change.
const BEHIND_MAX_MS: i64 = 15_000;
/// How long two processes may have one name: a restart lets transactions end.
const HANDOVER_MAX_MS: i64 = 600_000;
/// How long a router may take to acknowledge a hold.
const ACKNOWLEDGE_MAX_MS: i64 = 1_000;
/// How long a hold may be on record after its end.
const HOLD_LEFT_MAX_MS: i64 = 60_000;

/// All routers, each by its name; or that there is none.
pub(super) fn judge(seen: &[RouterHealth], map_version: Option<i64>, timeout: Duration) -> Vec<Part> {
    let mut by_name: BTreeMap<&str, Vec<&RouterHealth>> = BTreeMap::new();
    for router in seen {
        by_name.entry(&router.name).or_default().push(router);
    }
    if by_name.is_empty() {
        let mut part = Part::new("router", "routers");
        part.see("none on record");
        part.warning(
            "no router has reported: nobody is served by this fleet, or routers do not reach the catalog",
            "start one: tenantry router --config FILE; if one runs, look at its catalog_url and its log",
        );
        return vec![part];
    }
    by_name.into_iter().map(|(name, processes)| judge_one(name, &processes, map_version, timeout)).collect()
}

fn judge_one(name: &str, processes: &[&RouterHealth], map_version: Option<i64>, timeout: Duration) -> Part {
    let mut part = Part::new("router", name);
    let is_live =
        |router: &&&RouterHealth| u128::try_from(router.silent_ms).unwrap_or(0) <= timeout.as_millis();
    let live: Vec<&RouterHealth> = processes.iter().filter(is_live).copied().collect();
    // By their start: the newest is last. One that was killed leaves its row behind when another is there for it.
    let Some(newest) = live.last() else {
        let silent = processes.iter().map(|router| router.silent_ms).min().unwrap_or(0);
        part.see(format!("silent for {}", age(silent)));
        part.error(
            format!("it has not reported for {}: it is down, or does not reach the catalog", age(silent)),
            "start it, or look at its log; one that is gone for good is forgotten after a day",
        );
        return part;
    };
    let clients: u64 = live.iter().map(|router| u64::from(router.report.clients)).sum();
    part.see(format!(
        "{} at {}, map version {}, {clients} clients, reported {} ago",
        if live.len() == 1 { "1 process".to_owned() } else { format!("{} processes", live.len()) },
        newest.address,
        newest.map_version,
        age(newest.silent_ms),
    ));
    if live.len() > 1 && newest.age_ms > HANDOVER_MAX_MS {
        part.warning(
            format!("{} processes have its name, the newest for {}", live.len(), age(newest.age_ms)),
            "end the older ones, or give each router a name of its own (docs/restart.md)",
        );
    }
    for router in &live {
        judge_process(&mut part, router, map_version);
    }
    part
}

fn judge_process(part: &mut Part, router: &RouterHealth, map_version: Option<i64>) {
    match map_version {
        Some(newest) if router.map_version > newest => part.error(
            format!(
                "it serves by map version {}, and the catalog is at {newest}: it follows nothing",
                router.map_version
            ),
            "tenantry map rebuild --apply",
        ),
        Some(newest) if router.behind_ms.is_some_and(|behind| behind > BEHIND_MAX_MS) => part.warning(
            format!(
                "it is {} versions of the map behind, for {}",
                newest - router.map_version,
                age(router.behind_ms.unwrap_or(0))
            ),
            "look at its log: it says why it does not follow",
        ),
        _ => {}
    }
    for server in &router.report.servers_down {
        part.error(
            format!("it can't log in to server {server}: its tenants' transactions wait there"),
            format!("start {server} if it is down (tenantry server show {server}); else look at the network between them and at the router's log"),
        );
    }
    if let Some(told) = router.report.unix_ms {
        judge_clock(part, told - router.seen_unix_ms, "the catalog's");
    }
}

/// Holds that are not acknowledged, or were left.
pub(super) fn judge_holds(seen: &[HoldHealth]) -> Part {
    let mut part = Part::new("router", "holds");
    part.see(count(seen.len(), "hold"));
    for hold in seen {
        let tenant = &hold.tenant;
        if hold.overdue_ms > HOLD_LEFT_MAX_MS {
            part.warning(
                format!(
                    "a hold of tenant {tenant} ran out {} ago and was not released",
                    age(hold.overdue_ms)
                ),
                format!(
                    "nobody waits for it any more; see what became of its move: tenantry tenant show {tenant}"
                ),
            );
        } else if hold.overdue_ms < 0
            && !hold.missing.is_empty()
            && hold.age_ms.is_some_and(|ms| ms > ACKNOWLEDGE_MAX_MS)
        {
            part.error(
                format!("a hold of tenant {tenant} is not acknowledged by {}", hold.missing.join(", ")),
                "look at these routers' logs; the cutover is taken back and tried again",
            );
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use catalog::Report;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn router(silent_ms: i64) -> RouterHealth {
        RouterHealth {
            name: "r1".to_owned(),
            address: "h:1".to_owned(),
            map_version: 10,
            report: Report { unix_ms: Some(5_000), ..Report::default() },
            seen_unix_ms: 5_100,
            silent_ms,
            age_ms: 3_600_000,
            behind_ms: None,
        }
    }

    fn wrong(routers: &[RouterHealth]) -> Vec<String> {
        judge(routers, Some(10), TIMEOUT).iter().flat_map(Part::wrong).collect()
    }

    #[test]
    fn one_that_reports_and_follows_is_well() {
        assert_eq!(wrong(&[router(500)]), Vec::<String>::new());
        let behind_a_moment = RouterHealth { map_version: 9, behind_ms: Some(800), ..router(500) };
        assert_eq!(wrong(&[behind_a_moment]), Vec::<String>::new());
        assert_eq!(wrong(&[router(60_000), router(500)]), Vec::<String>::new(), "it was started again");
    }

    #[test]
    fn what_is_wrong_with_one_is_told() {
        assert!(wrong(&[])[0].contains("no router has reported"));
        assert_eq!(
            wrong(&[router(60_000)]),
            ["Error: it has not reported for 60 s: it is down, or does not reach the catalog"]
        );
        let behind = RouterHealth { map_version: 7, behind_ms: Some(20_000), ..router(0) };
        assert_eq!(wrong(&[behind]), ["Warning: it is 3 versions of the map behind, for 20 s"]);
        assert!(wrong(&[RouterHealth { map_version: 11, ..router(0) }])[0].contains("it follows nothing"));
        assert!(wrong(&[router(0), router(0)])[0].contains("2 processes have its name"));
        let report =
            Report { servers_down: vec!["pg-2".to_owned()], unix_ms: Some(1_000), ..Report::default() };
        let cut_off = wrong(&[RouterHealth { report, ..router(0) }]);
        assert!(cut_off[0].contains("can't log in to server pg-2"), "{cut_off:?}");
        assert_eq!(cut_off[1], "Warning: its clock is 4.1 s behind the catalog's");
    }

    #[test]
    fn a_hold_is_told_when_it_is_neither_acknowledged_nor_released_in_time() {
        let hold = |age_ms, overdue_ms, missing: &[&str]| HoldHealth {
            tenant: "acme".parse().unwrap(),
            age_ms: Some(age_ms),
            overdue_ms,
            missing: missing.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert!(judge_holds(&[hold(200, -1_800, &["r1"]), hold(1_900, -100, &[])]).wrong().is_empty());
        assert_eq!(
            judge_holds(&[hold(1_900, -100, &["r1"])]).wrong(),
            ["Error: a hold of tenant acme is not acknowledged by r1"]
        );
        assert_eq!(judge_holds(&[hold(0, 90_000, &[])]).wrong().len(), 1);
    }
}
