//! Rows, from the snapshot, by several workers, in ranges. Each range is one COPY out of the source straight into one
//! COPY into the target, in one transaction with its line in the journal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use shard_map::Server;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::driver::Move;
use super::progress::Progress;
use super::ranges::{Range, cut};
use super::throttle::Throttle;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::tables::{self, Table};
use crate::server::{Connection, Connector};

/// How often the copy's rate is adapted to what routers measure.
const ADAPT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes that are sent to the target at once.
const PIECE_BYTES: usize = 64 << 10;
/// Both sides must write and read text alike.
pub(super) const TEXT_SETTINGS: &str = "
    SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3";

/// What all workers of a copy share.
struct Job {
    connector: Connector,
    source: Server,
    target: Server,
    source_database: String,
    target_database: String,
    snapshot: String,
    same_version: bool,
    tables: Vec<Table>,
    ranges: Mutex<VecDeque<Range>>,
    throttle: Throttle,
    progress: Arc<Progress>,
}

/// Copies all rows.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    // A copy that is begun anew counts anew.
    the_move.progress = Arc::default();
    let job = Arc::new(prepare(the_move).await?);
    let context = the_move.work.context.clone();
    let mut workers = JoinSet::new();
    for _ in 0..context.config.copy_workers {
        workers.spawn(work(job.clone()));
    }
    let all = async {
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|e| Error::Failed(e.to_string()))??;
        }
        Ok::<(), Error>(())
    };
    tokio::select! {
        outcome = all => outcome?,
        outcome = job.progress.report(the_move.work) => outcome?,
        () = adapt(&context, &job) => {}
    }
    job.progress.write(the_move.work, 0).await?;
    context.metrics.rows_copied.inc_by(job.progress.rows.load(Relaxed));
    context.metrics.bytes_copied.inc_by(job.progress.bytes.load(Relaxed));
    // The rows are there; from here on the slot alone holds what follows.
    the_move.snapshot = None;
    Ok(())
}

async fn prepare(the_move: &Move<'_>) -> Result<Job> {
    let Some((_, snapshot)) = &the_move.snapshot else {
        return Err(Error::Timeout("the snapshot is gone".into()));
    };
    let context = &the_move.work.context;
    let source = the_move.source_database().await?;
    let target = the_move.arriving_database().await?;
    let tables = tables::list(&source).await?;
    the_move
        .work
        .remember(&json!({
            "rows_total": tables.iter().map(|table| table.rows_estimate).sum::<i64>(),
            "bytes_total": tables.iter().map(|table| table.bytes).sum::<i64>(),
            "rows_copied": 0, "bytes_copied": 0,
        }))
        .await?;
    const MAJOR: &str = "SELECT current_setting('server_version_num')::int / 10000";
    let same_version = source.value::<i32>(MAJOR, &[]).await? == target.value::<i32>(MAJOR, &[]).await?;
    Ok(Job {
        connector: context.connector.clone(),
        source: the_move.source.clone(),
        target: the_move.target.clone(),
        source_database: the_move.id.live_database().to_owned(),
        target_database: the_move.id.arriving_database(),
        snapshot: snapshot.clone(),
        same_version,
        ranges: Mutex::new(cut(&tables).into()),
        tables,
        throttle: Throttle::new(context.config.copy_bytes_per_second_max),
        progress: the_move.progress.clone(),
    })
}

/// One worker: a session on each side, range after range.
async fn work(job: Arc<Job>) -> Result<()> {
    let source =
        job.connector.database(&job.source, &job.source_database).await?.without_statement_limit().await?;
    let target =
        job.connector.database(&job.target, &job.target_database).await?.without_statement_limit().await?;
    source.run(TEXT_SETTINGS).await?;
    target.run(TEXT_SETTINGS).await?;
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
        job.snapshot
    );
    loop {
        let Some(range) = job.ranges.lock().await.pop_front() else { return Ok(()) };
        // A transaction a range: a longer one would keep its locks on tables that are long done, and an application's
        // TRUNCATE, with all that queues behind it, would wait for the whole copy.
        source.run(&begin).await?;
        copy_range(&job, range, &source, &target).await?;
        source.run("COMMIT").await?;
    }
}

async fn copy_range(job: &Job, range: Range, source: &Connection, target: &Connection) -> Result<()> {
    let table = &job.tables[range.table];
    let format =
        if job.same_version && table.binary && !table.columns.is_empty() { "binary" } else { "text" };
    target.run("BEGIN").await?;
    let (rows, bytes) = pipe(job, (range, table, format), source, target).await?;
    let (rows_written, bytes_written) =
        (i64::try_from(rows).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(i64::MAX));
    const JOURNAL: &str =
        "INSERT INTO tenantry.copied (table_name, first_block, rows, bytes) VALUES ($1, $2, $3, $4)";
    target.rows(JOURNAL, &[&table.name, &range.from, &rows_written, &bytes_written]).await?;
    target.run("COMMIT").await?;
    job.progress.rows.fetch_add(rows, Relaxed);
    Ok(())
}

/// Streams one range from side to side; holds one piece at a time.
async fn pipe(
    job: &Job,
    (range, table, format): (Range, &Table, &str),
    source: &Connection,
    target: &Connection,
) -> Result<(u64, u64)> {
    let out = source.client().copy_out(&range.copy_out(table, format)).await.map_err(|e| source.error(&e))?;
    let into = format!("COPY {}{} FROM STDIN (FORMAT {format})", table.name, table.column_list());
    let sink = target.client().copy_in::<_, Bytes>(&into).await.map_err(|e| target.error(&e))?;
    tokio::pin!(out, sink);
    let mut bytes = 0;
    // The source sends a message for each row; they go on in larger pieces.
    let mut piece = BytesMut::with_capacity(PIECE_BYTES);
    loop {
        let chunk = out.next().await.transpose().map_err(|e| source.error(&e))?;
        if let Some(chunk) = &chunk {
            piece.extend_from_slice(chunk);
        }
        if piece.len() >= PIECE_BYTES || chunk.is_none() {
            let length = piece.len() as u64;
            job.throttle.take(length).await;
            sink.send(piece.split().freeze()).await.map_err(|e| target.error(&e))?;
            job.progress.bytes.fetch_add(length, Relaxed);
            bytes += length;
        }
        if chunk.is_none() {
            break;
        }
    }
    let rows = sink.finish().await.map_err(|e| target.error(&e))?;
    Ok((rows, bytes))
}

/// Follows what routers measure on both servers, for as long as the copy goes on.
async fn adapt(context: &Arc<Context>, job: &Job) {
    let before = slowest(context, job).await;
    loop {
        tokio::time::sleep(ADAPT_INTERVAL).await;
        job.throttle.adapt(before, slowest(context, job).await);
    }
}

/// The longest mean transaction time on either server, as any router saw it lately, in microseconds.
async fn slowest(context: &Context, job: &Job) -> Option<u64> {
    let routers = context.catalog.live_routers(context.config.router_timeout).await.ok()?;
    let on_both = [&job.source, &job.target];
    let times =
        routers.iter().flat_map(|router| on_both.map(|s| router.report.transaction_us.get(s.name.as_str())));
    times.flatten().copied().max()
}
