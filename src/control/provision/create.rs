//! `create`: a tenant's database is made. One that can't be made leaves nothing.

use std::time::Instant;

use serde_json::json;
use shard_map::{Server, TenantId, TenantState};

use super::clone::end_readers;
use super::{Place, Steps, end_undone, open, remove, tenant_of};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::fleet;
use crate::server::doom::{self, Doomed};
use crate::server::stock::Claim;
use crate::server::{database, registry, roles, stock};

/// Makes a tenant's database.
pub(crate) async fn create(work: &Work) -> Result<()> {
    if from_stock(work).await? {
        return Ok(());
    }
    let place = Place::find(work).await?;
    let (id, registry) = (&place.tenant.id, &place.registry);
    let mut steps = Steps::of(work);
    steps.run("claim", claim(work, &place)).await?;
    let put_roles = roles::put_tenant_roles(registry, &work.context.key, id, place.tenant.key_version);
    steps.run("roles", put_roles).await?;
    let make_database = async {
        let place = Doomed { tenant: id, database: id.live_database(), state: None };
        doom::make(registry, work.term, place, 0).await?;
        database::grant(registry, id.live_database(), id).await
    };
    steps.run("database", make_database).await?;
    steps.run("schema", make_schema(work, &place)).await?;
    steps.run("open", open(work, &place, &[None, Some("sealed")])).await?;
    work.set_state("done", None).await
}

/// Claims a prepared database, if there is one. All that the claim changes is one transaction of the server's registry, so
/// there is nothing to undo when it failed, and a claim that is made again finds itself done.
async fn from_stock(work: &Work) -> Result<bool> {
    let context = &work.context;
    let tenant = context.catalog.tenant(tenant_of(work)?).await?.tenant;
    let verifiers = {
        let (key, tenant) = (context.key.clone(), tenant.clone());
        tokio::task::spawn_blocking(move || roles::verifiers(&key, &tenant.id, tenant.key_version))
    };
    let mark = async { Ok(context.catalog.fleet_schema_mark().await?) };
    let looked_up = tokio::try_join!(is_claimed(work), context.server(&tenant.server), mark);
    let (is_claimed, server, mark) = looked_up?;
    if is_claimed {
        // An earlier try has begun to make one.
        return Ok(false);
    }
    let (schema, version) = mark.map_or((None, None), |mark| (Some(mark.schema), mark.version));
    let registry = context.connector.warm_registry(&server).await?;
    if !registry::has_stock(&registry).await? {
        return Ok(false);
    }
    let verifiers = verifiers.await.map_err(|e| Error::Failed(e.to_string()))?;
    let mut steps = Steps::of(work);
    let claim = stock::claim(&registry, work.term, &tenant, schema.as_deref(), &verifiers);
    let claim = steps.run("claim_stock", claim).await?;
    context.connector.keep_warm(&server, registry);
    match claim {
        Claim::Done => {}
        Claim::None => return Ok(false),
        Claim::Taken => return Err(taken(&server, &tenant.id)),
    }
    context.catalog.finish_creation(&tenant.id, version, work.operation.id, work.term).await?;
    tracing::info!(operation = work.operation.id, tenant = %tenant.id, "made from the stock");
    context.stock_claimed.send_replace(Some(Instant::now()));
    context.stock_nudge.notify_one();
    Ok(true)
}

fn taken(server: &Server, id: &TenantId) -> Error {
    let message = format!("server {} has a database or a record of {id} already", server.name);
    Error::refused(message, "choose another id, or find out whose it is")
}

async fn make_schema(work: &Work, place: &Place) -> Result<()> {
    let (id, server) = (&place.tenant.id, &place.server);
    let connection = work.context.connector.database(server, id.live_database()).await?;
    database::grant_schema(&connection, id).await?;
    connection.close().await;
    let version = fleet::apply_fleet_schema(&work.context, server, &place.tenant).await?;
    Ok(work.context.catalog.set_schema_version(id, version, work.term).await?)
}

/// Makes sure that nobody else's database or record has this name, and writes down that from now on what has it was
/// made here: only that may be removed if the creation fails.
pub(super) async fn claim(work: &Work, place: &Place) -> Result<()> {
    registry::raise_term(&place.registry, work.term).await?;
    if is_claimed(work).await? {
        return Ok(());
    }
    let id = &place.tenant.id;
    let record = registry::read(&place.registry, id).await?;
    // A sealed record is what an earlier tenant of this name left when it moved away.
    let on_record = record.is_some_and(|record| record.state != "sealed");
    if on_record || database::exists(&place.registry, id.live_database()).await? {
        return Err(taken(&place.server, id));
    }
    work.remember(&json!({ "claimed": true })).await
}

pub(super) async fn is_claimed(work: &Work) -> Result<bool> {
    let operation = work.context.catalog.operation(work.operation.id).await?;
    Ok(operation.data.get("claimed") == Some(&json!(true)))
}

/// Removes what a creation that can't go on has made, and nothing else.
pub(crate) async fn undo_create(work: &Work, error: &Error) -> Result<()> {
    let id = tenant_of(work)?;
    let Some(place) = Place::if_there(work, id).await? else {
        // An earlier try of this undid all, and died before it could say so.
        return end_undone(work).await;
    };
    if place.tenant.state != TenantState::Creating {
        // It was opened before the error came: it serves.
        return work.set_state("done", None).await;
    }
    let is_claimed = is_claimed(work).await?;
    let record = registry::read(&place.registry, id).await?;
    if !is_claimed
        && record.is_some_and(|record| record.state == "open" && record.epoch == place.tenant.epoch)
    {
        // It was claimed from the stock before the error came: it is whole.
        let mark = work.context.catalog.fleet_schema_mark().await?;
        let version = mark.and_then(|mark| mark.version);
        let operation = work.operation.id;
        return Ok(work.context.catalog.finish_creation(id, version, operation, work.term).await?);
    }
    work.remember(&json!({ "failure": error.to_string() })).await?;
    let mut steps = Steps::of(work);
    let undo = async {
        end_readers(work).await?;
        match is_claimed {
            true => remove(work, &place, (id.live_database(), "open")).await,
            false => Ok(work.context.catalog.remove_tenant(id, work.term).await?),
        }
    };
    steps.run("undo", undo).await?;
    end_undone(work).await
}
