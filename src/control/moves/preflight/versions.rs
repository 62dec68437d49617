//! What is in the way of a move because of versions of Postgres: of the programs here, and of what a server can follow.

use super::{Level, Preflight, Sides};
use crate::context::Context;
use crate::error::Result;
use crate::moves::programs::{POSTGRES_17, Programs};
use crate::moves::stream;

/// Looks at `pg_dump` and `pg_restore` as the move would use them: they would fail in its middle. And at the target's room.
pub(super) async fn look(found: &mut Preflight, context: &Context, sides: &Sides<'_>) -> Result<()> {
    let from = stream::major(&sides.on_source).await?;
    let to = stream::major(&sides.on_target).await?;
    let programs = Programs::for_major(context, from);
    let install = format!(
        "install postgresql-client-{from} where the control plane runs; if its configuration has pg_bin, name the folder of \
         that version there"
    );
    for program in ["pg_dump", "pg_restore"] {
        let known = match programs.major(program).await {
            Ok(known) => known,
            Err(error) => {
                found.add(Level::Error, "programs", error.to_string(), &install);
                continue;
            }
        };
        let unlike = |server: &shard_map::Server, major: i32, why: &str| {
            format!("{program} is of version {known}, and server {} of {major}: {why}", server.name)
        };
        if known < from {
            let what = unlike(sides.source, from, "it refuses newer ones");
            found.add(Level::Error, "programs", what, &install);
        }
        // It begins by a setting that came with 17, whatever the server's version is.
        if program == "pg_restore" && known >= POSTGRES_17 && to < POSTGRES_17 {
            let what = unlike(sides.target, to, "it uses what came with 17");
            found.add(Level::Error, "programs", what, &install);
        }
    }
    origins(found, sides, to).await
}

/// The target keeps a record of how far it has followed.
async fn origins(found: &mut Preflight, sides: &Sides<'_>, major: i32) -> Result<()> {
    let sql = format!(
        "SELECT {} - (SELECT count(*) FROM pg_catalog.pg_replication_origin_status)::int",
        stream::ORIGINS_MAX
    );
    if sides.on_target.value::<i32>(&sql, &[]).await? < 1 {
        let has_own = major >= stream::POSTGRES_18;
        let setting = if has_own { "max_active_replication_origins" } else { "max_replication_slots" };
        let what = format!("server {}: {setting} is used up by what it follows", sides.target.name);
        let remedy = format!("raise {setting}, or complete a move from or to it");
        found.add(Level::Error, setting, what, remedy);
    }
    Ok(())
}
