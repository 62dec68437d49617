//! Rows, from the snapshot, by several workers, in ranges. Each range is one COPY out of the source straight into one
//! COPY into the target, in one transaction with its line in the journal.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use shard_map::{Access, Server, Tenant, TenantId};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::driver::Move;
use super::progress::Progress;
use super::ranges::{Range, cut};
use super::throttle::Throttle;
use crate::context::{Context, Work};
use crate::error::{Error, Result};
use crate::server::tables::{self, Table};
use crate::server::{Connection, Connector, database, ident};

/// How often the copy's rate is adapted to what routers measure.
const ADAPT_INTERVAL: Duration = Duration::from_secs(1);
/// Bytes that are sent to the target at once.
const PIECE_BYTES: usize = 64 << 10;
/// Sessions of earlier tries that may just be leaving.
const SESSIONS_LEAVING: usize = 5;
/// Both sides must write and read text alike.
pub(super) const TEXT_SETTINGS: &str = "
    SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3";

/// The copy's journal in the target database: each range is written down in the transaction that loads it.
pub(crate) const JOURNAL: &str = "
    CREATE TABLE tenantry.copied (
        table_name text NOT NULL, first_block bigint NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL,
        PRIMARY KEY (table_name, first_block))";

/// From where to where rows are copied.
pub(crate) struct Sides {
    pub(crate) source: Server,
    pub(crate) source_database: String,
    pub(crate) target: Server,
    pub(crate) target_database: String,
    /// Whose rows they are.
    pub(crate) from: TenantId,
    /// Whose they become.
    pub(crate) to: Tenant,
    /// The exported snapshot that is copied.
    pub(crate) snapshot: String,
}

/// What all workers of a copy share.
struct Job {
    connector: Connector,
    sides: Sides,
    same_version: bool,
    tables: Vec<Table>,
    ranges: Mutex<VecDeque<Range>>,
    throttle: Throttle,
    progress: Arc<Progress>,
}

impl Job {
    /// The role that writes a table's rows: its owner, if that is one of the tenant's; else the control plane's.
    fn writer(&self, table: &Table) -> Option<Access> {
        Access::ALL.into_iter().find(|access| access.role(&self.sides.from) == table.owner)
    }
}

/// Copies all rows of a move.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let Some((_, snapshot)) = &the_move.snapshot else {
        return Err(Error::Timeout("the snapshot is gone".into()));
    };
    let sides = Sides {
        source: the_move.source.clone(),
        source_database: the_move.id.live_database().to_owned(),
        target: the_move.target.clone(),
        target_database: the_move.id.arriving_database(),
        from: the_move.id.clone(),
        to: the_move.tenant().await?,
        snapshot: snapshot.clone(),
    };
    // A copy that is begun anew counts anew.
    the_move.progress = Arc::default();
    rows(the_move.work, sides, the_move.progress.clone()).await?;
    // The rows are there; from here on the slot alone holds what follows.
    the_move.snapshot = None;
    Ok(())
}

/// Copies all rows of a snapshot into tables that are there and empty; the target has the copy's journal.
pub(crate) async fn rows(work: &Work, sides: Sides, progress: Arc<Progress>) -> Result<()> {
    let job = Arc::new(prepare(work, sides, progress).await?);
    let context = &work.context;
    let both = [&job.sides.source, &job.sides.target];
    let registry = work.context.connector.registry(&job.sides.target).await?;
    let sessions = context.config.copy_workers * Access::ALL.len() + SESSIONS_LEAVING;
    let sessions = i32::try_from(sessions).unwrap_or(i32::MAX);
    database::set_limit(&registry, work.term, &job.sides.target_database, sessions).await?;
    let mut workers = JoinSet::new();
    for _ in 0..context.config.copy_workers {
        workers.spawn(copy_ranges(job.clone()));
    }
    let all = async {
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|e| Error::Failed(e.to_string()))??;
        }
        Ok::<(), Error>(())
    };
    let outcome = tokio::select! {
        outcome = all => outcome,
        outcome = job.progress.report(work) => outcome,
        () = adapt(context, &job.throttle, &both) => Ok(()),
    };
    let closed = database::set_limit(&registry, work.term, &job.sides.target_database, 0).await;
    outcome?;
    closed?;
    job.progress.write(work, 0).await?;
    context.metrics.rows_copied.inc_by(job.progress.rows.load(Relaxed));
    context.metrics.bytes_copied.inc_by(job.progress.bytes.load(Relaxed));
    Ok(())
}

async fn prepare(work: &Work, sides: Sides, progress: Arc<Progress>) -> Result<Job> {
    let connector = work.context.connector.clone();
    let source = connector.database(&sides.source, &sides.source_database).await?;
    let target = connector.database(&sides.target, &sides.target_database).await?;
    let roles = Access::ALL.map(|access| ident(&access.role(&sides.to.id))).join(", ");
    target
        .run(&format!(
            "GRANT USAGE ON SCHEMA tenantry TO {roles}; GRANT INSERT ON tenantry.copied TO {roles}"
        ))
        .await?;
    let tables = tables::list(&source).await?;
    work.remember(&json!({
        "rows_total": tables.iter().map(|table| table.rows_estimate).sum::<i64>(),
        "bytes_total": tables.iter().map(|table| table.bytes).sum::<i64>(),
        "rows_copied": 0, "bytes_copied": 0,
    }))
    .await?;
    const MAJOR: &str = "SELECT current_setting('server_version_num')::int / 10000";
    let same_version = source.value::<i32>(MAJOR, &[]).await? == target.value::<i32>(MAJOR, &[]).await?;
    Ok(Job {
        connector,
        sides,
        same_version,
        ranges: Mutex::new(cut(&tables).into()),
        tables,
        throttle: Throttle::new(work.context.config.copy_bytes_per_second_max),
        progress,
    })
}

/// One worker: a session on each side, range after range.
async fn copy_ranges(job: Arc<Job>) -> Result<()> {
    let (connector, sides) = (&job.connector, &job.sides);
    let source = connector.database(&sides.source, &sides.source_database).await?;
    let source = source.without_statement_limit().await?;
    source.run(TEXT_SETTINGS).await?;
    let mut targets = HashMap::new();
    let begin = format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
        sides.snapshot
    );
    loop {
        let Some(range) = job.ranges.lock().await.pop_front() else { return Ok(()) };
        // A transaction a range: a longer one would keep its locks on tables that are long done, and an application's
        // TRUNCATE, with all that queues behind it, would wait for the whole copy.
        source.run(&begin).await?;
        let writer = job.writer(&job.tables[range.table]);
        let target = match targets.entry(writer) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(connect_target(&job, writer).await?),
        };
        copy_range(&job, range, &source, target).await?;
        source.run("COMMIT").await?;
    }
}

/// A session that writes as the role. Nothing that a check, a domain or a generated column does makes it a superuser's: it
/// logged in as what it is.
async fn connect_target(job: &Job, writer: Option<Access>) -> Result<Connection> {
    let (connector, sides) = (&job.connector, &job.sides);
    let (server, database) = (&sides.target, sides.target_database.as_str());
    let target = match writer {
        Some(access) => connector.as_role_in(server, (&sides.to, access), database).await?,
        None => connector.database(server, database).await?,
    };
    target.run(TEXT_SETTINGS).await?;
    target.without_statement_limit().await
}

async fn copy_range(job: &Job, range: Range, source: &Connection, target: &Connection) -> Result<()> {
    let table = &job.tables[range.table];
    let format =
        if job.same_version && table.binary && !table.columns.is_empty() { "binary" } else { "text" };
    target.run("BEGIN").await?;
    let (rows, bytes) = pipe(job, (range, table, format), source, target).await?;
    let (rows_written, bytes_written) =
        (i64::try_from(rows).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(i64::MAX));
    const COPIED: &str =
        "INSERT INTO tenantry.copied (table_name, first_block, rows, bytes) VALUES ($1, $2, $3, $4)";
    target.rows(COPIED, &[&table.name, &range.from, &rows_written, &bytes_written]).await?;
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

/// Follows what routers measure on these servers, for as long as it is not dropped.
pub(crate) async fn adapt(context: &Context, throttle: &Throttle, servers: &[&Server]) {
    let before = slowest(context, servers).await;
    loop {
        tokio::time::sleep(ADAPT_INTERVAL).await;
        throttle.adapt(before, slowest(context, servers).await);
    }
}

/// The longest mean transaction time on any of them, as any router saw it lately, in microseconds.
async fn slowest(context: &Context, servers: &[&Server]) -> Option<u64> {
    let routers = context.catalog.live_routers(context.config.router_timeout).await.ok()?;
    let times = routers.iter().flat_map(|router| {
        servers.iter().map(|server| router.report.transaction_us.get(server.name.as_str()))
    });
    times.flatten().copied().max()
}
