//! Compares both sides after the switch, while traffic runs on the target: the sealed source against the target as it
//! was when it opened.

use std::collections::HashMap;

use serde_json::{Value, json};
use shard_map::moves::Phase;

use super::copy::TEXT_SETTINGS;
use super::driver::{Move, Verify};
use super::window::{self, Closing, Window};
use super::{cutover, undo};
use crate::error::{Error, Result};
use crate::server::Connection;
use crate::server::tables::{self, Table};

/// The target's state at the switch: an open transaction that sees it, and which file each table had.
pub(crate) struct TargetSnapshot {
    connection: Connection,
    files: HashMap<String, u32>,
}

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
        let files = tables::files(&connection).await?;
        Ok(Self { connection, files })
    }

    /// What a table holds in it. `None`: it was truncated, rewritten or dropped since, and a snapshot can't see past
    /// that. The table is not kept locked: an application's TRUNCATE must not wait for the whole comparison.
    async fn summarise(&self, table: &Table, sql: &str) -> Result<Option<Summary>> {
        self.connection.run("SAVEPOINT one_table").await?;
        let summary = summarise(&self.connection, sql).await;
        self.connection.run("ROLLBACK TO SAVEPOINT one_table; RELEASE SAVEPOINT one_table").await?;
        let file: Option<u32> = self
            .connection
            .value("SELECT pg_relation_filenode(to_regclass($1)::oid)", &[&table.name])
            .await?;
        let same = file.is_some() && file == self.files.get(&table.name).copied();
        if same { summary.map(Some) } else { Ok(None) }
    }
}

/// Ends the stream, which keeps log on the source; compares; says until when the sealed copy is kept; and lets that follow
/// from then on, so that the move can be turned round.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    end_forward(the_move).await?;
    end_turned(the_move).await?;
    let operation = work.context.catalog.operation(work.operation.id).await?;
    let mut verified = operation.data.get("verified").cloned().unwrap_or_default();
    if let Some(target) = the_move.at_switch.take() {
        verified = compare_within_bounds(the_move, &target).await?.unwrap_or_else(|error| {
            tracing::error!(operation = work.operation.id, %error, "not verified");
            json!(null)
        });
    }
    // A controller that died between the switch and here took the snapshot with it: nothing is claimed then.
    work.remember(&json!({ "verified": verified })).await?;
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

/// Compares, and gives the way back up if its slot keeps too much log meanwhile: nobody reads it before the end.
async fn compare_within_bounds(the_move: &Move<'_>, target: &TargetSnapshot) -> Result<Result<Value>> {
    let mut comparing = std::pin::pin!(compare(the_move, target));
    tokio::select! {
        outcome = &mut comparing => return Ok(outcome),
        closing = window::outgrown(the_move) => window::close(the_move, closing).await?,
    }
    Ok(comparing.await)
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

async fn compare(the_move: &Move<'_>, target: &TargetSnapshot) -> Result<Value> {
    let connector = &the_move.work.context.connector;
    let sealed = the_move.id.sealed_database();
    let source = connector.database(&the_move.source, &sealed).await?.without_statement_limit().await?;
    for side in [&source, &target.connection] {
        side.run(TEXT_SETTINGS).await?;
    }
    let mut rows_checked = 0_i64;
    let (mut differences, mut not_compared) = (Vec::new(), Vec::new());
    let tables = tables::list(&source).await?;
    for table in &tables {
        let sql = summary_of(table, the_move.input.verify);
        if !target.files.contains_key(&table.name) {
            differences.push(format!("{}: no such table on the target", table.name));
            continue;
        }
        let expected = summarise(&source, &sql).await?;
        match target.summarise(table, &sql).await? {
            None => not_compared.push(format!("{}: truncated or rewritten since the switch", table.name)),
            Some(found) if found.rows != expected.rows => {
                let (expected, found) = (expected.rows, found.rows);
                differences
                    .push(format!("{}: {expected} rows on the source, {found} on the target", table.name));
            }
            Some(found) if found != expected => {
                differences.push(format!("{}: the rows' contents differ", table.name));
            }
            Some(found) => rows_checked += found.rows,
        }
    }
    if !differences.is_empty() {
        tracing::error!(operation = the_move.work.operation.id, ?differences, "source and target differ");
    }
    let found = json!({
        "rows_checked": rows_checked, "tables_checked": tables.len() - not_compared.len(),
        "differences": differences, "not_compared": not_compared,
    });
    the_move.work.remember(&found).await?;
    Ok(json!(differences.is_empty()))
}

/// What a table holds.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    rows: i64,
    /// Of all rows, whatever their order; empty when only rows are counted.
    hash: String,
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

async fn summarise(side: &Connection, sql: &str) -> Result<Summary> {
    let row = side.row(sql, &[]).await?.ok_or_else(|| Error::Failed("no answer to a count".into()))?;
    Ok(Summary { rows: row.get(0), hash: row.get(1) })
}

/// Removes the stream from the source: subscription, slot, roles. What the stream back needs stays.
async fn end_forward(the_move: &Move<'_>) -> Result<()> {
    let connector = &the_move.work.context.connector;
    let target = connector.database(&the_move.target, the_move.id.live_database()).await?;
    undo::drop_subscriptions(&target).await?;
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
