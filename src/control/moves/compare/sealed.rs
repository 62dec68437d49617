//! Compares both sides as they were at the switch, while traffic runs on the target: the sealed source against a snapshot
//! of the target from before anybody was let in. Neither changes, so a table's pieces need not be the same on both sides:
//! each is read by its blocks, one short statement after another, and the sums are compared.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use shard_map::Server;

use super::super::driver::{Move, Verify};
use super::super::ranges::{Range, cut_one};
use super::super::throttle::Throttle;
use super::super::window;
use super::range::{Summary, aggregate};
use super::session;
use crate::error::{Error, Result};
use crate::server::Connection;
use crate::server::reader::Reader;
use crate::server::tables::{self, Table};

/// How long a comparison may last: its snapshot keeps vacuum on the target from its work.
const TIME_MAX: Duration = Duration::from_hours(1);
/// What is said of what it then leaves out.
const TOOK_TOO_LONG: &str = "the comparison took too long";
/// Bytes of a block of Postgres, as it is built by default; for the throttle only.
const BLOCK_BYTES: u64 = 8192;
/// Tables, differences and the like that are kept by name. The largest tables come first.
const NAMED_MAX: usize = 100;

/// What is said of a table whose owner has taken the right to read it from its own role.
const NOT_ITS_OWNERS: &str = "its owner may not read it";

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
    let [at_source, at_target] = the_move.readers();
    at_source.put().await?;
    at_target.put().await?;
    const EXPORT: &str = "SELECT pg_catalog.pg_export_snapshot()";
    let snapshot: String = target.connection.value(EXPORT, &[]).await?;
    let (sealed, live) = (the_move.id.sealed_database(), the_move.id.live_database());
    let source = Side::open(the_move, (&the_move.source, &sealed), &at_source, None).await?;
    let there = Side::open(the_move, (&the_move.target, live), &at_target, Some(&snapshot)).await?;
    let mut found = Found::default();
    let (throttle, verify) = (&the_move.throttle, the_move.input.verify);
    for table in &tables::list(&source.control).await? {
        if began.elapsed() > TIME_MAX {
            note(&mut found.not_compared, format!("{}: {TOOK_TOO_LONG}", table.name));
            continue;
        }
        let is_own = table.owner_of(&the_move.id).is_some();
        let both = Both { source: &source, there: &there, target, throttle, verify, began, is_own };
        match both.compare(table, &mut found).await {
            Err(error) if error.sqlstate() == Some("42501") => {
                note(&mut found.not_compared, format!("{}: {NOT_ITS_OWNERS}", table.name));
            }
            outcome => outcome?,
        }
    }
    if !found.differences.is_empty() {
        tracing::error!(operation = work.operation.id, differences = ?found.differences, "source and target differ");
    }
    Ok(found)
}

/// Sessions in one side's database.
struct Side {
    control: Connection,
    reader: Connection,
    /// Begins the transaction in which a piece is read.
    begin: String,
}

impl Side {
    /// `snapshot`: an exported one, in which everything is read.
    async fn open(
        the_move: &Move<'_>,
        (server, database): (&Server, &str),
        reader: &Reader,
        snapshot: Option<&str>,
    ) -> Result<Self> {
        let control = the_move.work.context.connector.database(server, database).await?;
        let mut sessions = reader.sessions(database, 1).await?;
        let reader = sessions.pop().ok_or_else(|| Error::Failed("the reader has no session".into()))?;
        let begin = match snapshot {
            Some(snapshot) => format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
            ),
            None => "BEGIN READ ONLY".to_owned(),
        };
        Ok(Self { control: session(control).await?, reader: session(reader).await?, begin })
    }

    /// What a piece of a table holds. In a transaction that is rolled back: the table is not kept locked, since an
    /// application's TRUNCATE, or a change of its replica identity, must not wait for the whole comparison; and what a
    /// function of the tenant's sets goes with it.
    async fn summary(&self, sql: &str, is_own: bool) -> Result<Summary> {
        // What belongs to none of the tenant's roles, its reader may not read.
        let eyes = if is_own { &self.reader } else { &self.control };
        eyes.run(&self.begin).await?;
        let row = eyes.row(sql, &[]).await;
        let ended = eyes.run("ROLLBACK").await;
        // What went wrong first says why.
        let row = row?.ok_or_else(|| Error::Failed("no answer to a count".into()))?;
        ended?;
        Ok(Summary { rows: row.get(0), hash: row.get(1) })
    }
}

/// Both sides of a table.
struct Both<'c> {
    source: &'c Side,
    there: &'c Side,
    target: &'c TargetSnapshot,
    throttle: &'c Throttle,
    verify: Verify,
    began: Instant,
    /// Whether it belongs to one of the tenant's roles.
    is_own: bool,
}

impl Both<'_> {
    async fn compare(&self, table: &Table, found: &mut Found) -> Result<()> {
        let name = &table.name;
        if !self.target.files.contains_key(name) {
            note(&mut found.differences, format!("{name}: no such table on the target"));
            return Ok(());
        }
        let (_, blocks) = tables::file_of(&self.source.control, table).await?;
        // At the end of the transaction it is what is read; it only says how to cut.
        let target_blocks = self.target_blocks(table).await?;
        // Both to their ends: the next table is read in the same sessions.
        let (expected, found_there) =
            tokio::join!(self.read(table, blocks, self.source), self.read(table, target_blocks, self.there));
        let (expected, found_there) = (expected?, found_there?);
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
    async fn read(&self, table: &Table, blocks: i64, side: &Side) -> Result<Option<Summary>> {
        let mut sum = Sum::default();
        for piece in cut_one(0, table.file, blocks) {
            if self.began.elapsed() > TIME_MAX {
                return Ok(None);
            }
            let bytes = piece.to.unwrap_or(blocks).saturating_sub(piece.from);
            self.throttle.take(u64::try_from(bytes).unwrap_or(0) * BLOCK_BYTES).await;
            let sql = statement(table, &piece, self.verify);
            let piece = side.summary(&sql, self.is_own).await?;
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
