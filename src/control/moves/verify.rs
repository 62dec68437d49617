//! Compares both sides after the switch, while traffic runs on the target: the sealed source against the target as it
//! was when it opened.

use serde_json::json;
use shard_map::moves::Phase;

use super::compare::sealed;
use super::driver::Move;
use super::receipt::{self, After};
use super::window::{self, Closing, Window};
use super::{cutover, undo};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::{Connection, reader};

/// Ends the stream, which keeps log on the source; compares; says until when the sealed copy is kept; and lets that follow
/// from then on, so that the move can be turned round.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    end_forward(the_move).await?;
    failpoint::reach("verify_ended").await;
    end_turned(the_move).await?;
    if let Some(after) = compared(the_move).await? {
        work.remember(&json!({ "verified": after.verified() })).await?;
        if let After::Made { found, .. } = &after {
            work.remember(&json!({
                "rows_checked": found.rows, "tables_checked": found.tables_compared,
                "differences": found.differences, "not_compared": found.not_compared,
            }))
            .await?;
        }
        receipt::make(the_move, &after).await?;
    }
    reader::remove_all(the_move.readers()).await?;
    failpoint::reach("verify_compared").await;
    let operation = work.context.catalog.operation(work.operation.id).await?;
    let verified = operation.data.get("verified").cloned().unwrap_or_default();
    if verified == json!(false) {
        let why = "the comparison found differences: the sealed copy is kept as it was";
        return window::close(the_move, Closing::because(why)).await;
    }
    let until =
        cutover::now_us() / 1_000_000 + i64::try_from(the_move.input.keep_sealed_s).unwrap_or(i64::MAX);
    let reversible_until = work.context.catalog.timestamp(Some(until)).await?;
    work.remember(&json!({ "keep_until": until, "reversible_until": reversible_until })).await?;
    window::open(the_move).await
}

/// What the comparison came to; none if an earlier try has that on record.
async fn compared(the_move: &mut Move<'_>) -> Result<Option<After>> {
    let work = the_move.work;
    let Some(target) = the_move.at_switch.take() else {
        let operation = work.context.catalog.operation(work.operation.id).await?;
        let made = operation.data.get("receipt").is_some_and(|receipt| !receipt.is_null());
        // A controller that died between the switch and here took the snapshot with it: nothing is claimed then.
        return Ok((!made).then(|| receipt::without_snapshot(the_move.input.verify)));
    };
    let began_at = work.context.catalog.timestamp(None).await?;
    Ok(Some(match sealed::compare_within_bounds(the_move, &target).await? {
        Ok(found) => After::Made { began_at, found },
        Err(error) => {
            tracing::error!(operation = work.operation.id, %error, "not verified");
            After::NotMade(error.to_string())
        }
    }))
}

/// Ends the move that this one turned round: what it left is this one's.
async fn end_turned(the_move: &Move<'_>) -> Result<()> {
    let Some(turned) = the_move.input.reverse_of else { return Ok(()) };
    let (catalog, term) = (&the_move.work.context.catalog, the_move.work.term);
    let by = format!("move {} turned it round", the_move.work.operation.id);
    let closing = Closing { at: Some(catalog.timestamp(None).await?), ..Closing::because(by.as_str()) };
    let ended = async {
        let window = Window::Closed { closing, removed: true };
        catalog.merge_data(turned, &json!({ "window": window }), term).await?;
        catalog.begin_step(turned, Phase::Completed.as_str(), &by, term).await?;
        catalog.set_operation_state(turned, Phase::Completed.as_str(), None, term).await
    };
    match ended.await {
        // By an earlier try.
        Err(catalog::Error::Ended(_)) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Removes the stream from the source: subscription, slot, roles. What the stream back needs stays.
async fn end_forward(the_move: &Move<'_>) -> Result<()> {
    let connector = &the_move.work.context.connector;
    let target = connector.database(&the_move.target, the_move.id.live_database()).await?;
    receipt::note_fence(the_move, &target).await?;
    undo::drop_subscriptions(&target).await?;
    failpoint::reach("verify_unfollowed").await;
    match end_source_stream(the_move).await {
        // It does not keep the tenant from going on: completing the move meets it again.
        Err(error @ Error::ServerUnreachable { .. }) => {
            tracing::warn!(operation = the_move.work.operation.id, %error, "the source's slot is left for later");
        }
        outcome => outcome?,
    }
    if target.value::<bool>("SELECT to_regclass('tenantry.refreshed') IS NOT NULL", &[]).await? {
        refresh_late(&target).await?;
    }
    target.run("DROP TABLE IF EXISTS tenantry.copied").await
}

pub(super) async fn end_source_stream(the_move: &Move<'_>) -> Result<()> {
    let source_registry = the_move.source_registry().await?;
    undo::drop_slot(&source_registry, &the_move.names.forward).await?;
    undo::drop_move_role(&source_registry, the_move).await
}

/// Refreshes what was refreshed on the source just before the fence.
async fn refresh_late(target: &Connection) -> Result<()> {
    const LATE: &str = "
        SELECT view FROM tenantry.refreshed
        WHERE refreshed_at > (SELECT max(written_at) FROM tenantry.fence WHERE id > 0) - interval '1 minute'";
    target.run("SET statement_timeout = 0").await?;
    for row in target.rows(LATE, &[]).await? {
        let view: &str = row.get(0);
        match target.run(&format!("REFRESH MATERIALIZED VIEW {view}")).await {
            // The application may have dropped it since, or what it is made of.
            Err(error) if error.sqlstate().is_some() => {
                tracing::warn!(view, %error, "a view that was refreshed just before the switch is not refreshed again");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}
