//! Compares both sides after the switch, while traffic runs on the target: the sealed source against the target as it
//! was when it opened.

use serde_json::json;

use super::copy::TEXT_SETTINGS;
use super::driver::{Move, Verify};
use super::{guard, identity, undo};
use crate::error::{Error, Result};
use crate::server::tables::{self, Table};
use crate::server::{Connection, ident};

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
        compare(the_move, &source, &target).await?;
    } else {
        // A controller died between the switch and here, or nobody asked for it: the snapshot can't be had again.
        the_move.work.remember(&json!({ "verified": null })).await?;
    }
    end_streams(the_move).await?;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    the_move.work.remember(&json!({ "keep_until": now + the_move.input.keep_sealed_s })).await
}

async fn compare(the_move: &Move<'_>, source: &Connection, target: &Connection) -> Result<()> {
    let work = the_move.work;
    let mut rows_checked = 0_i64;
    let mut differences = Vec::new();
    let (on_source, on_target) = (tables::list(source).await?, tables::list(target).await?);
    for side in [source, target] {
        side.run(TEXT_SETTINGS).await?;
    }
    for table in &on_source {
        let sql = summary_of(table, the_move.input.verify);
        let expected = summarise(source, &sql).await?;
        if !on_target.iter().any(|other| other.name == table.name) {
            differences
                .push(format!("{}: {} on the source, no such table on the target", table.name, expected.0));
            continue;
        }
        let found = summarise(target, &sql).await?;
        rows_checked += expected.0;
        if found.0 != expected.0 {
            let (expected, found) = (expected.0, found.0);
            differences.push(format!("{}: {expected} rows on the source, {found} on the target", table.name));
        } else if found.1 != expected.1 {
            differences.push(format!("{}: the rows' contents differ", table.name));
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

/// What is asked of a table: its rows, and for a full comparison the sum of their hashes, which does not depend on
/// their order. MD5, because Postgres's own hash functions may differ between versions.
fn summary_of(table: &Table, verify: Verify) -> String {
    let hash = match verify {
        Verify::Full => {
            let row = format!("ROW({})::text", table.columns.join(", "));
            format!("coalesce(sum(('x' || left(md5({row}), 16))::bit(64)::bigint::numeric), 0)::text")
        }
        Verify::Count | Verify::None => "''".to_owned(),
    };
    format!("SELECT count(*), {hash} FROM ONLY {}", table.name)
}

async fn summarise(side: &Connection, sql: &str) -> Result<(i64, String)> {
    let row = side.row(sql, &[]).await?.ok_or_else(|| Error::Failed("no answer to a count".into()))?;
    Ok((row.get(0), row.get(1)))
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
