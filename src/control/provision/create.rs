//! `create`: a tenant's database is made. One that can't be made leaves nothing.

use serde_json::json;
use shard_map::TenantState;

use super::{Place, Steps, open, remove};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::fleet;
use crate::server::{database, registry, roles};

/// Makes a tenant's database.
pub(crate) async fn create(work: &Work) -> Result<()> {
    let place = Place::find(work).await?;
    let (id, registry) = (&place.tenant.id, &place.registry);
    let mut steps = Steps::of(work);
    steps.run("claim", claim(work, &place)).await?;
    let put_roles = roles::put_tenant_roles(registry, &work.context.key, id, place.tenant.key_version);
    steps.run("roles", put_roles).await?;
    let make_database = async {
        database::create(registry, id.live_database(), 0).await?;
        database::grant(registry, id.live_database(), id).await
    };
    steps.run("database", make_database).await?;
    steps.run("schema", make_schema(work, &place)).await?;
    steps.run("open", open(work, &place, &[None, Some("sealed")])).await?;
    work.set_state("done", None).await
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
async fn claim(work: &Work, place: &Place) -> Result<()> {
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
    let place = Place::find(work).await?;
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
