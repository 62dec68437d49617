//! Compares both sides after the switch, while traffic runs on the target: the sealed source against the target as it
//! was when it opened.

use serde_json::json;

use super::driver::Move;
use super::{guard, identity, undo};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::server::{Connection, ident, tables};

/// The target's state at the switch: an open transaction that sees it.
pub(crate) struct TargetSnapshot(Connection);

impl TargetSnapshot {
    /// Takes it. A failure is told and costs the comparison, not the move: it is decided.
    pub(crate) async fn take(the_move: &Move<'_>) -> Option<Self> {
        match Self::open(the_move).await {
            Ok(snapshot) => Some(snapshot),
            Err(error) => {
                tracing::error!(operation = the_move.work.operation.id, %error, "no snapshot to verify against");
                None
            }
        }
    }

    async fn open(the_move: &Move<'_>) -> Result<Self> {
        let database = the_move.id.live_database();
        let connection = the_move.work.context.connector.database(&the_move.target, database).await?;
        let begin = "SET statement_timeout = 0; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        connection.run(begin).await?;
        // The snapshot is taken by the first query, not by BEGIN.
        connection.rows("SELECT 1", &[]).await?;
        Ok(Self(connection))
    }
}

/// Compares, then removes what streams: it keeps log on both servers.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    if let Some(TargetSnapshot(target)) = the_move.at_switch.take() {
        let connector = &the_move.work.context.connector;
        let sealed = the_move.id.sealed_database();
        let source = connector.database(&the_move.source, &sealed).await?.without_statement_limit().await?;
        compare(the_move.work, &source, &target).await?;
    } else {
        // A controller died between the switch and here, or nobody asked for it: the snapshot can't be had again.
        the_move.work.remember(&json!({ "verified": null })).await?;
    }
    end_streams(the_move).await?;
    let grace = the_move.work.context.config.sealed_grace.as_secs();
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    the_move.work.remember(&json!({ "keep_until": now + grace })).await
}

async fn compare(work: &Work, source: &Connection, target: &Connection) -> Result<()> {
    let mut rows_checked = 0_i64;
    let mut differences = Vec::new();
    let (on_source, on_target) = (tables::list(source).await?, tables::list(target).await?);
    for table in &on_source {
        let count = format!("SELECT count(*) FROM ONLY {}", table.name);
        let expected: i64 = source.value(&count, &[]).await?;
        if !on_target.iter().any(|other| other.name == table.name) {
            differences
                .push(format!("{}: {expected} rows on the source, no such table on the target", table.name));
            continue;
        }
        let found: i64 = target.value(&count, &[]).await?;
        rows_checked += expected;
        if found != expected {
            differences.push(format!("{}: {expected} rows on the source, {found} on the target", table.name));
        }
    }
    if !differences.is_empty() {
        tracing::error!(
            operation = work.operation.id,
            ?differences,
            "source and target differ; keep the sealed copy"
        );
    }
    let found = json!({
        "verified": differences.is_empty(), "rows_checked": rows_checked, "tables_checked": on_source.len(),
        "differences": differences,
    });
    work.remember(&found).await
}

/// Removes subscription, slots, publications and the guard's remains. The sealed copy stays.
async fn end_streams(the_move: &Move<'_>) -> Result<()> {
    let (source_registry, target_registry) =
        (the_move.source_registry().await?, the_move.target_registry().await?);
    let connector = &the_move.work.context.connector;
    let target = connector.database(&the_move.target, the_move.id.live_database()).await?;
    undo::drop_subscription(&target, &the_move.names.forward).await?;
    undo::drop_slot(&source_registry, &the_move.names.forward).await?;
    undo::drop_slot(&target_registry, &the_move.names.reverse).await?;
    target.run(&format!("DROP PUBLICATION IF EXISTS {}", ident(&the_move.names.reverse))).await?;
    // Noted refreshes that came after the last look before the cutover.
    if target.value::<bool>("SELECT to_regclass('tenantry.refreshed') IS NOT NULL", &[]).await? {
        refresh_late(&target).await?;
    }
    guard::take_down(&target).await?;
    let changed = super::arm::identities_recorded(the_move).await?;
    identity::put_back(&target, &changed).await?;
    match undo::drop_move_role(&the_move.source_registry().await?, the_move).await {
        // Its grant on the sealed database goes with that database; then the role can be dropped.
        Err(Error::Statement { sqlstate, .. }) if sqlstate == "2BP01" => Ok(()),
        outcome => outcome,
    }
}

/// Refreshes what was refreshed on the source just before the fence.
async fn refresh_late(target: &Connection) -> Result<()> {
    const LATE: &str = "
        SELECT view FROM tenantry.refreshed
        WHERE refreshed_at > (SELECT max(written_at) FROM tenantry.fence WHERE id > 0) - interval '1 minute'";
    for row in target.rows(LATE, &[]).await? {
        target.run(&format!("REFRESH MATERIALIZED VIEW {}", row.get::<_, &str>(0))).await?;
    }
    Ok(())
}
