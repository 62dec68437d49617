//! Undoes a move that was to turn another one round: the copy is sealed again and follows, and that one's window is open as
//! before. Looks at what is there; can be repeated.

use std::time::Instant;

use serde_json::json;

use super::driver::Move;
use super::given_up::{self, Lost};
use super::{guard, seal, stream, undo, watchdog};
use crate::error::{Error, Result};
use crate::failpoint::reach;
use crate::server::{Connection, database, ident, registry};

/// The tenant stays where it is, and can be turned round again.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    let target_is_lost = given_up::is_given_up(work, Lost::Target).await?;
    let Some(source_registry) = undo::source_to_undo(the_move, target_is_lost).await? else { return Ok(()) };
    free_source(the_move, &source_registry).await?;
    let [at_source, at_target] = the_move.readers();
    at_source.remove().await?;
    reach("back_freed").await;
    if target_is_lost {
        // Nobody will read on from it, and it keeps the log of the server where the tenant lives.
        undo::drop_slot(&source_registry, &the_move.names.forward).await?;
        return undo::drop_role(&source_registry, &the_move.id, &the_move.names.forward).await;
    }
    let target_registry = the_move.target_registry().await?;
    registry::raise_term(&target_registry, work.term).await?;
    seal_again(the_move, &source_registry, &target_registry).await?;
    at_target.remove().await?;
    reach("back_sealed").await;
    let sealed = the_move.id.sealed_database();
    // It may have been dropped, when the move that was to be turned round was completed just then.
    if database::is_valid(&target_registry, &sealed).await? {
        let sealed = work.context.connector.database(&the_move.target, &sealed).await?;
        // Unless its window was closed, which is why this move is undone.
        stream::enable(&sealed, &the_move.names.forward).await?;
    }
    undo::drop_slot(&target_registry, &the_move.names.reverse).await?;
    reach("back_follows").await;
    let turned = the_move.input.reverse_of.unwrap_or_default();
    match work.context.catalog.merge_data(turned, &json!({ "turned_by": null }), work.term).await {
        // It ended meanwhile, by the loss of a server.
        Err(catalog::Error::Ended(_)) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// The application goes on there, and may change its schema.
async fn free_source(the_move: &Move<'_>, source_registry: &Connection) -> Result<()> {
    let live = the_move.id.live_database();
    if database::exists(source_registry, live).await? {
        the_move.lift_limit(source_registry).await?;
        guard::lift(&the_move.source_database().await?).await?;
    }
    undo::drop_role(source_registry, &the_move.id, &the_move.names.mark).await
}

/// The arriving copy becomes the sealed one again. The source's record goes first past its epoch: the highest is where the
/// tenant lives.
async fn seal_again(
    the_move: &Move<'_>,
    source_registry: &Connection,
    target_registry: &Connection,
) -> Result<()> {
    let (work, id) = (the_move.work, &the_move.id);
    let on_target = registry::read(target_registry, id).await?;
    let Some(on_target) = on_target.filter(|record| record.state == "arriving") else { return Ok(()) };
    let on_source = registry::read(source_registry, id).await?;
    let on_source =
        on_source.ok_or_else(|| Error::Failed(format!("tenant {id} is not on record at its server")))?;
    let live = id.live_database();
    if on_source.epoch <= on_target.epoch {
        let epoch = on_target.epoch.next();
        let change = registry::Change {
            tenant: id,
            from: &[Some("open")],
            to: "open",
            database: live,
            epoch,
            moved_to: None,
        };
        if !registry::write(source_registry, work.term, &change).await? {
            return Err(Error::Failed(format!("tenant {id} is {} at its server", on_source.state)));
        }
        reach("back_passed").await;
    }
    let epoch = on_source.epoch.max(on_target.epoch.next());
    work.context.catalog.place_tenant(id, &the_move.source.name, epoch, work.term).await?;
    let arriving = id.arriving_database();
    if database::exists(target_registry, &arriving).await? {
        let target = the_move.arriving_database().await?;
        stream::disable(&target, &the_move.names.forward).await?;
        target.run(&format!("DROP PUBLICATION IF EXISTS {}", ident(&the_move.names.reverse))).await?;
        watchdog::take_down(&target).await?;
        target.close().await;
    }
    let address = the_move.source.address();
    let change = registry::Change {
        tenant: id,
        from: &[Some("arriving")],
        to: "sealed",
        database: &id.sealed_database(),
        epoch: on_target.epoch,
        moved_to: Some((the_move.source.name.as_str(), &address)),
    };
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    seal::record_and_rename(work, target_registry, &change, &arriving, deadline).await
}
