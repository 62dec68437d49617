//! Whether there is room: for the database on the target, for the log that the source keeps.

use shard_map::Server;
use shard_map::bytes::Bytes;

use super::{Level, Preflight, Sides};
use crate::context::Context;
use crate::error::Result;

pub(super) async fn look(found: &mut Preflight, context: &Context, sides: &Sides<'_>) -> Result<()> {
    slot(found, sides).await?;
    let database = u64::try_from(found.database_bytes).unwrap_or(0);
    let log = found.estimate.wal_bytes;
    // The log of what is copied is written on the target, too, but not kept.
    disk(found, context, sides.target, (database, "the database")).await?;
    disk(found, context, sides.source, (log, "the log that is kept for the move")).await
}

/// What is on a server's disk is not to be had by SQL: what was declared for it is what counts.
async fn disk(
    found: &mut Preflight,
    context: &Context,
    server: &Server,
    (more, what): (u64, &str),
) -> Result<()> {
    let policy = context.policy().await?;
    let Some(Bytes(most)) = server.capacity.or(&policy.class(server.class).capacity).bytes_max else {
        return Ok(());
    };
    let Some(used) = context.catalog.server_bytes(&server.name).await? else { return Ok(()) };
    if used.saturating_add(more) > most {
        let [used, most, more] = [used, most, more].map(|bytes| Bytes(bytes).rounded());
        let what = format!("server {} has {used} of {most}, and {what} would bring {more} more", server.name);
        let remedy = "choose a server with more room, or raise the capacity that is declared for it";
        found.add(Level::Error, "capacity", what, remedy);
    }
    Ok(())
}

async fn slot(found: &mut Preflight, sides: &Sides<'_>) -> Result<()> {
    // In megabytes; none: without a limit.
    const KEEP: &str = "
        SELECT nullif(setting::bigint, -1) FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'";
    let keep: Option<i64> = sides.on_source.value(KEEP, &[]).await?;
    let Some(keep) = keep.and_then(|keep| u64::try_from(keep << 20).ok()) else { return Ok(()) };
    if found.estimate.wal_bytes > keep {
        let [log, keep] = [found.estimate.wal_bytes, keep].map(|bytes| Bytes(bytes).rounded());
        let what = format!(
            "server {} would have to keep {log} of log, and max_slot_wal_keep_size is {keep}: the slot would be lost",
            sides.source.name
        );
        let remedy = "raise max_slot_wal_keep_size there (a reload is enough), or move at a quieter time";
        found.add(Level::Error, "slot_wal_keep", what, remedy);
    }
    Ok(())
}
