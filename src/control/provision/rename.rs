//! `rename`: a tenant gets another id, and with it its database and roles other names.
//!
//! On its server all of it is one transaction: the record, the database, the roles, and their passwords, which are derived
//! from the id. Before it the rename can be undone, and clients that were held notice nothing; from its commit on there is
//! only forward. Nobody is led from the old id to the new one: who asks for the old one is told that it does not exist.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use shard_map::{Access, Epoch, Server, Tenant, TenantId, TenantState};

use super::create::is_claimed;
use super::{DRAIN_TIMEOUT, Steps, end_undone, if_known, shut};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::moves::fence;
use crate::server::{Connection, database, ident, registry, roles};

/// How long clients are held at most without the rename being done: a router asks the server's registry then.
const HOLD_LEASE: Duration = Duration::from_secs(20);
/// How often it is looked whether every router reports, before clients are held.
const ROUTER_POLL: Duration = Duration::from_millis(200);

#[derive(Deserialize)]
struct Input {
    from: TenantId,
    to: TenantId,
}

/// A rename, with what is known of both ids.
struct Rename {
    from: TenantId,
    to: TenantId,
    /// As the catalog has it under the id that counts there.
    tenant: Tenant,
    epoch: Epoch,
    server: Server,
    registry: Connection,
    /// Whether it has its new id in the catalog.
    is_placed: bool,
    /// Whether it has its new id on its server.
    is_renamed: bool,
}

impl Rename {
    /// Looks at catalog and registry. `None`: the new id is reserved no more, so this was undone.
    async fn find(work: &Work) -> Result<Option<Self>> {
        let input: Input = serde_json::from_value(work.operation.input.clone())
            .map_err(|e| Error::Failed(format!("rename {} can't be read: {e}", work.operation.id)))?;
        let Input { from, to } = input;
        let catalog = &work.context.catalog;
        let Some(reserved) = if_known(catalog.tenant(&to).await)? else { return Ok(None) };
        let epoch = reserved.tenant.epoch;
        let is_placed = reserved.tenant.state != TenantState::Creating;
        let tenant = if is_placed { reserved.tenant } else { catalog.tenant(&from).await?.tenant };
        let server = work.context.server(&tenant.server).await?;
        let registry = work.context.connector.registry(&server).await?;
        registry::raise_term(&registry, work.term).await?;
        let record = registry::read(&registry, &to).await?;
        let is_here = record.is_some_and(|record| matches!(record.state.as_str(), "open" | "suspended"));
        let is_renamed = is_here && is_claimed(work).await?;
        Ok(Some(Self { from, to, tenant, epoch, server, registry, is_placed, is_renamed }))
    }
}

/// Gives a tenant another id.
pub(crate) async fn rename(work: &Work) -> Result<()> {
    let Some(rename) = Rename::find(work).await? else { return end_undone(work).await };
    let mut steps = Steps::of(work);
    if !rename.is_renamed && !rename.is_placed {
        steps.run("claim", claim(work, &rename)).await?;
        steps.run("hold", hold(work, &rename)).await?;
        steps.run("close", shut(work, &rename.registry, rename.from.live_database())).await?;
        steps.run("rename", rename_there(work, &rename)).await?;
    }
    let place = async { Ok(work.context.catalog.rename_tenant(&rename.from, &rename.to, work.term).await?) };
    steps.run("place", place).await?;
    work.set_state("done", None).await
}

/// Makes sure that no server has anything of the new id, and writes down that from now on what has it was made here.
async fn claim(work: &Work, rename: &Rename) -> Result<()> {
    if is_claimed(work).await? {
        return Ok(());
    }
    let id = &rename.to;
    let names =
        vec![id.as_str().to_owned(), id.arriving_database(), id.sealed_database(), id.deleted_database()];
    let roles: Vec<String> = Access::ALL.map(|access| access.role(id)).into();
    const TAKEN: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = ANY ($1))
            OR EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = ANY ($2))";
    for row in work.context.catalog.servers().await? {
        let server = row.server;
        let registry = work.context.connector.registry(&server).await?;
        let record = registry::read(&registry, id).await?;
        // A sealed record without a database is what an earlier tenant of this name left when it moved away.
        let on_record = record.is_some_and(|record| record.state != "sealed");
        if on_record || registry.value(TAKEN, &[&names, &roles]).await? {
            let message = format!("server {} has a database, roles or a record of {id} already", server.name);
            return Err(Error::refused(message, "choose another id, or find out whose it is"));
        }
    }
    work.remember(&json!({ "claimed": true })).await
}

/// Lets running transactions end and new ones wait. Those that take too long are ended with their sessions.
async fn hold(work: &Work, rename: &Rename) -> Result<()> {
    if rename.tenant.state != TenantState::Open {
        return Ok(());
    }
    wait_for_routers(work).await?;
    let drained = async {
        let hold = fence::announce(work, &rename.from, (Duration::ZERO, HOLD_LEASE)).await?;
        fence::drained(&work.context, hold, Instant::now() + DRAIN_TIMEOUT).await
    };
    match drained.await {
        Err(error @ Error::Timeout(_)) => {
            tracing::warn!(operation = work.operation.id, %error, "not everybody could be waited for");
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

/// A router that just died would keep every client waiting for the hold's whole time, which then cuts them off. It is
/// waited for without one, until it is back or given up.
async fn wait_for_routers(work: &Work) -> Result<()> {
    let lost_after = work.context.config.router_lost_after;
    let deadline = Instant::now() + lost_after + ROUTER_POLL;
    while let Some(silent) = fence::silent_router(&work.context, lost_after).await? {
        if Instant::now() >= deadline {
            return Err(Error::Timeout(silent));
        }
        tokio::time::sleep(ROUTER_POLL).await;
    }
    Ok(())
}

/// All that is done on the server, at one go. Whoever slips into the database meanwhile is ended.
async fn rename_there(work: &Work, rename: &Rename) -> Result<()> {
    let registry = &rename.registry;
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    loop {
        match rename_at_once(work, rename).await {
            Err(error) if error.sqlstate() == Some("55006") && Instant::now() < deadline => {
                registry.run("ROLLBACK").await?;
                database::terminate(registry, rename.from.live_database(), None, deadline).await?;
            }
            Err(error) => {
                drop(registry.run("ROLLBACK").await);
                return Err(error);
            }
            Ok(()) => return Ok(()),
        }
    }
}

async fn rename_at_once(work: &Work, rename: &Rename) -> Result<()> {
    let Rename { from, to, tenant, registry, .. } = rename;
    let is_open = tenant.state == TenantState::Open;
    let change = registry::Change {
        tenant: to,
        from: &[None, Some("sealed")],
        to: if is_open { "open" } else { "suspended" },
        database: to.live_database(),
        epoch: rename.epoch,
        moved_to: None,
    };
    registry.run("BEGIN").await?;
    let states: &[&str] = if is_open { &["open"] } else { &["suspended"] };
    if !registry::remove(registry, work.term, from, states).await?
        || !registry::write(registry, work.term, &change).await?
    {
        let found = (registry::read(registry, from).await?, registry::read(registry, to).await?);
        return Err(Error::Failed(format!("server {} has {from}, {to} as {found:?}", rename.server.name)));
    }
    database::rename(registry, from.live_database(), to.live_database()).await?;
    for access in Access::ALL {
        let (old, new) = (ident(&access.role(from)), ident(&access.role(to)));
        registry.run(&format!("ALTER ROLE {old} RENAME TO {new}")).await?;
    }
    // The passwords are derived from the id.
    roles::put_tenant_roles(registry, &work.context.key, to, tenant.key_version).await?;
    let limit = if is_open { -1 } else { 0 };
    database::set_limit(registry, work.term, to.live_database(), limit).await?;
    registry.run("COMMIT").await
}

/// Puts things back that can't go on; past its commit on the server a rename goes on.
pub(crate) async fn undo_rename(work: &Work, error: &Error) -> Result<()> {
    let Some(undone) = Rename::find(work).await? else { return end_undone(work).await };
    if undone.is_renamed || undone.is_placed {
        return rename(work).await;
    }
    work.remember(&json!({ "failure": error.to_string() })).await?;
    let mut steps = Steps::of(work);
    let put_back = async {
        let live = undone.from.live_database();
        if undone.tenant.state == TenantState::Open && database::exists(&undone.registry, live).await? {
            database::set_limit(&undone.registry, work.term, live, -1).await?;
        }
        work.context.catalog.release_hold(&undone.from, work.term).await?;
        Ok(work.context.catalog.remove_tenant(&undone.to, work.term).await?)
    };
    steps.run("undo", put_back).await?;
    end_undone(work).await
}
