//! The catalog's Postgres, and who leads.

use std::time::Duration;

use catalog::{Health, LeaseHealth};

use super::diagnosis::{Part, age, count, size};

/// How far clocks may be apart: a hold's lease is told as a time of day.
pub(super) const CLOCKS_APART_MAX_MS: i64 = 1_000;
/// Log that a standby may lack.
const STANDBY_LAG_MAX: i64 = 64 << 20;
/// How long nobody may lead: a lease runs out before another instance takes it.
const UNLED_MAX_MS: i64 = 5_000;

/// The catalog, whose clock is ahead of this machine's by so much.
pub(super) fn judge(seen: &Health, clock_ahead_ms: i64) -> Part {
    let mut part = Part::new("catalog", "catalog");
    let newest = Health::schema_newest();
    let role = if seen.standby { "a standby" } else { "primary" };
    let schema = seen.schema.map_or_else(|| "unknown".to_owned(), |schema| schema.to_string());
    let map = seen
        .map_version
        .map_or_else(|| "without a version".to_owned(), |version| format!("version {version}"));
    let lags: Vec<i64> = seen.standbys.iter().filter_map(|standby| standby.lag_bytes).collect();
    let lag = lags.iter().max().map_or_else(String::new, |most| format!(", at most {} behind", size(*most)));
    part.see(format!(
        "PostgreSQL {}, {role}, {}{lag}; schema {schema}; map {map}, {}",
        seen.version,
        count(seen.standbys.len(), "standby"),
        count(usize::try_from(seen.tenants).unwrap_or(0), "tenant"),
    ));
    if seen.standby {
        part.error(
            "it is a standby and takes no writes: no change is possible",
            "promote it, or name all hosts in catalog_url (docs/catalog.md)",
        );
    }
    match seen.schema {
        Some(schema) if schema < newest => part.error(
            format!("its schema is at {schema}, this program's is {newest}"),
            "restart the control plane: it brings the schema up to date",
        ),
        Some(schema) if schema > newest => part.warning(
            format!("its schema is at {schema}, newer than this program's ({newest})"),
            "upgrade this program to the version of the newest control plane",
        ),
        _ => {}
    }
    if seen.map_version.is_none() {
        part.error("the map has lost its version: routers do not follow it", "tenantry map rebuild --apply");
    }
    for standby in &seen.standbys {
        if let Some(lag) = standby.lag_bytes.filter(|lag| *lag > STANDBY_LAG_MAX) {
            let name = standby.name.as_deref().unwrap_or("without a name");
            part.warning(
                format!("its standby {name} is {} behind", size(lag)),
                "look at the standby's log and at the network between them (docs/catalog.md)",
            );
        }
    }
    judge_clock(&mut part, clock_ahead_ms, "this control plane's");
    part
}

/// Says so if a clock is too far from another one.
pub(super) fn judge_clock(part: &mut Part, ahead_ms: i64, of_whom: &str) {
    if ahead_ms.abs() > CLOCKS_APART_MAX_MS {
        let way = if ahead_ms > 0 { "ahead of" } else { "behind" };
        part.warning(
            format!("its clock is {} {way} {of_whom}", age(ahead_ms.abs())),
            "let NTP set the clocks of all hosts: holds are told as times of day",
        );
    }
}

/// Who leads, by a lease of this length.
pub(super) fn judge_leader(lease: Option<&LeaseHealth>, lasts: Duration) -> Part {
    let mut part = Part::new("control", "leader");
    let remedy = "start a control plane (systemctl start tenantry-control); if one runs, its log says why it does not lead";
    let Some(lease) = lease else {
        part.see("no lease on record");
        part.error(
            "no control plane has ever led, or the lease was lost: nothing is done that is asked for",
            remedy,
        );
        return part;
    };
    let name = lease.holder.split('/').next().unwrap_or_default();
    match lease.remaining_ms {
        Some(remaining) if remaining >= 0 => {
            let lasts = i64::try_from(lasts.as_millis()).unwrap_or(i64::MAX);
            let renewed = age(lasts.saturating_sub(remaining));
            part.see(format!("{name} leads, term {}, renewed {renewed} ago", lease.term));
        }
        remaining => {
            part.see(format!("{name} led last, term {}", lease.term));
            // One that was given back has no end.
            let since = remaining.map(|ms| -ms);
            if since.is_none_or(|since| since > UNLED_MAX_MS) {
                let since = since.map_or_else(String::new, |ms| format!(" for {}", age(ms)));
                part.error(
                    format!("no control plane leads{since}: nothing is done that is asked for"),
                    remedy,
                );
            }
        }
    }
    part
}

#[cfg(test)]
mod tests {
    use catalog::Standby;

    use super::*;

    fn health() -> Health {
        Health {
            version: "17.2".to_owned(),
            standby: false,
            schema: Some(Health::schema_newest()),
            map_version: Some(7),
            unix_ms: 0,
            lease: None,
            standbys: vec![Standby { name: Some("other".to_owned()), lag_bytes: Some(100) }],
            tenants: 3,
        }
    }

    #[test]
    fn a_sound_catalog_has_nothing_wrong() {
        assert!(judge(&health(), 900).wrong().is_empty());
    }

    #[test]
    fn what_is_wrong_with_a_catalog_is_told() {
        let mut seen = health();
        seen.standby = true;
        seen.schema = Some(1);
        seen.map_version = None;
        seen.standbys[0].lag_bytes = Some(STANDBY_LAG_MAX + 1);
        let wrong = judge(&seen, -2_000).wrong();
        assert_eq!(wrong.len(), 5, "{wrong:?}");
        assert!(
            wrong.contains(&"Warning: its clock is 2 s behind this control plane's".to_owned()),
            "{wrong:?}"
        );
    }

    #[test]
    fn a_lease_that_is_over_for_long_is_told_and_one_that_changes_hands_is_not() {
        let lease = |remaining_ms| LeaseHealth { holder: "one/ab".to_owned(), term: 3, remaining_ms };
        let wrong = |remaining| judge_leader(Some(&lease(remaining)), Duration::from_secs(5)).wrong();
        assert!(wrong(Some(3_000)).is_empty() && wrong(Some(-1_000)).is_empty());
        let told = |rest: &str| {
            vec![format!("Error: no control plane leads{rest}: nothing is done that is asked for")]
        };
        assert_eq!(wrong(Some(-60_000)), told(" for 60 s"));
        assert_eq!(wrong(None), told(""));
        assert_eq!(judge_leader(None, Duration::from_secs(5)).wrong().len(), 1);
    }
}
