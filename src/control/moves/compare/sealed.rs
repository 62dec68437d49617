//! Compares both sides as they were at the switch, while traffic runs on the target: the sealed source against a snapshot
//! of the target from before anybody was let in. Neither changes, so a table's pieces need not be the same on both sides:
//! each is read by its blocks, one short statement after another, and the sums are compared.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::driver::{Move, Verify};
use super::super::ranges::{Range, cut_one};
use super::super::throttle::Throttle;
use super::super::window;
use super::range::{Summary, aggregate};
use super::session;
use crate::error::{Error, Result};
use crate::server::Connection;
use crate::server::tables::{self, Table};

/// How long a comparison may last: its snapshot keeps vacuum on the target from its work.
const TIME_MAX: Duration = Duration::from_hours(1);
/// What is said of what it then leaves out.
const TOOK_TOO_LONG: &str = "the comparison took too long";
/// Bytes of a block of Postgres, as it is built by default; for the throttle only.
const BLOCK_BYTES: u64 = 8192;
/// Tables, differences and the like that are kept by name. The largest tables come first.
const NAMED_MAX: usize = 100;

/// The target's state at the switch: an open transaction that sees it, and which file each table had.
pub(crate) struct TargetSnapshot {
    connection: Connection,
    files: HashMap<String, u32>,
}

/// What a comparison found.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) rows: i64,
    pub(crate) tables_compared: usize,
    pub(crate) differences: Vec<String>,
    pub(crate) not_compared: Vec<String>,
    /// All that was equal, one line a table: name, rows, hash.
    #[serde(skip)]
    pub(crate) lines: Vec<(String, Summary)>,
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

    /// What a piece of a table holds in it. The table is not kept locked: an application's TRUNCATE, or a change of its
    /// replica identity, must not wait for the whole comparison.
    async fn summary(&self, sql: &str) -> Result<Summary> {
        self.connection.run("SAVEPOINT one_piece").await?;
        let summary = summary(&self.connection, sql).await;
        self.connection.run("ROLLBACK TO SAVEPOINT one_piece; RELEASE SAVEPOINT one_piece").await?;
        summary
    }

    /// Whether a table has the file that it had at the switch. If it was truncated, rewritten or dropped since, a snapshot can't
    /// see past that.
    async fn has_its_file(&self, table: &Table) -> Result<bool> {
        const FILE: &str = "SELECT pg_relation_filenode(to_regclass($1)::oid)";
        let file: Option<u32> = self.connection.value(FILE, &[&table.name]).await?;
        Ok(file.is_some() && file == self.files.get(&table.name).copied())
    }
}

/// Compares, and gives the way back up if its slot keeps too much log meanwhile: nobody reads it before the end. What closes
/// the way back may wait for a table that is read, so both go on at once.
pub(crate) async fn compare_within_bounds(
    the_move: &Move<'_>,
    target: &TargetSnapshot,
) -> Result<Result<Found>> {
    let mut comparing = std::pin::pin!(compare(the_move, target));
    let closing = async { window::close(the_move, window::outgrown(the_move).await).await };
    tokio::select! {
        biased;
        // One that ends while the way back is being closed leaves that to who opens it.
        outcome = &mut comparing => return Ok(outcome),
        closed = closing => closed?,
    }
    Ok(comparing.await)
}

async fn compare(the_move: &Move<'_>, target: &TargetSnapshot) -> Result<Found> {
    let (work, began) = (the_move.work, Instant::now());
    let connector = &work.context.connector;
    let source = session(connector.database(&the_move.source, &the_move.id.sealed_database()).await?).await?;
    super::pin_text(&target.connection).await?;
    let mut found = Found::default();
    let (throttle, verify) = (&the_move.throttle, the_move.input.verify);
    for table in &tables::list(&source).await? {
        if began.elapsed() > TIME_MAX {
            note(&mut found.not_compared, format!("{}: {TOOK_TOO_LONG}", table.name));
            continue;
        }
        Reader { source: &source, target, throttle, verify, began }.compare(table, &mut found).await?;
    }
    if !found.differences.is_empty() {
        tracing::error!(operation = work.operation.id, differences = ?found.differences, "source and target differ");
    }
    Ok(found)
}

/// Reads both sides of a table.
struct Reader<'c> {
    source: &'c Connection,
    target: &'c TargetSnapshot,
    throttle: &'c Throttle,
    verify: Verify,
    began: Instant,
}

impl Reader<'_> {
    async fn compare(&self, table: &Table, found: &mut Found) -> Result<()> {
        let name = &table.name;
        if !self.target.files.contains_key(name) {
            note(&mut found.differences, format!("{name}: no such table on the target"));
            return Ok(());
        }
        let (_, blocks) = tables::file_of(self.source, table).await?;
        // At the end of the transaction it is what is read; it only says how to cut.
        let target_blocks = self.target_blocks(table).await?;
        let (expected, found_there) =
            tokio::try_join!(self.read(table, blocks, false), self.read(table, target_blocks, true))?;
        if !self.target.has_its_file(table).await? {
            note(&mut found.not_compared, format!("{name}: truncated or rewritten since the switch"));
            return Ok(());
        }
        let (Some(expected), Some(found_there)) = (expected, found_there) else {
            note(&mut found.not_compared, format!("{name}: {TOOK_TOO_LONG}"));
            return Ok(());
        };
        found.tables_compared += 1;
        if expected.rows != found_there.rows {
            let (expected, there) = (expected.rows, found_there.rows);
            note(
                &mut found.differences,
                format!("{name}: {expected} rows on the source, {there} on the target"),
            );
        } else if expected != found_there {
            note(&mut found.differences, format!("{name}: the rows' contents differ"));
        } else {
            found.rows += expected.rows;
            found.lines.push((name.clone(), expected));
        }
        Ok(())
    }

    async fn target_blocks(&self, table: &Table) -> Result<i64> {
        const SQL: &str = "
            SELECT coalesce(pg_relation_size(to_regclass($1)), 0) / current_setting('block_size')::int";
        self.target.connection.value(SQL, &[&table.name]).await
    }

    /// All of a table on one side, piece by piece; none when that takes too long.
    async fn read(&self, table: &Table, blocks: i64, on_target: bool) -> Result<Option<Summary>> {
        let mut sum = Sum::default();
        for piece in cut_one(0, table.file, blocks) {
            if self.began.elapsed() > TIME_MAX {
                return Ok(None);
            }
            let bytes = piece.to.unwrap_or(blocks).saturating_sub(piece.from);
            self.throttle.take(u64::try_from(bytes).unwrap_or(0) * BLOCK_BYTES).await;
            let sql = statement(table, &piece, self.verify);
            let piece =
                if on_target { self.target.summary(&sql).await? } else { summary(self.source, &sql).await? };
            sum.add(&piece)?;
        }
        Ok(Some(sum.into_summary(self.verify)))
    }
}

fn statement(table: &Table, piece: &Range, verify: Verify) -> String {
    let upper = piece.to.map(|to| format!(" AND ctid < '({to},0)'")).unwrap_or_default();
    let what = aggregate(table, verify);
    format!("SELECT {what} FROM ONLY {} WHERE ctid >= '({},0)'{upper}", table.name, piece.from)
}

async fn summary(side: &Connection, sql: &str) -> Result<Summary> {
    let row = side.row(sql, &[]).await?.ok_or_else(|| Error::Failed("no answer to a count".into()))?;
    Ok(Summary { rows: row.get(0), hash: row.get(1) })
}

/// The sum of pieces.
#[derive(Debug, Default)]
struct Sum {
    rows: i64,
    hash: i128,
}

impl Sum {
    fn add(&mut self, piece: &Summary) -> Result<()> {
        self.rows += piece.rows;
        if !piece.hash.is_empty() {
            let hash: i128 = (piece.hash.parse())
                .map_err(|_| Error::Failed(format!("{} is no sum of hashes", piece.hash)))?;
            // A sum of 64 bit numbers, of fewer than 2^63 rows.
            self.hash = self.hash.wrapping_add(hash);
        }
        Ok(())
    }

    fn into_summary(self, verify: Verify) -> Summary {
        let hash = if verify == Verify::Full { self.hash.to_string() } else { String::new() };
        Summary { rows: self.rows, hash }
    }
}

fn note(notes: &mut Vec<String>, text: String) {
    if notes.len() < NAMED_MAX {
        notes.push(text);
    }
}
