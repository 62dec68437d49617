//! The life of a tenant: made, suspended, resumed, deleted, brought back. Each is an operation whose deeds can all be
//! repeated, so one that was cut short is simply done again from its first step.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use shard_map::{Server, Tenant, TenantId, TenantState};

use crate::context::Work;
use crate::error::{Error, Result};
use crate::fleet;
use crate::moves;
use crate::server::{Connection, database, registry, roles};

/// How long a tenant's running transactions may go on after it was suspended or deleted.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A tenant, its server, and that server's registry.
struct Place {
    tenant: Tenant,
    server: Server,
    registry: Connection,
}

async fn find(work: &Work) -> Result<Place> {
    let id = work
        .operation
        .tenant
        .as_ref()
        .ok_or_else(|| Error::Failed("the operation names no tenant".into()))?;
    let tenant = work.context.catalog.tenant(id).await?.tenant;
    let server = work.context.server(&tenant.server).await?;
    let registry = work.context.connector.registry(&server).await?;
    Ok(Place { tenant, server, registry })
}

/// Changes the tenant's record on its server; a record that is already so is fine.
async fn record(work: &Work, place: &Place, from: &[Option<&str>], to: &str, database: &str) -> Result<()> {
    let tenant = &place.tenant;
    let mut from = from.to_vec();
    from.push(Some(to));
    let change = registry::Change {
        tenant: &tenant.id,
        from: &from,
        to,
        database,
        epoch: tenant.epoch,
        moved_to: None,
    };
    if registry::write(&place.registry, work.term, &change).await? {
        return Ok(());
    }
    let found = registry::read(&place.registry, &tenant.id).await?;
    Err(Error::Failed(format!(
        "server {} has tenant {} on record as {found:?}",
        place.server.name, tenant.id
    )))
}

/// Makes a tenant's database.
pub(crate) async fn create(work: &Work) -> Result<()> {
    let place = find(work).await?;
    let (id, server) = (&place.tenant.id, &place.server);
    let live = id.live_database();

    claim(work, &place).await?;
    work.begin("roles", "done").await?;
    roles::put_tenant_roles(&place.registry, &work.context.key, id, place.tenant.key_version).await?;

    work.begin("database", "done").await?;
    database::create(&place.registry, live, 0).await?;
    database::grant(&place.registry, live, id).await?;

    work.begin("schema", "done").await?;
    let connection = work.context.connector.database(server, live).await?;
    database::grant_schema(&connection, id).await?;
    connection.close().await;
    let version = fleet::apply_fleet_schema(&work.context, server, &place.tenant).await?;
    work.context.catalog.set_schema_version(id, version, work.term).await?;

    work.begin("open", "done").await?;
    record(work, &place, &[None, Some("sealed")], "open", live).await?;
    database::set_limit(&place.registry, work.term, live, -1).await?;
    work.context.catalog.set_tenant_state(id, TenantState::Open, work.term).await?;
    work.set_state("done", None).await
}

/// Makes sure that nobody else's database or record has this name, and writes down that from now on what has it was
/// made here: only that may be removed if the creation fails.
async fn claim(work: &Work, place: &Place) -> Result<()> {
    work.begin("claim", "").await?;
    registry::raise_term(&place.registry, work.term).await?;
    if is_claimed(work).await? {
        return Ok(());
    }
    let id = &place.tenant.id;
    let record = registry::read(&place.registry, id).await?;
    // A sealed record is what an earlier tenant of this name left when it moved away.
    let on_record = record.is_some_and(|record| record.state != "sealed");
    if on_record || database::exists(&place.registry, id.live_database()).await? {
        let message = format!("server {} has a database or a record of {id} already", place.server.name);
        return Err(Error::refused(message, "choose another id, or find out whose it is"));
    }
    work.remember(&json!({ "claimed": true })).await
}

async fn is_claimed(work: &Work) -> Result<bool> {
    let operation = work.context.catalog.operation(work.operation.id).await?;
    Ok(operation.data.get("claimed") == Some(&json!(true)))
}

/// Removes what a creation that can't go on has made, and nothing else.
pub(crate) async fn undo_create(work: &Work, error: &Error) -> Result<()> {
    let place = find(work).await?;
    if place.tenant.state != TenantState::Creating {
        // It was opened before the error came: it serves.
        return work.set_state("done", None).await;
    }
    work.begin("undo", &error.to_string()).await?;
    if is_claimed(work).await? {
        remove(work, &place, place.tenant.id.live_database()).await?;
    } else {
        work.context.catalog.remove_tenant(&place.tenant.id, work.term).await?;
    }
    work.set_state("failed", Some(&error.to_string())).await
}

/// Refuses a tenant's connections, and keeps everything else.
pub(crate) async fn suspend(work: &Work) -> Result<()> {
    let place = find(work).await?;
    close(work, &place, TenantState::Suspended).await?;
    record(work, &place, &[Some("open")], "suspended", place.tenant.id.live_database()).await?;
    work.set_state("done", None).await
}

/// Lets a suspended tenant's connections in again. Its roles get their passwords anew: whoever is logged in as one of them
/// may have changed it, which keeps the routers out.
pub(crate) async fn resume(work: &Work) -> Result<()> {
    let place = find(work).await?;
    let key_version = place.tenant.key_version;
    work.begin("roles", "").await?;
    roles::put_tenant_roles(&place.registry, &work.context.key, &place.tenant.id, key_version).await?;
    work.begin("open", "").await?;
    open(work, &place, "suspended").await
}

/// Puts a tenant's database aside, or drops it when `now` was asked for or its grace time is over.
pub(crate) async fn delete(work: &Work) -> Result<()> {
    let place = find(work).await?;
    let id = &place.tenant.id;
    let aside = id.deleted_database();
    close(work, &place, TenantState::Deleted).await?;
    work.begin("put_aside", "done").await?;
    database::rename(&place.registry, id.live_database(), &aside).await?;
    record(work, &place, &[Some("open"), Some("suspended")], "leaving", &aside).await?;
    if work.operation.input.get("now").and_then(Value::as_bool) == Some(true) {
        work.begin("drop", "done").await?;
        moves::finish_earlier(work, id, None).await?;
        remove(work, &place, &aside).await?;
    }
    work.set_state("done", None).await
}

/// Brings a deleted tenant back.
pub(crate) async fn undelete(work: &Work) -> Result<()> {
    let place = find(work).await?;
    let id = &place.tenant.id;
    work.begin("open", "").await?;
    database::rename(&place.registry, &id.deleted_database(), id.live_database()).await?;
    open(work, &place, "leaving").await
}

async fn open(work: &Work, place: &Place, from: &str) -> Result<()> {
    let id = &place.tenant.id;
    record(work, place, &[Some(from)], "open", id.live_database()).await?;
    database::set_limit(&place.registry, work.term, id.live_database(), -1).await?;
    work.context.catalog.set_tenant_state(id, TenantState::Open, work.term).await?;
    work.set_state("done", None).await
}

/// Lets nobody in any more: first at the routers, then, when running transactions had their time, at the server.
async fn close(work: &Work, place: &Place, state: TenantState) -> Result<()> {
    let id = &place.tenant.id;
    work.begin("refuse", "").await?;
    registry::raise_term(&place.registry, work.term).await?;
    work.context.catalog.set_tenant_state(id, state, work.term).await?;
    work.begin("drain", "done").await?;
    let live = id.live_database();
    let deadline = Instant::now() + DRAIN_TIMEOUT;
    const BUSY: &str = "
        SELECT count(*) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND state NOT IN ('idle', 'disabled') AND pid <> pg_catalog.pg_backend_pid()";
    while place.registry.value::<i64>(BUSY, &[&live]).await? > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    work.begin("close", "done").await?;
    if database::exists(&place.registry, live).await? {
        database::set_limit(&place.registry, work.term, live, 0).await?;
        database::terminate(&place.registry, live, None, Instant::now() + database::TERMINATE_TIMEOUT)
            .await?;
    }
    Ok(())
}

/// Removes a tenant for good: database, roles, record, and its place in the map.
async fn remove(work: &Work, place: &Place, database: &str) -> Result<()> {
    let id: &TenantId = &place.tenant.id;
    registry::raise_term(&place.registry, work.term).await?;
    database::drop(&place.registry, database).await?;
    roles::drop_tenant_roles(&place.registry, id).await?;
    registry::remove(&place.registry, work.term, id, &["open", "leaving"]).await?;
    Ok(work.context.catalog.remove_tenant(id, work.term).await?)
}
