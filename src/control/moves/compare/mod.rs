//! Compares both sides before the cutover, while the application works on the source and the target follows. Range by range of
//! a key, each read at once and on its own: no transaction lasts long, on either side. Where a range differs, its rows are
//! looked at until each was seen alike on both sides ([`settle`]); one that never is ends the move, and the tenant stays where
//! it is.
//!
//! What it does not promise: that nothing goes wrong later. What was compared goes on to change, and is compared once more
//! after the switch ([`sealed`]).

mod key;
mod range;
pub(super) mod sealed;
mod settle;
mod stream;
mod tally;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};

use futures_util::future::try_join_all;
use serde_json::json;

use self::key::Key;
pub(super) use self::range::Summary;
use self::range::{Range, RowKey, shortened};
use self::settle::{LOOKS_MAX, Unsettled, rest, samples};
use self::stream::Stream;
use self::tally::{Compared, Tally};
use super::copy;
use super::driver::{Move, Verify};
use super::pause;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::Connection;
use crate::server::tables::{self, Table};

/// Most rows of a range. With failpoints few, so that the tables of tests have several.
const ROWS_MAX: i64 = if cfg!(feature = "failpoints") { 1000 } else { 20_000 };
/// Fewest, however wide they are said to be.
const ROWS_MIN: i64 = 100;
/// About as many bytes a range has, of wide rows.
const BYTES_MAX: i64 = 16 << 20;
/// By how much the rows of a range may grow while it is looked at.
const GROWTH_MAX: i64 = 4;
/// A table without a key is read as a whole, each time, and its rows are held in memory: up to so many,
const KEYLESS_ROWS_MAX: i64 = 50_000;
/// and of so many bytes.
const KEYLESS_BYTES_MAX: i64 = 64 << 20;
/// Both sides must write values alike.
const TEXT_SETTINGS: &str = "
    SET timezone = 'UTC'; SET bytea_output = 'hex'; SET lc_monetary = 'C'; SET xmlbinary = 'base64'";

/// Compares all tables. A difference is an error that no other try mends.
pub(super) async fn run(the_move: &Move<'_>) -> Result<()> {
    if the_move.input.verify == Verify::None {
        return Ok(());
    }
    let control = Pair::control(the_move).await?;
    let Pair { source, target } = &control;
    let keys = key::common(source, target).await?;
    let tables = tables::list(source).await?;
    let compared = Compared::found(the_move).await?;
    let job =
        Job { the_move, keys, tally: Tally::of(compared, tables.len()), tables, next: AtomicUsize::new(0) };
    let stream = Stream { the_move };
    let context = &the_move.work.context;
    let all = async {
        stream.comes_close(source, target).await?;
        let readers = Pair::readers(the_move, context.config.copy_workers).await?;
        let workers = readers.into_iter().map(|reader| job.worker(reader));
        try_join_all(workers).await.map(drop)
    };
    let outcome = tokio::select! {
        outcome = all => outcome,
        outcome = stream.keep() => outcome,
        outcome = job.tally.report(the_move.work) => outcome,
    };
    outcome?;
    job.tally.end(the_move.work).await
}

/// How many rows of a table are compared at once.
fn rows_of_a_range(table: &Table) -> i64 {
    // Without statistics nothing is known of how wide they are.
    let bytes = if table.rows_estimate > 0 { table.bytes / table.rows_estimate } else { 0 };
    (BYTES_MAX / bytes.max(1)).clamp(ROWS_MIN, ROWS_MAX)
}

/// About how many bytes so many rows of a table have.
fn bytes_of(table: &Table, rows: i64) -> u64 {
    let all = i128::from(table.rows_estimate.max(rows).max(1));
    u64::try_from(i128::from(table.bytes) * i128::from(rows) / all).unwrap_or(0)
}

async fn session(connection: Connection) -> Result<Connection> {
    pin_text(&connection).await?;
    connection.without_statement_limit().await
}

async fn pin_text(connection: &Connection) -> Result<()> {
    connection.run(copy::TEXT_SETTINGS).await?;
    connection.run(TEXT_SETTINGS).await
}

/// What all workers share.
struct Job<'m> {
    the_move: &'m Move<'m>,
    tables: Vec<Table>,
    keys: HashMap<String, Key>,
    next: AtomicUsize,
    tally: Tally,
}

/// A session on each side.
struct Pair {
    source: Connection,
    target: Connection,
}

impl Pair {
    /// As the control plane.
    async fn control(the_move: &Move<'_>) -> Result<Self> {
        let (source, target) = (the_move.source_database().await?, the_move.arriving_database().await?);
        Ok(Self { source: session(source).await?, target: session(target).await? })
    }

    /// Some, as the operation's readers.
    async fn readers(the_move: &Move<'_>, count: usize) -> Result<Vec<Self>> {
        let [source, target] = the_move.readers();
        source.put().await?;
        target.put().await?;
        let sources = source.sessions(the_move.id.live_database(), count).await?;
        let targets = target.sessions(&the_move.id.arriving_database(), count).await?;
        let mut pairs = Vec::with_capacity(count);
        for (source, target) in sources.into_iter().zip(targets) {
            pairs.push(Self { source: session(source).await?, target: session(target).await? });
        }
        Ok(pairs)
    }
}

/// Both sides, as one worker has them for a table.
struct Sides<'s> {
    /// To read the table.
    eyes: &'s Pair,
    /// To see how far the stream is.
    control: &'s Pair,
}

impl Job<'_> {
    /// Takes table after table, the largest first.
    async fn worker(&self, reader: Pair) -> Result<()> {
        let control = Pair::control(self.the_move).await?;
        while let Some(table) = self.tables.get(self.next.fetch_add(1, Relaxed)) {
            if self.tally.has(&table.name) {
                continue;
            }
            let key = self.keys.get(&table.name);
            if key.is_none() && (table.rows_estimate > KEYLESS_ROWS_MAX || table.bytes > KEYLESS_BYTES_MAX) {
                self.tally.left_out(&table.name);
                continue;
            }
            // What belongs to none of the tenant's roles, its readers may not read.
            let is_own = table.owner_of(&self.the_move.id).is_some();
            let sides = Sides { eyes: if is_own { &reader } else { &control }, control: &control };
            let rows = self.table(&sides, table, key).await?;
            self.tally.table_done(&table.name, rows);
        }
        Ok(())
    }

    /// Compares one table, range by range; returns its rows.
    async fn table(&self, sides: &Sides<'_>, table: &Table, key: Option<&Key>) -> Result<i64> {
        let rows_max = rows_of_a_range(table);
        let mut range = Range { table, key, verify: self.the_move.input.verify, from: None, to: None };
        let (mut rows, mut number) = (0, 0);
        loop {
            let work = self.the_move.work;
            pause::wait(&work.context.catalog, work.operation.id).await?;
            failpoint::pause("compare", &table.name, number).await;
            range.to = range.end(&sides.eyes.source, rows_max).await?;
            let found = self.range(sides, &range, rows_max).await?;
            self.tally.range_done();
            self.the_move.throttle.take(bytes_of(table, found.rows)).await;
            rows += found.rows;
            number += 1;
            match range.to.take() {
                Some(to) => range.from = Some(to),
                None => return Ok(rows),
            }
        }
    }

    /// Compares one range, until it agrees.
    async fn range(&self, sides: &Sides<'_>, range: &Range<'_>, rows_max: i64) -> Result<Summary> {
        let (source, target) =
            tokio::try_join!(range.summary(&sides.eyes.source), range.summary(&sides.eyes.target))?;
        if source == target {
            return Ok(source);
        }
        self.tally.looked_again();
        let most = if range.key.is_some() { rows_max } else { KEYLESS_ROWS_MAX } * GROWTH_MAX;
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let stream = Stream { the_move: self.the_move };
        for looks in 0..LOOKS_MAX {
            tokio::time::sleep(rest(looks)).await;
            let source = range.rows(&sides.eyes.source, most).await?;
            stream.brings_all(&sides.control.source, &sides.control.target).await?;
            let target = range.rows(&sides.eyes.target, most).await?;
            // Rows that come in masses and go are waited for.
            if let (Some(source), Some(target)) = (source, target) {
                let mut left = Unsettled::of(source, target, range.key.is_none());
                self.tally.settling(left.len());
                return match self.settle(sides, range, &mut left).await? {
                    None => range.summary(&sides.eyes.source).await,
                    Some(row) => Err(self.difference(sides, range, Some(&row)).await?),
                };
            }
        }
        Err(self.difference(sides, range, None).await?)
    }

    /// Looks at rows until all agree; else returns one that does not.
    async fn settle(
        &self,
        sides: &Sides<'_>,
        range: &Range<'_>,
        left: &mut Unsettled,
    ) -> Result<Option<RowKey>> {
        let mut looks = 0;
        while !left.is_empty() {
            looks += 1;
            tokio::time::sleep(rest(looks)).await;
            let keys = left.keys();
            left.source(range.look(&sides.eyes.source, &keys).await?);
            self.look(sides, range, (&keys, samples(looks, keys.len())), left).await?;
            if let Some(row) = left.differing(looks) {
                return Ok(Some(row.clone()));
            }
        }
        Ok(None)
    }

    /// Looks at rows on both sides at once, until the target has all that the source had: on its way there it shows what that
    /// had for a moment only.
    async fn look(
        &self,
        sides: &Sides<'_>,
        range: &Range<'_>,
        (keys, samples): (&[RowKey], u32),
        left: &mut Unsettled,
    ) -> Result<()> {
        let left = Mutex::new(left);
        let unsettled = || left.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = OnceLock::new();
        let source = async {
            for _ in 0..samples {
                let found = range.look(&sides.eyes.source, keys).await?;
                unsettled().more_of_source(found);
            }
            // Set once, here.
            drop(sent.set(Stream { the_move: self.the_move }.probe(&sides.control.source).await?));
            Ok::<(), Error>(())
        };
        let target = async {
            loop {
                let arrived = match sent.get() {
                    Some(probe) => probe.has_arrived(&sides.control.target).await?,
                    None => false,
                };
                let found = range.look(&sides.eyes.target, keys).await?;
                unsettled().target(found);
                if arrived {
                    return Ok::<(), Error>(());
                }
                if let Some(probe) = sent.get() {
                    probe.wait().await?;
                }
            }
        };
        tokio::try_join!(source, target)?;
        match sent.into_inner() {
            Some(probe) => probe.remove(&sides.control.source).await,
            None => Ok(()),
        }
    }

    /// What is said of a range that does not agree.
    async fn difference(&self, sides: &Sides<'_>, range: &Range<'_>, row: Option<&RowKey>) -> Result<Error> {
        let (source, target) =
            tokio::try_join!(range.summary(&sides.eyes.source), range.summary(&sides.eyes.target))?;
        let told = |summary: &Summary| match summary.hash.as_str() {
            "" => format!("{} rows", summary.rows),
            hash => format!("{} rows with hash {hash}", summary.rows),
        };
        let row = row.map_or_else(String::new, |row| format!("; row {} differs", shortened(row)));
        let found = format!(
            "table {}, {}: {} on the source, {} on the target{row}",
            range.table.name,
            range.told(),
            told(&source),
            told(&target)
        );
        let record = json!({ "verified": false, "differences": [&found] });
        self.the_move.work.remember(&record).await?;
        Ok(Error::Failed(format!("before the cutover, the copy differs from the source: {found}")))
    }
}
