//! What the last look at the map found: see `map verify`.

use std::time::Duration;

use catalog::MapCheck;
use shard_map::recovery::{Finding, Kind};

use super::diagnosis::{Part, age, count};

/// Intervals that may go by without a look.
const LOOKS_MISSED_MAX: u32 = 3;
/// Differences of one kind that are told in words.
const EACH_MAX: usize = 3;

/// The last look, how long ago it was, and for how long there has been something to look at.
pub(super) fn judge(
    check: Option<&MapCheck>,
    (checked_ms, servers_ms): (Option<i64>, Option<i64>),
    interval: Duration,
) -> Part {
    let mut part = Part::new("map", "map");
    let late = i64::try_from((interval * LOOKS_MISSED_MAX).as_millis()).unwrap_or(i64::MAX);
    let remedy = "tenantry map verify; if that fails, its error says why";
    match (check, checked_ms) {
        (Some(check), Some(ms)) => {
            let differences: i64 = check.counts.values().sum();
            let found = count(usize::try_from(differences).unwrap_or(0), "difference");
            part.see(format!("{found} at the last check, {} ago", age(ms)));
            if ms > late {
                part.warning(format!("the map was last checked {} ago", age(ms)), remedy);
            }
            for (kind, number) in &check.counts {
                judge_kind(&mut part, *kind, *number, &check.findings);
            }
        }
        _ => {
            part.see("not checked yet");
            if servers_ms.is_some_and(|ms| ms > late) {
                part.warning("the map was never checked", remedy);
            }
        }
    }
    part
}

fn judge_kind(part: &mut Part, kind: Kind, number: i64, findings: &[Finding]) {
    let remedy = match kind {
        // Each server is looked at just now.
        Kind::UnreachableServer | Kind::AnotherCluster | Kind::AnotherFleet => return,
        Kind::TwoClaims => "look into both databases and choose: docs/recovery.md#two-claims",
        Kind::OrphanDatabase => {
            "find out whose it is; then drop it, or put it on record (docs/recovery.md#what-verify-finds); then tenantry map verify"
        }
        Kind::MissingDatabase => {
            "restore it from a backup under that name, or delete the tenant; then tenantry map verify"
        }
        Kind::KeptCopy => {
            "take from it what you need of a tenant that was lost, then drop it (docs/recovery.md#a-server-is-lost-for-good); then \
             tenantry map verify"
        }
        Kind::MissingRecord => {
            "where its database is there: tenantry map rebuild --apply; where it is lost: restore it under that name and rebuild, or give \
             the tenant up: tenantry tenant delete ID --now --yes; then tenantry map verify"
        }
        _ => {
            "tenantry map rebuild shows what it would set right, tenantry map rebuild --apply does it; then tenantry map verify"
        }
    };
    let of_kind = findings.iter().filter(|finding| finding.kind == kind).take(EACH_MAX);
    let mut details: Vec<&str> = of_kind.map(|finding| finding.detail.as_str()).collect();
    if usize::try_from(number).is_ok_and(|number| number > details.len()) {
        details.push("…");
    }
    part.error(format!("{number} × {}: {}", kind.as_str(), details.join("; ")), remedy);
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(300);

    fn check(kinds: &[(Kind, i64)]) -> MapCheck {
        let finding = |kind: &Kind, number: i64| Finding {
            kind: *kind,
            server: None,
            tenant: None,
            database: None,
            detail: format!("detail {number}"),
        };
        MapCheck {
            checked_at: String::new(),
            duration_ms: 1,
            findings: kinds
                .iter()
                .flat_map(|(kind, many)| (0..*many).map(move |i| finding(kind, i)))
                .collect(),
            counts: kinds.iter().copied().collect(),
        }
    }

    #[test]
    fn a_map_without_differences_that_was_checked_in_time_is_well() {
        assert!(judge(Some(&check(&[])), (Some(600_000), Some(1)), INTERVAL).wrong().is_empty());
        assert!(judge(None, (None, Some(60_000)), INTERVAL).wrong().is_empty(), "the fleet is young");
    }

    #[test]
    fn differences_are_told_by_kind_with_the_first_few() {
        let seen = check(&[(Kind::WrongServer, 5), (Kind::OrphanDatabase, 1), (Kind::UnreachableServer, 1)]);
        let part = judge(Some(&seen), (Some(0), None), INTERVAL);
        assert_eq!(
            part.wrong(),
            [
                "Error: 5 × wrong_server: detail 0; detail 1; detail 2; …",
                "Error: 1 × orphan_database: detail 0"
            ]
        );
        assert!(part.remedies()[0].contains("tenantry map rebuild --apply"));
    }

    #[test]
    fn a_look_that_is_long_ago_or_never_was_is_told() {
        assert_eq!(judge(Some(&check(&[])), (Some(1_000_000), None), INTERVAL).wrong().len(), 1);
        assert_eq!(
            judge(None, (None, Some(1_000_000)), INTERVAL).wrong(),
            ["Warning: the map was never checked"]
        );
    }
}
