//! The life of a tenant: made, copied, suspended, resumed, renamed, deleted, brought back; a file for each verb.
//!
//! Each is an operation of named steps whose deeds look at what is there and can all be repeated, so one that was cut
//! short is simply done again from its first step. What a verb can't bring to its end it undoes, or leaves as it stands
//! with the reason on record; it leaves nothing behind that no record accounts for.

mod clone;
mod create;
mod delete;
mod dump;
mod rename;
mod resume;
mod steps;
mod suspend;
mod unclaimed;
mod undelete;

use std::time::{Duration, Instant};

use shard_map::{Server, Tenant, TenantId, TenantState};

use crate::context::Work;
use crate::error::{Error, Result};
use crate::moves;
use crate::server::doom::{self, Doomed};
use crate::server::{Connection, database, registry, roles};

pub(crate) use clone::clone_tenant;
pub(crate) use create::{create, undo_create};
pub(crate) use delete::delete;
pub(crate) use dump::Dumps;
pub(crate) use rename::{rename, undo_rename};
pub(crate) use resume::resume;
pub(crate) use suspend::suspend;
pub(crate) use unclaimed::ask_servers;
pub(crate) use undelete::undelete;

use steps::Steps;

/// How long a tenant's running transactions may go on after it was suspended or deleted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether they have ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// A tenant, its server, and that server's registry.
struct Place {
    tenant: Tenant,
    server: Server,
    registry: Connection,
}

impl Place {
    /// Where the operation's tenant lives.
    async fn find(work: &Work) -> Result<Self> {
        Self::of(work, tenant_of(work)?).await
    }

    /// Where a tenant lives.
    async fn of(work: &Work, id: &TenantId) -> Result<Self> {
        let tenant = work.context.catalog.tenant(id).await?.tenant;
        let server = work.context.server(&tenant.server).await?;
        let registry = work.context.connector.registry(&server).await?;
        Ok(Self { tenant, server, registry })
    }

    /// Where a tenant lives; `None` when the catalog does not have it.
    async fn if_there(work: &Work, id: &TenantId) -> Result<Option<Self>> {
        match if_known(work.context.catalog.tenant(id).await)? {
            Some(_) => Self::of(work, id).await.map(Some),
            None => Ok(None),
        }
    }
}

/// What was found, if the catalog has it.
fn if_known<T>(found: catalog::Result<T>) -> Result<Option<T>> {
    match found {
        Err(catalog::Error::NotFound(_)) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// A program's complaint may come of a server that was away for a moment, and then the step is worth another try. If these
/// servers answer, it is not.
async fn unless_it_is_the_servers(work: &Work, servers: &[&Server], outcome: Result<()>) -> Result<()> {
    if let Err(Error::Program(complaint)) = outcome {
        for server in servers {
            work.context.connector.registry(server).await?;
        }
        return Err(Error::Failed(complaint));
    }
    outcome
}

/// Whom the operation is about.
fn tenant_of(work: &Work) -> Result<&TenantId> {
    let tenant = work.operation.tenant.as_ref();
    tenant.ok_or_else(|| Error::Failed("the operation names no tenant".into()))
}

/// Changes the tenant's record on its server; a record that is already so is fine.
async fn record(work: &Work, place: &Place, from: &[Option<&str>], to: &str, database: &str) -> Result<()> {
    let tenant = &place.tenant;
    let from = [from, &[Some(to)]].concat();
    let change = change(tenant, &from, to, database);
    if registry::write(&place.registry, work.term, &change).await? {
        return Ok(());
    }
    let found = registry::read(&place.registry, &tenant.id).await?;
    Err(Error::Failed(format!(
        "server {} has tenant {} on record as {found:?}",
        place.server.name, tenant.id
    )))
}

/// Changes the record and the database's name, in one transaction: a controller that leads no more does neither.
async fn record_and_rename(
    work: &Work,
    place: &Place,
    from: &[Option<&str>],
    to: &str,
    (name, new_name): (&str, &str),
) -> Result<()> {
    let from = [from, &[Some(to)]].concat();
    let change = change(&place.tenant, &from, to, new_name);
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    moves::record_and_rename(work, &place.registry, &change, name, deadline).await
}

fn change<'a>(
    tenant: &'a Tenant,
    from: &'a [Option<&'a str>],
    to: &'a str,
    database: &'a str,
) -> registry::Change<'a> {
    registry::Change { tenant: &tenant.id, from, to, database, epoch: tenant.epoch, moved_to: None }
}

/// Lets the tenant's clients in: the server first, then the routers.
async fn open(work: &Work, place: &Place, from: &[Option<&str>]) -> Result<()> {
    let id = &place.tenant.id;
    record(work, place, from, "open", id.live_database()).await?;
    database::set_limit(&place.registry, work.term, id.live_database(), -1).await?;
    Ok(work.context.catalog.set_tenant_state(id, TenantState::Open, work.term).await?)
}

/// Lets nobody in any more: first at the routers, then, when running transactions had their time, at the server.
async fn close(work: &Work, place: &Place, steps: &mut Steps<'_>, state: TenantState) -> Result<()> {
    let (id, registry) = (&place.tenant.id, &place.registry);
    let live = id.live_database();
    steps
        .run("refuse", async {
            registry::raise_term(registry, work.term).await?;
            Ok(work.context.catalog.set_tenant_state(id, state, work.term).await?)
        })
        .await?;
    steps.run("drain", drain(registry, live)).await?;
    steps.run("close", shut(work, registry, live)).await
}

/// Waits for what is running in a database, for as long as that may take.
async fn drain(registry: &Connection, database: &str) -> Result<()> {
    const BUSY: &str = "
        SELECT count(*) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND backend_type = 'client backend' AND state NOT IN ('idle', 'disabled')
            AND pid <> pg_catalog.pg_backend_pid()";
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    while registry.value::<i64>(BUSY, &[&database]).await? > 0 && Instant::now() < deadline {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    Ok(())
}

/// Lets no role but superusers into a database, and ends who is in it. One that is not there is fine.
async fn shut(work: &Work, registry: &Connection, database: &str) -> Result<()> {
    if !database::exists(registry, database).await? {
        return Ok(());
    }
    database::set_limit(registry, work.term, database, 0).await?;
    database::terminate(registry, database, None, Instant::now() + database::TERMINATE_TIMEOUT).await
}

/// Removes a tenant for good: database (which may be on record in this state), roles, record, and its place in the map.
async fn remove(work: &Work, place: &Place, (database, state): (&str, &str)) -> Result<()> {
    let id = &place.tenant.id;
    let doomed = Doomed { tenant: id, database, state: Some(state) };
    doom::remove(&place.registry, work.term, doomed).await?;
    roles::drop_tenant_roles(&place.registry, work.term, id).await?;
    registry::remove(&place.registry, work.term, id, &["open", "leaving"]).await?;
    Ok(work.context.catalog.remove_tenant(id, work.term).await?)
}

/// Ends an operation whose deeds were undone, with the reason that was remembered before that.
async fn end_undone(work: &Work) -> Result<()> {
    let operation = work.context.catalog.operation(work.operation.id).await?;
    let why = operation.data.get("failure").and_then(|why| why.as_str()).unwrap_or("it was undone");
    work.set_state("failed", Some(why)).await
}
