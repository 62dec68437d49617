//! The catalog follows what the target's registry decided; routers see it in the feed, and let go.

use std::time::Duration;

use serde_json::json;
use shard_map::Epoch;

use super::cutover;
use super::driver::Move;
use crate::context::Work;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::registry;

/// Places the tenant on the target and releases the hold, in one change of the map.
pub(crate) async fn place(the_move: &Move<'_>, epoch: Epoch) -> Result<()> {
    let Work { context, term, .. } = the_move.work;
    Ok(context.catalog.place_tenant(&the_move.id, &the_move.target.name, epoch, *term).await?)
}

/// The same once more, from the record: the cutover's controller may have died after the decision.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let target_registry = the_move.target_registry().await?;
    let record = registry::read(&target_registry, &the_move.id).await?;
    let Some(record) = record.filter(|record| record.state == "open") else {
        return Err(Error::Failed(format!(
            "tenant {} is not open on server {}",
            the_move.id, the_move.target.name
        )));
    };
    the_move.lift_limit(&target_registry).await?;
    place(the_move, record.epoch).await?;
    the_move.work.context.catalog.release_hold(&the_move.id, the_move.work.term).await?;
    failpoint::reach("release_told").await;
    tell_hold(the_move).await
}

/// Tells how long the hold was, if the controller that placed it could not.
async fn tell_hold(the_move: &Move<'_>) -> Result<()> {
    let operation = the_move.work.context.catalog.operation(the_move.work.operation.id).await?;
    let told = operation.data.get("hold_ms").is_some_and(|hold| !hold.is_null());
    match operation.data.get("hold_began_us").and_then(serde_json::Value::as_i64) {
        Some(began) if !told => {
            let hold = Duration::from_micros(u64::try_from(cutover::now_us() - began).unwrap_or(0));
            the_move.work.remember(&json!({ "hold_ms": cutover::milliseconds(hold) })).await
        }
        _ => Ok(()),
    }
}
