//! Whether there is room: for the database on the target, for the log that the source keeps.

use shard_map::Server;
use shard_map::bytes::Bytes;

use super::{Level, Preflight, Sides};
use crate::context::Context;
use crate::error::Result;
use crate::moves::wal_watch::Bound;

pub(super) async fn look(found: &mut Preflight, context: &Context, sides: &Sides<'_>) -> Result<()> {
    slot(found, context, sides).await?;
    let database = u64::try_from(found.database_bytes).unwrap_or(0);
    let log = found.estimate.wal_bytes;
    // The log of what is copied is written on the target, too, but not kept.
    disk(found, context, (sides.target, Level::Error), (database, "the database")).await?;
    // A server that is full must still be left.
    disk(found, context, (sides.source, Level::Warning), (log, "the log that is kept for the move")).await
}

/// What is on a server's disk is not to be had by SQL: what was declared for it is what counts.
async fn disk(
    found: &mut Preflight,
    context: &Context,
    (server, level): (&Server, Level),
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
        found.add(level, "capacity", what, remedy);
    }
    Ok(())
}

/// The same bounds as while it moves: a move that will be undone need not begin.
async fn slot(found: &mut Preflight, context: &Context, sides: &Sides<'_>) -> Result<()> {
    // In bytes; negative: without a limit.
    const KEEP: &str = "
        SELECT setting::bigint * (1 << 20) FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'";
    let Bound { bytes, setting } = Bound::of(&context.config, false, sides.on_source.value(KEEP, &[]).await?);
    if found.estimate.wal_bytes > bytes {
        let [log, most] = [found.estimate.wal_bytes, bytes].map(|bytes| Bytes(bytes).rounded());
        let what = format!(
            "server {} would have to keep {log} of log, and beyond {setting} ({most}) the move is undone",
            sides.source.name
        );
        let remedy = format!("raise {setting} (a reload is enough), or move at a quieter time");
        found.add(Level::Error, "slot_wal_keep", what, remedy);
    }
    Ok(())
}
