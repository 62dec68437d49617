//! Takes an undecided cutover back: the application goes on at the source. Looks at what is there; can be repeated.

use std::time::Instant;

use shard_map::TenantId;

use super::driver::Move;
use super::seal;
use crate::context::Work;
use crate::error::{Error, Result};
use crate::server::{Connection, database, ident, registry};

/// Ends other sessions of the control plane in this registry: one whose connection was lost may still be about to
/// commit what it was told. The caller asks for the outcome after that.
pub(crate) async fn end_others(registry: &Connection) -> Result<()> {
    const SQL: &str = "
        SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE datname = current_database() AND usename = 'tenantry_control'
            AND pid <> pg_catalog.pg_backend_pid() AND state LIKE 'idle in transaction%'";
    registry.rows(SQL, &[]).await.map(drop)
}

/// Takes back, at a target that is known not to be open.
pub(crate) async fn run(the_move: &Move<'_>, target_registry: &Connection) -> Result<()> {
    let (work, id) = (the_move.work, &the_move.id);
    let source_registry = the_move.source_registry().await?;
    registry::raise_term(&source_registry, work.term).await?;
    end_others(&source_registry).await?;
    let epoch = unseal(work, id, &source_registry).await?;
    // The target's record says first that it will open at a later epoch: whatever knows only the earlier one (a
    // session that hangs, a controller that wakes up) can no longer decide.
    let arriving = id.arriving_database();
    let change = registry::Change {
        tenant: id,
        from: &[Some("arriving")],
        to: "arriving",
        database: &arriving,
        epoch: epoch.next(),
        moved_to: None,
    };
    registry::write(target_registry, work.term, &change).await?;
    database::set_limit(&source_registry, id.live_database(), -1).await?;
    work.context.catalog.place_tenant(id, &the_move.source.name, epoch).await?;
    if database::exists(target_registry, &arriving).await? {
        let target = the_move.arriving_database().await?;
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription WHERE subname = $1)";
        if target.value::<bool>(there, &[&the_move.names.forward]).await? {
            target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", ident(&the_move.names.forward))).await?;
        }
    }
    Ok(())
}

/// Opens a sealed source again, at a higher epoch. Returns the epoch at which it is open.
async fn unseal(work: &Work, id: &TenantId, source_registry: &Connection) -> Result<shard_map::Epoch> {
    let record = registry::read(source_registry, id).await?;
    let record =
        record.ok_or_else(|| Error::Failed(format!("tenant {id} is not on record at its server")))?;
    if record.state == "open" {
        return Ok(record.epoch);
    }
    let epoch = record.epoch.next();
    let change = registry::Change {
        tenant: id,
        from: &[Some("sealed")],
        to: "open",
        database: id.live_database(),
        epoch,
        moved_to: None,
    };
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    seal::record_and_rename(work, source_registry, &change, &id.sealed_database(), deadline).await?;
    Ok(epoch)
}
