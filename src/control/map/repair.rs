//! Carries changes of the map out, so that whatever interrupts it does no harm.
//!
//! 1. The servers are fenced: every registry sees a term that is higher than any, so no controller can change them any
//!    more, and what one had begun has ended. The catalog does not have this term yet: killed here, nothing can be
//!    changed by anybody, and the repair is simply done again.
//!    A registry that was lost is made first, empty, to be told.
//! 2. The servers are read once more, the catalog is locked and read, and it is decided anew what is to be done.
//! 3. Registries get the records that they lost, and the catalog's epochs where they are behind; the catalog is written,
//!    with the term, in one transaction.
//!
//! After that the lease is free, and whichever control plane takes it leads under a term that no server has passed.

use catalog::{Catalog, Writing};
use shard_map::recovery::{CatalogView, Changes, Finding, Seen, Survey};
use shard_map::{Server, ServerName};

use super::{MapTools, Outcome, survey, verify};
use crate::error::Result;
use crate::failpoint;
use crate::server::{arm, registry};

/// What was decided.
pub(super) struct Decision {
    pub(super) changes: Changes,
    pub(super) left: Vec<Finding>,
    pub(super) notes: Vec<String>,
}

/// How it is carried out.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// Whether it is, or only told.
    pub(super) write: bool,
    /// Whether placements may change: then the servers must not meanwhile.
    pub(super) fenced: bool,
}

type Decide<'a> = dyn Fn(&CatalogView, &Survey) -> Result<Decision> + Send + Sync + 'a;
type Servers<'a> = dyn Fn(&CatalogView) -> Vec<Server> + Send + Sync + 'a;

pub(super) async fn carry_out(
    tools: &MapTools,
    servers: &Servers<'_>,
    decide: &Decide<'_>,
    how: How,
) -> Result<Outcome> {
    let before = verify::view(tools, &[]).await?;
    let seen = survey::look(&tools.connector, servers(&before), survey::COMMAND_SERVERS_AT_ONCE).await;
    let before = verify::view(tools, &verify::move_numbers(&seen)).await?;
    let decision = decide(&before, &seen)?;
    if !how.write || decision.changes.is_empty() {
        return Ok(outcome(&before, decision, how.write));
    }
    if let Some(url) = &tools.url {
        Catalog::create_database(url).await?;
        tools.catalog.migrate().await?;
        failpoint::reach("map_prepared").await;
    }
    // Held to the end.
    let mut repair = tools.catalog.repair().await?;
    let (seen, term) = match how.fenced {
        true => {
            let (term, known) = fence_of(&before, &decision.changes, &seen);
            make_registries(tools, servers(&before), &decision.changes, term).await?;
            failpoint::reach("map_registries").await;
            let mut fenced = survey::fence(&tools.connector, servers(&before), (term, &known)).await;
            failpoint::reach("map_fenced").await;
            forget_fence(&mut fenced, &seen, term);
            (fenced, Some(term))
        }
        false => (seen, None),
    };
    let opened = repair.open().await?;
    let before = opened.view(&verify::move_numbers(&seen)).await?;
    let decision = decide(&before, &seen)?;
    if let Some(term) = term {
        let servers = servers(&before);
        write_records(tools, &servers, (&decision.changes, term)).await?;
        failpoint::reach("map_records").await;
        raise_epochs(tools, &servers, (&decision.changes, term)).await?;
        failpoint::reach("map_raised").await;
    }
    opened.write(&decision.changes, Writing { term, keep_sealed_s: tools.keep_sealed_s }).await?;
    failpoint::reach("map_written").await;
    opened.commit().await?;
    failpoint::reach("map_done").await;
    Ok(outcome(&before, decision, true))
}

fn outcome(catalog: &CatalogView, decision: Decision, applied: bool) -> Outcome {
    let Decision { changes, left, notes } = decision;
    Outcome { applied, steps: changes.steps(catalog), left, notes }
}

/// A term that is higher than any, and the servers to tell it: this fleet's.
fn fence_of(catalog: &CatalogView, changes: &Changes, seen: &Survey) -> (i64, Vec<ServerName>) {
    let fleet = changes.fleet.as_ref().or(catalog.fleet.as_ref());
    let mut term = catalog.term;
    let mut known = Vec::new();
    for (name, seen) in seen {
        if let Seen::Registry(registry) = seen
            && registry.fleet.as_ref().is_none_or(|theirs| Some(theirs) == fleet)
        {
            term = term.max(registry.term);
            known.push(name.clone());
        }
    }
    (term + 1, known)
}

/// Puts the terms back that servers had seen before the fence: whether the catalog is behind them is decided by those. And
/// what their registries had lost: its records are still to be put back.
fn forget_fence(fenced: &mut Survey, before: &Survey, term: i64) {
    for (name, seen) in fenced {
        if let (Seen::Registry(now), Some(Seen::Registry(before))) = (seen, before.get(name))
            && now.term == term
        {
            now.term = before.term;
            now.lacks = before.lacks;
        }
    }
}

async fn make_registries(tools: &MapTools, servers: Vec<Server>, changes: &Changes, term: i64) -> Result<()> {
    for server in servers.into_iter().filter(|server| changes.registries.contains(&server.name)) {
        let fleet = match &changes.fleet {
            Some(fleet) => fleet.clone(),
            None => tools.catalog.identity().await?.fleet,
        };
        arm::make_registry(&tools.connector, &server, (&fleet, term)).await?;
    }
    Ok(())
}

async fn write_records(tools: &MapTools, servers: &[Server], (changes, term): (&Changes, i64)) -> Result<()> {
    for server in servers {
        let Some(records) = changes.records.get(&server.name) else { continue };
        let address = |to: &ServerName| servers.iter().find(|s| s.name == *to).map(Server::address);
        let registry = tools.connector.registry(server).await?;
        registry::put_lost(&registry, term, records, address).await?;
    }
    Ok(())
}

async fn raise_epochs(tools: &MapTools, servers: &[Server], (changes, term): (&Changes, i64)) -> Result<()> {
    for server in servers {
        let Some(epochs) = changes.epochs.get(&server.name) else { continue };
        let registry = tools.connector.registry(server).await?;
        registry::raise_epochs(&registry, term, epochs).await?;
    }
    Ok(())
}
