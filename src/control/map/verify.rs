//! Looks for differences while the fleet goes on working.
//!
//! Catalog and servers can't be read at one moment. So the catalog is read before and after the servers: what is
//! different from both and did not change in between is different indeed.

use std::collections::HashSet;

use shard_map::TenantId;
use shard_map::recovery::{CatalogView, Finding, Kind, OperationView, Seen, Sources, Survey, find};

use super::{MapTools, survey};
use crate::error::Result;

pub(super) async fn verify(tools: &MapTools, sources: &Sources, at_once: usize) -> Result<Vec<Finding>> {
    let before = view(tools, &[]).await?;
    let survey = survey::look(&tools.connector, sources.servers(&before), at_once).await;
    let after = view(tools, &move_numbers(&survey)).await?;
    Ok(confirmed(&before, &after, &survey))
}

/// The catalog; an empty one where there is none.
pub(super) async fn view(tools: &MapTools, numbers: &[i64]) -> Result<CatalogView> {
    if let Some(url) = &tools.url
        && !catalog::Catalog::database_exists(url).await?
    {
        return Ok(CatalogView::default());
    }
    Ok(tools.catalog.recovery_view(numbers).await?)
}

/// Numbers of moves that servers show: the catalog may have given them to something else.
pub(super) fn move_numbers(survey: &Survey) -> Vec<i64> {
    let registries = survey.values().filter_map(|seen| match seen {
        Seen::Registry(registry) => Some(registry),
        Seen::Unreachable(_) => None,
    });
    registries.flat_map(|registry| registry.moves.keys().copied()).collect()
}

fn confirmed(before: &CatalogView, after: &CatalogView, survey: &Survey) -> Vec<Finding> {
    let key = |finding: &Finding| {
        (finding.kind, finding.server.clone(), finding.tenant.clone(), finding.database.clone())
    };
    let earlier: HashSet<_> = find(before, survey).iter().map(key).collect();
    let mut findings = find(after, survey);
    findings.retain(|finding| {
        let changed = finding.tenant.as_ref().is_some_and(|id| has_changed(before, after, id));
        earlier.contains(&key(finding)) && (!changed || finding.kind == Kind::TwoClaims)
    });
    findings
}

fn has_changed(before: &CatalogView, after: &CatalogView, id: &TenantId) -> bool {
    let open = |view: &CatalogView| -> Vec<OperationView> {
        let of_tenant = view.operations.values().filter(|o| o.tenant.as_ref() == Some(id));
        of_tenant.filter(|o| o.state == "running" || o.state == "switched").cloned().collect()
    };
    before.tenants.get(id) != after.tenants.get(id) || open(before) != open(after)
}
