//! Moves of which one server was given up (`server remove --lost`): what they made on the other one, and what keeps log
//! there, is removed. They end, and their copies are named, with the removal of the server, which is asked for again.

use serde_json::json;
use shard_map::Server;
use shard_map::moves::Event;

use super::driver::Move;
use super::{undo, verify};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::server::{database, registry};

/// Which server of a move an operator has given up: the mark in the move's data.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lost {
    Source,
    Target,
}

/// Whether it was given up.
pub(super) async fn is_given_up(work: &Work, lost: Lost) -> Result<bool> {
    let mark = match lost {
        Lost::Source => "source_lost",
        Lost::Target => "target_lost",
    };
    let operation = work.context.catalog.operation(work.operation.id).await?;
    Ok(operation.data.get(mark) == Some(&json!(true)))
}

/// Before the decision, without the source: only the copy stays on the target, as a database that is on no record.
pub(super) async fn leave_source(the_move: &Move<'_>) -> Result<()> {
    let (work, id) = (the_move.work, &the_move.id);
    let target_registry = the_move.target_registry().await?;
    registry::raise_term(&target_registry, work.term).await?;
    undo::end_subscription(the_move, &target_registry).await?;
    let [_, at_target] = the_move.readers();
    at_target.remove().await?;
    undo::drop_slot(&target_registry, &the_move.names.reverse).await?;
    registry::remove(&target_registry, work.term, id, &["arriving"]).await?;
    let copy_left = database::exists(&target_registry, &id.arriving_database()).await?;
    work.remember(&json!({ "source_left": true, "copy_left": copy_left })).await?;
    Err(ends_with(&the_move.source))
}

/// Past the decision: when the target does not answer because it was given up, only the sealed copy stays on the source.
pub(super) async fn unless_target_is(the_move: &Move<'_>, outcome: Result<Event>) -> Result<Event> {
    let away = matches!(&outcome, Err(Error::ServerUnreachable { server, .. }) if *server == the_move.target.name.as_str());
    if !away || !is_given_up(the_move.work, Lost::Target).await? {
        return outcome;
    }
    verify::end_source_stream(the_move).await?;
    let [at_source, _] = the_move.readers();
    at_source.remove().await?;
    the_move.work.remember(&json!({ "target_left": true })).await?;
    Err(ends_with(&the_move.target))
}

/// It can't end by itself: its tenant is on the map as long as the server is.
fn ends_with(lost: &Server) -> Error {
    Error::Timeout(format!(
        "it ends when its server leaves the map: tenantry server remove {} --lost",
        lost.name
    ))
}
