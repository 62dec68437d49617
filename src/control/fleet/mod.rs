//! Schema over the fleet: refinery's migrations, run in every tenant's database as its owner role, in waves, a bounded
//! number at once on each server.

mod alone;
pub(crate) mod examine;
pub(crate) mod files;
mod history;
mod lanes;
mod plan;
pub(crate) mod run;
mod script;
mod shown;
pub(crate) mod survey;
pub(crate) mod tenant;
mod throttle;
mod trial;
mod turn;
pub(crate) mod waves;

use shard_map::{Server, Tenant};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::Connection;
use files::{Input, Migrations};
pub(crate) use shown::shown;

/// The newest migration that ran in a database.
pub(crate) async fn newest_version(connection: &Connection) -> Result<Option<i32>> {
    Ok(history::version(&history::read(connection).await?))
}

/// Brings a new tenant's database to the schema that the last complete run gave the whole fleet. Returns its version.
pub(crate) async fn apply_fleet_schema(
    context: &Context,
    server: &Server,
    tenant: &Tenant,
) -> Result<Option<i32>> {
    let Some(run) = context.catalog.fleet_schema().await? else { return Ok(None) };
    let input: Input = serde_json::from_value(run.input)
        .map_err(|e| Error::Failed(format!("migration run {} can't be read: {e}", run.id)))?;
    let migrations = Migrations::read(&input.files)?;
    let reached = tenant::migrate(context, (server, tenant), &migrations, input.limits()).await;
    reached.outcome.map(|()| reached.version)
}
