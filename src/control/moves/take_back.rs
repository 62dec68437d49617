//! Takes an undecided cutover back: the application goes on at the source. Looks at what is there; can be repeated.

use std::time::Instant;

use shard_map::{Epoch, TenantId};

use super::driver::Move;
use super::{force_security, seal};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::registry::{self, Record};
use crate::server::{Connection, database, ident};

/// Ends other sessions of this move in a registry: one whose connection was lost may still be about to commit what it
/// was told, and holds the lock under which the term is raised. The caller asks for the outcome after that.
pub(crate) async fn end_others(the_move: &Move<'_>, registry: &Connection) -> Result<()> {
    const SQL: &str = "
        SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE datname = current_database() AND application_name = $1
            AND pid <> pg_catalog.pg_backend_pid() AND state LIKE 'idle in transaction%'";
    registry.rows(SQL, &[&the_move.names.session]).await?;
    registry::raise_term(registry, the_move.work.term).await
}

/// Takes back, at a target that was not open when it was asked.
pub(crate) async fn run(the_move: &Move<'_>, target_registry: &Connection) -> Result<()> {
    let (work, id) = (the_move.work, &the_move.id);
    let source_registry = the_move.source_registry().await?;
    end_others(the_move, &source_registry).await?;
    let on_source = registry::read(&source_registry, id).await?;
    let on_source =
        on_source.ok_or_else(|| Error::Failed(format!("tenant {id} is not on record at its server")))?;
    // The target's record first: it is put past the epoch at which whoever knows only the state before (a session
    // that hangs, a controller that wakes up) could decide. If it decided already, the source stays sealed.
    let arriving = id.arriving_database();
    if let Some(on_target) =
        registry::read(target_registry, id).await?.filter(|record| record.state != "sealed")
    {
        let change = registry::Change {
            tenant: id,
            from: &[Some("arriving")],
            to: "arriving",
            database: &arriving,
            epoch: on_target.epoch.max(on_source.epoch.next()).next(),
            moved_to: None,
        };
        if !registry::write(target_registry, work.term, &change).await? {
            return Err(Error::Timeout(format!("server {} decided meanwhile", the_move.target.name)));
        }
    }
    failpoint::reach("taken_passed").await;
    let epoch = unseal(work, id, &source_registry, on_source).await?;
    failpoint::reach("taken_unsealed").await;
    the_move.lift_limit(&source_registry).await?;
    work.context.catalog.place_tenant(id, &the_move.source.name, epoch, work.term).await?;
    failpoint::reach("taken_placed").await;
    if database::exists(target_registry, &arriving).await? {
        let target = the_move.arriving_database().await?;
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription WHERE subname = $1)";
        if target.value::<bool>(there, &[&the_move.names.forward]).await? {
            force_security::lift(&target).await?;
            target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", ident(&the_move.names.forward))).await?;
        }
    }
    Ok(())
}

/// Opens a sealed source again, at a higher epoch. Returns the epoch at which it is open.
async fn unseal(work: &Work, id: &TenantId, source_registry: &Connection, record: Record) -> Result<Epoch> {
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
