//! Tenants, their schema and their data: one tenant is much heavier than the others.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::fleet::Site;
use crate::cli::failure::Failure;
use crate::cli::migrate;
use crate::cli::wait::{self, Awaited, text};

const PROVISION_TIMEOUT: Duration = Duration::from_secs(120);
const MIGRATE_TIMEOUT: Duration = Duration::from_secs(300);
const FILL_TIMEOUT: Duration = Duration::from_secs(300);
const PEOPLE: i64 = 200;
const PEOPLE_OF_THE_HEAVIEST: i64 = 20_000;
/// Past events of each person.
const EVENTS_EACH: i64 = 3;

/// The example product's schema.
const MIGRATIONS: [(&str, &str); 7] = [
    ("V1__people.sql", include_str!("../../../migrations/tenant/V1__people.sql")),
    ("V2__activity.sql", include_str!("../../../migrations/tenant/V2__activity.sql")),
    ("V3__segments.sql", include_str!("../../../migrations/tenant/V3__segments.sql")),
    ("V4__deliveries.sql", include_str!("../../../migrations/tenant/V4__deliveries.sql")),
    ("V5__activity_daily.sql", include_str!("../../../migrations/tenant/V5__activity_daily.sql")),
    ("V6__attribute_changes.sql", include_str!("../../../migrations/tenant/V6__attribute_changes.sql")),
    ("V7__overview.sql", include_str!("../../../migrations/tenant/V7__overview.sql")),
];

/// A tenant of the demo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    /// People in its database; their ids are 1 to this.
    pub(crate) people: i64,
}

impl Tenant {
    /// Past events in its database.
    pub(crate) fn events(&self) -> i64 {
        self.people * EVENTS_EACH
    }
}

/// Makes tenants on the shared servers; the first one is to be the heaviest.
pub(crate) async fn provision(site: &Site, count: u32) -> anyhow::Result<Vec<Tenant>> {
    eprintln!("making {count} tenants");
    let mut tenants = Vec::new();
    let mut operations = Vec::new();
    for number in 1..=count {
        let people = if number == 1 { PEOPLE_OF_THE_HEAVIEST } else { PEOPLE };
        let id = if number == 1 { "heavy".to_owned() } else { format!("account-{number}") };
        let labels = json!({ "plan": if number == 1 { "enterprise" } else { "standard" } });
        let body = json!({ "id": id, "class": "shared", "labels": labels });
        let answer = site.api.post(&["v1", "tenants"], &body).await?;
        operations.push(wait::operation_number(&answer)?.to_string());
        tenants.push(Tenant { id, people });
    }
    for operation in &operations {
        let awaited = Awaited {
            path: &["v1", "operations", operation],
            what: "making a tenant",
            ended: &|answer| text(answer, "state") != "running",
            text: &|_| String::new(),
            timeout: PROVISION_TIMEOUT,
            poll: wait::POLL,
        };
        let answer = wait::until(&site.api, &awaited).await?;
        if text(&answer, "state") != "done" {
            let message = format!("making tenant {}: {}", text(&answer, "tenant"), text(&answer, "error"));
            return Err(Failure::failed(message).into());
        }
    }
    Ok(tenants)
}

/// Brings all of them to the newest schema.
pub(crate) async fn migrate(site: &Site) -> anyhow::Result<()> {
    let files: Vec<Value> =
        MIGRATIONS.iter().map(|(name, sql)| json!({ "name": name, "sql": sql })).collect();
    let body = json!({
        "files": files, "selector": "*", "canary": 1, "waves": [25, 100], "per_server": 2, "max_failures": 0,
        "lock_timeout_ms": 2000,
    });
    let run = site.api.post(&["v1", "migrations"], &body).await?;
    let id = run["id"].as_i64().context("the migration run has no number")?;
    let run = migrate::wait_for_run(&site.api, id, MIGRATE_TIMEOUT).await?;
    if text(&run, "state") == "done" && run["failed"] == 0 {
        return Ok(());
    }
    Err(Failure::failed(format!("the migration run is {}: {}", text(&run, "state"), run["failures"])).into())
}

/// Loads people and past events, through the router.
pub(crate) async fn fill(site: &Site, tenants: &[Tenant]) -> anyhow::Result<()> {
    eprintln!("loading data");
    for tenant in tenants {
        let filling = fill_one(site, tenant);
        let outcome =
            tokio::time::timeout(FILL_TIMEOUT, filling).await.context("it takes too long").flatten();
        outcome.with_context(|| format!("loading data of {}", tenant.id))?;
    }
    Ok(())
}

async fn fill_one(site: &Site, tenant: &Tenant) -> anyhow::Result<()> {
    const PEOPLE_SQL: &str = "
        INSERT INTO people (external_id, email, full_name, attributes)
        SELECT 'person-' || i, 'person-' || i || '@example.com', 'Person ' || i, '{\"visits\": 0}'
        FROM generate_series(1, $1::bigint) i";
    const EVENTS_SQL: &str = "
        INSERT INTO activity (person_id, kind, name, amount, occurred_at)
        SELECT 1 + i % $1::bigint, 'event', 'signup', (i % 1000) / 100.0, now() - i % 40000 * interval '1 minute'
        FROM generate_series(1, $2::bigint) i";
    let client = site.through_router(&tenant.id).await?;
    client.execute(PEOPLE_SQL, &[&tenant.people]).await.context("people")?;
    client.execute(EVENTS_SQL, &[&tenant.people, &tenant.events()]).await.context("activity")?;
    Ok(())
}

/// Where a tenant lives.
pub(crate) async fn server_of(site: &Site, tenant: &str) -> anyhow::Result<String> {
    let tenant = site.api.get(&["v1", "tenants", tenant]).await?;
    Ok(text(&tenant, "server").to_owned())
}

/// The dedicated server.
pub(crate) async fn dedicated(site: &Site) -> anyhow::Result<String> {
    let servers = site.api.list(&["v1", "servers"], &[]).await?;
    let found = servers.as_array().into_iter().flatten().find(|server| server["class"] == "dedicated");
    found.map(|server| text(server, "name").to_owned()).context("the fleet has no dedicated server")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_holds_every_migration_of_the_example() {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        names.sort();
        assert_eq!(names, MIGRATIONS.map(|(name, _)| name));
    }
}
