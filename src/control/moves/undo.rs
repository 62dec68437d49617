//! Removes everything that a move made, before its decision. Looks at what is there; can be repeated.

use std::time::{Duration, Instant};

use shard_map::TenantId;

use super::driver::Move;
use super::given_up::{self, Lost};
use super::{arm, build, guard, identity, take_back};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::doom::{self, Doomed};
use crate::server::{Connection, database, ident, registry, roles};

/// How long a slot's walsender may take to end.
const SLOT_TIMEOUT: Duration = Duration::from_secs(10);

/// Undoes: the tenant stays where it is, as it was.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    the_move.snapshot = None;
    build::remove_files(the_move).await;
    let work = the_move.work;
    // Slots keep all of their servers' log: they go first, even if the other server can't be reached.
    match the_move.target_registry().await {
        Ok(target_registry) => {
            end_subscription(the_move, &target_registry).await?;
            drop_slot(&target_registry, &the_move.names.reverse).await?;
        }
        Err(error) => tracing::warn!(operation = work.operation.id, %error, "the target can't be reached"),
    }
    failpoint::reach("undo_streams").await;
    let target_is_lost = given_up::is_given_up(work, Lost::Target).await?;
    let Some(source_registry) = source_to_undo(the_move, target_is_lost).await? else { return Ok(()) };
    drop_slot(&source_registry, &the_move.names.forward).await?;
    failpoint::reach("undo_slot").await;
    if database::exists(&source_registry, the_move.id.live_database()).await? {
        the_move.lift_limit(&source_registry).await?;
        let source = the_move.source_database().await?;
        source.run(&format!("DROP PUBLICATION IF EXISTS {}", ident(&the_move.names.forward))).await?;
        guard::take_down(&source).await?;
        failpoint::reach("undo_guard").await;
        // Last: it waits for whoever has locked a table, such as a prepared transaction.
        let changed = arm::identities_recorded(the_move).await?;
        identity::put_back(&source, &changed).await?;
    }
    let [at_source, at_target] = the_move.readers();
    at_source.remove().await?;
    drop_move_role(&source_registry, the_move).await?;
    failpoint::reach("undo_role").await;
    if target_is_lost {
        return Ok(());
    }
    let target_registry = the_move.target_registry().await?;
    registry::raise_term(&target_registry, work.term).await?;
    end_subscription(the_move, &target_registry).await?;
    drop_slot(&target_registry, &the_move.names.reverse).await?;
    let arriving = the_move.id.arriving_database();
    let doomed = Doomed { tenant: &the_move.id, database: &arriving, state: Some("arriving") };
    doom::remove(&target_registry, work.term, doomed).await?;
    at_target.remove().await?;
    failpoint::reach("undo_dropped").await;
    if registry::remove(&target_registry, work.term, &the_move.id, &["arriving"]).await? {
        roles::drop_tenant_roles(&target_registry, work.term, &the_move.id).await?;
    }
    Ok(())
}

/// The source's registry, past every earlier controller; none when that server is given up, and left as it is.
pub(super) async fn source_to_undo(
    the_move: &mut Move<'_>,
    target_is_lost: bool,
) -> Result<Option<Connection>> {
    let source_is_given_up = given_up::is_given_up(the_move.work, Lost::Source).await?;
    let source_registry = match the_move.source_registry().await {
        Err(Error::ServerUnreachable { .. }) if source_is_given_up => {
            return given_up::leave_source(the_move).await.map(|()| None);
        }
        outcome => outcome?,
    };
    if source_is_given_up && !target_is_lost {
        // It came back; a cutover that was left without it may have sealed it.
        take_back::run(the_move, &the_move.target_registry().await?).await?;
    }
    registry::raise_term(&source_registry, the_move.work.term).await?;
    Ok(Some(source_registry))
}

pub(super) async fn end_subscription(the_move: &Move<'_>, target_registry: &Connection) -> Result<()> {
    if database::is_valid(target_registry, &the_move.id.arriving_database()).await? {
        let target = the_move.arriving_database().await?;
        drop_subscriptions(&target).await?;
        target.close().await;
    }
    Ok(())
}

/// Drops the subscriptions of moves in a database, without touching their slots. Whatever their number: a rebuilt catalog may
/// know a move by another one.
pub(crate) async fn drop_subscriptions(follower: &Connection) -> Result<()> {
    const OF_MOVES: &str = "
        SELECT subname::text FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
        WHERE subname LIKE 'tenantry\\_%' AND datname = current_database()";
    for row in follower.rows(OF_MOVES, &[]).await? {
        let subscription = ident(row.get(0));
        follower.run(&format!("ALTER SUBSCRIPTION {subscription} DISABLE")).await?;
        follower.run(&format!("ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)")).await?;
        follower.run(&format!("DROP SUBSCRIPTION {subscription}")).await?;
    }
    Ok(())
}

/// Drops a slot, if it is there; whoever uses it is ended first.
pub(crate) async fn drop_slot(registry: &Connection, slot: &str) -> Result<()> {
    const FIND: &str = "
        SELECT active_pid, pg_catalog.pg_terminate_backend(active_pid)
        FROM pg_catalog.pg_replication_slots WHERE slot_name = $1";
    let deadline = Instant::now() + SLOT_TIMEOUT;
    while let Some(found) = registry.row(FIND, &[&slot]).await? {
        if found.get::<_, Option<i32>>(0).is_none() {
            match registry.rows("SELECT pg_catalog.pg_drop_replication_slot($1::text::name)", &[&slot]).await
            {
                // Somebody took it in between: end that one, too.
                Err(e) if e.sqlstate() == Some("55006") => {}
                outcome => return outcome.map(drop),
            }
        }
        if Instant::now() > deadline {
            return Err(Error::Timeout(format!("slot {slot} stayed in use")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Drops the roles of the stream on the source: the one with which the target followed, and the mark.
pub(crate) async fn drop_move_role(source_registry: &Connection, the_move: &Move<'_>) -> Result<()> {
    drop_role(source_registry, &the_move.id, &the_move.names.forward).await?;
    drop_role(source_registry, &the_move.id, &the_move.names.mark).await
}

/// Drops a role that may connect to the tenant's database, if it is there.
pub(crate) async fn drop_role(registry: &Connection, tenant: &TenantId, role: &str) -> Result<()> {
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
    if !registry.value::<bool>(exists, &[&role]).await? {
        return Ok(());
    }
    // What it may do on the database, under whichever name that has now, stands in the way of dropping it.
    for name in [tenant.live_database(), &tenant.sealed_database(), &tenant.arriving_database()] {
        if database::exists(registry, name).await? {
            registry.run(&format!("REVOKE ALL ON DATABASE {} FROM {}", ident(name), ident(role))).await?;
        }
    }
    registry.run(&format!("DROP ROLE {}", ident(role))).await
}
