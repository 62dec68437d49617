//! The catalog follows what the target's registry decided; routers see it in the feed, and let go.

use shard_map::Epoch;

use super::driver::Move;
use crate::error::{Error, Result};
use crate::server::{database, registry};

/// Places the tenant on the target and releases the hold, in one change of the map.
pub(crate) async fn place(the_move: &Move<'_>, epoch: Epoch) -> Result<()> {
    Ok(the_move.work.context.catalog.place_tenant(&the_move.id, &the_move.target.name, epoch).await?)
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
    database::set_limit(&target_registry, the_move.id.live_database(), -1).await?;
    place(the_move, record.epoch).await?;
    Ok(the_move.work.context.catalog.release_hold(&the_move.id).await?)
}
