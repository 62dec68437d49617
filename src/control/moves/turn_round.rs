//! Begins to turn a switched move round: the sealed copy, which followed its target all the time, becomes the target of a move
//! back. What was the stream back is its stream; nothing is copied.

use std::time::Instant;

use catalog::Operation;
use serde_json::json;

use super::driver::Move;
use super::window::{Closing, Window};
use super::{guard, seal, watchdog};
use crate::error::{Error, Result};
use crate::failpoint::reach;
use crate::fleet::tenant;
use crate::server::{Connection, database, ident, registry};

/// Guards the source, and makes the sealed copy the target. Whatever is done already stays.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    let Some(turned) = the_move.input.reverse_of else {
        return Err(Error::Failed("this move turns none round".into()));
    };
    // Nobody closes its window, or completes it, from here on.
    let _turn = work.context.turns.take(turned).await;
    let earlier = work.context.catalog.operation(turned).await?;
    let fingerprint = fingerprint_of(&earlier)?;
    work.context.catalog.merge_data(turned, &json!({ "turned_by": work.operation.id }), work.term).await?;
    let identities = earlier.data.get("identities").cloned().unwrap_or_else(|| json!([]));
    work.remember(&json!({ "fingerprint": fingerprint, "identities": identities })).await?;
    reach("turn_taken").await;

    let source_registry = the_move.source_registry().await?;
    let target_registry = the_move.target_registry().await?;
    registry::raise_term(&source_registry, work.term).await?;
    registry::raise_term(&target_registry, work.term).await?;
    the_move.note_limit(&source_registry).await?;
    let source = the_move.source_database().await?;
    mark(the_move, &source_registry).await?;
    tenant::keep_migrations_off(&source).await?;
    guard::put_up(&source).await?;
    tenant::let_migrations_on(&source).await?;
    reach("turn_guarded").await;
    // A change that was made before the guard was there.
    if let Some(Closing { why, .. }) = Closing::of(&watchdog::look(&source, &the_move.names.forward).await?) {
        return Err(Error::Failed(format!("the way back is closed: {why}")));
    }
    become_target(the_move, &target_registry).await?;
    follow(the_move).await
}

/// What the earlier move's window says of the schema, if it is open.
fn fingerprint_of(earlier: &Operation) -> Result<String> {
    let id = earlier.id;
    let is_switched = (earlier.state.as_str(), earlier.step.as_str()) == ("switched", "switched");
    match Window::of(&earlier.data) {
        Some(Window::Open { fingerprint }) if is_switched => Ok(fingerprint),
        Some(Window::Closed { closing, .. }) => {
            Err(Error::Failed(format!("the way back of move {id} is closed: {}", closing.why)))
        }
        _ => Err(Error::Failed(format!("move {id} is {}: it can't be turned round", earlier.state))),
    }
}

/// A role that shows whoever rebuilds a lost catalog that this move is at work.
async fn mark(the_move: &Move<'_>, source_registry: &Connection) -> Result<()> {
    let role = &the_move.names.mark;
    let exists = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
    if !source_registry.value::<bool>(exists, &[role]).await? {
        source_registry.run(&format!("CREATE ROLE {} NOLOGIN", ident(role))).await?;
    }
    let live = ident(the_move.id.live_database());
    source_registry.run(&format!("GRANT CONNECT ON DATABASE {live} TO {}", ident(role))).await
}

/// The sealed copy becomes the arriving one. It does not follow meanwhile: nobody may be in a database that is renamed.
async fn become_target(the_move: &Move<'_>, target_registry: &Connection) -> Result<()> {
    let (work, id) = (the_move.work, &the_move.id);
    let record = registry::read(target_registry, id).await?;
    match record.as_ref().map(|record| record.state.as_str()) {
        Some("arriving") => return Ok(()),
        Some("sealed") => {}
        _ => {
            let server = &the_move.target.name;
            return Err(Error::Failed(format!("server {server} has tenant {id} on record as {record:?}")));
        }
    }
    let (sealed, arriving) = (id.sealed_database(), id.arriving_database());
    let follower = work.context.connector.database(&the_move.target, &sealed).await?;
    follower.run(&format!("ALTER SUBSCRIPTION {} DISABLE", ident(&the_move.names.forward))).await?;
    follower.close().await;
    reach("turn_detached").await;
    let on_target = record.map_or(shard_map::Epoch(0), |record| record.epoch);
    let change = registry::Change {
        tenant: id,
        from: &[Some("sealed")],
        to: "arriving",
        database: &arriving,
        epoch: the_move.tenant().await?.epoch.max(on_target).next(),
        moved_to: None,
    };
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    seal::record_and_rename(work, target_registry, &change, &sealed, deadline).await?;
    reach("turn_renamed").await;
    Ok(())
}

/// Lets the arriving copy follow again, ready to be opened.
async fn follow(the_move: &Move<'_>) -> Result<()> {
    let target = the_move.arriving_database().await?;
    target.run("SET tenantry.move = 'on'").await?;
    guard::lift(&target).await?;
    watchdog::put_up(&target).await?;
    target.run(&format!("ALTER SUBSCRIPTION {} ENABLE", ident(&the_move.names.forward))).await?;
    target.close().await;
    reach("turn_follows").await;
    Ok(())
}
