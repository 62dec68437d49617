//! Looks every acknowledged write up, on the server that has the tenant now, past the router.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use tokio_postgres::Client;

use super::fleet::Site;
use super::load::{Tally, Write};
use super::setup;

/// How long one query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(120);

/// What was found of one tenant.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) rows_checked: u64,
    /// Acknowledged, and not there as it was written.
    pub(crate) lost: u64,
    /// There more than once.
    pub(crate) duplicated: u64,
    /// There, and never asked for.
    pub(crate) unexpected: u64,
    /// Sums that do not agree, as sentences.
    pub(crate) disagreements: Vec<String>,
}

/// Checks one tenant's database.
pub(crate) async fn tenant(site: &Site, tally: &Tally) -> anyhow::Result<Findings> {
    let id = &tally.tenant.id;
    let server = setup::server_of(site, id).await?;
    let client = site.on_server(&server, id).await.with_context(|| format!("looking at {id} on {server}"))?;
    let checking = async {
        let found = written(&client).await?;
        let mut findings = compare(tally, &found);
        sums(&client, tally, found.values().sum(), &mut findings).await?;
        anyhow::Ok(findings)
    };
    tokio::time::timeout(QUERY_TIMEOUT, checking).await.context("the check takes too long")?
}

/// Whether a server has no database of this name.
pub(crate) async fn is_gone(site: &Site, server: &str, database: &str) -> anyhow::Result<bool> {
    let client = site.on_server(server, "postgres").await?;
    let asking =
        async { client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&database]).await };
    Ok(tokio::time::timeout(QUERY_TIMEOUT, asking).await.context("no answer in time")??.is_none())
}

/// What the clients' transactions left: each write, and how often it is there.
async fn written(client: &Client) -> anyhow::Result<HashMap<(i64, i64, i64), i64>> {
    const SQL: &str = "
        SELECT (properties ->> 'number')::bigint, person_id, (amount * 100)::bigint, count(*)
        FROM activity WHERE name = 'demo' GROUP BY 1, 2, 3";
    let rows = client.query(SQL, &[]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1), row.get(2)), row.get(3))).collect())
}

fn key(write: &Write) -> (i64, i64, i64) {
    (write.number, write.person, write.cents)
}

fn compare(tally: &Tally, found: &HashMap<(i64, i64, i64), i64>) -> Findings {
    let mut findings = Findings::default();
    let mut known = HashMap::new();
    for write in &tally.acknowledged {
        known.insert(key(write), true);
        findings.lost += u64::from(!found.contains_key(&key(write)));
    }
    known.extend(tally.in_doubt.iter().map(|write| (key(write), false)));
    for (write, count) in found {
        findings.duplicated += u64::from(*count > 1);
        findings.unexpected += u64::from(!known.contains_key(write));
    }
    findings
}

/// Compares what triggers and updates kept beside the rows themselves.
async fn sums(client: &Client, tally: &Tally, written: i64, findings: &mut Findings) -> anyhow::Result<()> {
    const SQL: &str = "
        SELECT (SELECT count(*) FROM people),
            (SELECT count(*) FROM activity),
            (SELECT coalesce(sum((attributes ->> 'visits')::bigint), 0)::bigint FROM people),
            (SELECT count(*) FROM attribute_changes),
            (SELECT (coalesce(sum(amount), 0) * 100)::bigint FROM activity),
            (SELECT (coalesce(sum(revenue), 0) * 100)::bigint FROM activity_daily),
            (SELECT coalesce(sum(events), 0)::bigint FROM activity_daily)";
    let row = client.query_one(SQL, &[]).await?;
    let value = |i: usize| row.get::<_, i64>(i);
    let (people, events, seeded) = (value(0), value(1), tally.tenant.events());
    for (what, is, should_be) in [
        ("people", people, tally.tenant.people),
        ("events", events, seeded + written),
        ("visits counted in people", value(2), written),
        ("logged changes of attributes", value(3), written),
        ("revenue in activity_daily", value(5), value(4)),
        ("events in activity_daily", value(6), events),
    ] {
        if is != should_be {
            findings.disagreements.push(format!("{}: {what}: {is} instead of {should_be}", tally.tenant.id));
        }
    }
    findings.rows_checked = u64::try_from(people + events + value(3)).unwrap_or(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::setup::Tenant;
    use super::*;

    #[test]
    fn lost_doubled_and_unasked_writes_are_told_apart() {
        let write = |number| Write::numbered(number, 10);
        let tally = Tally {
            tenant: Tenant { id: "a".into(), people: 10 },
            acknowledged: vec![write(1), write(2), write(3)],
            in_doubt: vec![write(4), write(5)],
            errors: Vec::new(),
            longest: Duration::ZERO,
        };
        let found: HashMap<_, _> =
            [(1, 1), (2, 2), (5, 1), (9, 1)].map(|(number, count)| (key(&write(number)), count)).into();
        let findings = compare(&tally, &found);
        assert_eq!((findings.lost, findings.duplicated, findings.unexpected), (1, 1, 1));
        let changed: HashMap<_, _> = [((1, 1 + 7919 % 10, 2), 1)].into();
        assert_eq!(
            compare(&tally, &changed).lost,
            3,
            "a row with another amount is not the one acknowledged"
        );
    }
}
