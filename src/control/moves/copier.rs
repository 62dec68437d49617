//! A worker of a copy. Each range is one COPY out of the source straight into one COPY into the target, in one transaction with
//! its line in the journal.
//!
//! A session that is lost costs the range that it was at: the journal says which of its transactions counts. Only the
//! snapshot can't be had again.
//!
//! A table of one range is read by the control plane, since nothing is planned for that; ranges of larger ones by the
//! operation's reader.
//!
//! All ranges of a table are read from one file. VACUUM FULL and CLUSTER keep what the snapshot sees, but give rows other
//! places, and neither the guard nor the slot is told: rows would be missed, or copied twice. So the file is looked at
//! when a range was read, under the lock that reading took and before anything is committed; if it is another one than
//! its table's first, the table is copied anew. TRUNCATE is seen in the same way: the snapshot sees nothing of the new file,
//! and the slot repeats the truncation.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use shard_map::{Access, Server};

use super::copy::{Job, TEXT_SETTINGS};
use super::journal;
use super::pause;
use super::progress::Progress;
use super::ranges::Range;
use crate::context::back_off;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::tables::{self, Table};
use crate::server::{Connection, Connector};

/// Bytes that are sent to the target at once.
const PIECE_BYTES: usize = 64 << 10;
/// How long a worker may go without getting a range across, before the copy is begun anew.
const DISTURBED_MAX: Duration = Duration::from_mins(5);

/// How a range failed.
enum Failure {
    /// Another try may do: a session was lost, or a lock was not to be had.
    Passing(Error),
    /// Not without a new snapshot, or not at all.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        if error.is_transient() { Self::Passing(error) } else { Self::Final(error) }
    }
}

/// Copies range after range, until none is left.
pub(super) async fn run(job: Arc<Job>) -> Result<()> {
    let mut sessions = Sessions { job: &job, sources: HashMap::new(), targets: HashMap::new() };
    let mut disturbed: Option<(Instant, u32)> = None;
    while let Some(range) = job.queue.next().await {
        // Between ranges and not within one: what a range has locked would be locked for as long as the pause.
        pause::wait(&job.catalog, job.operation).await?;
        match copy(&mut sessions, range).await {
            Ok(()) => {
                job.queue.done(&range);
                job.progress.tables.store(job.queue.tables_done() as u64, Relaxed);
                disturbed = None;
            }
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Passing(error)) => {
                job.queue.give_back(range);
                let (since, tries) = disturbed.get_or_insert((Instant::now(), 0));
                if since.elapsed() > DISTURBED_MAX {
                    return Err(error);
                }
                let table = &job.tables[range.table].name;
                tracing::warn!(table, first_block = range.from, %error, "a range is copied again");
                sessions.end().await;
                *tries += 1;
                back_off(*tries).await;
            }
        }
    }
    Ok(())
}

/// Who reads at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Eyes {
    Control,
    Reader,
}

/// A worker's sessions: one at the source for each who reads, and one at the target for each role that writes.
struct Sessions<'j> {
    job: &'j Job,
    sources: HashMap<Eyes, Session>,
    targets: HashMap<Option<Access>, Session>,
}

struct Session {
    connection: Connection,
    process: i32,
}

impl Session {
    async fn of(connection: Connection) -> Result<Self> {
        connection.run(TEXT_SETTINGS).await?;
        let connection = connection.without_statement_limit().await?;
        let process = connection.value("SELECT pg_catalog.pg_backend_pid()", &[]).await?;
        Ok(Self { connection, process })
    }
}

impl Sessions<'_> {
    /// Both sides, for a table that this role writes.
    async fn both(&mut self, eyes: Eyes, writer: Option<Access>) -> Result<(&Connection, &Connection)> {
        let source = match self.sources.entry(eyes) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(Session::of(source(self.job, eyes).await?).await?),
        };
        let target = match self.targets.entry(writer) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => place.insert(Session::of(target(self.job, writer).await?).await?),
        };
        Ok((&source.connection, &target.connection))
    }

    /// Ends them, also at servers that have not noticed that they are lost: a transaction that nobody can end would keep its
    /// locks.
    async fn end(&mut self) {
        let sides = &self.job.sides;
        let sources: Vec<i32> = self.sources.drain().map(|(_, session)| session.process).collect();
        let targets: Vec<i32> = self.targets.drain().map(|(_, session)| session.process).collect();
        for (server, database, processes) in [
            (&sides.source, &sides.source_database, sources),
            (&sides.target, &sides.target_database, targets),
        ] {
            // A server that does not answer is asked again by who needs it.
            drop(terminate(&self.job.connector, server, (database, &processes)).await);
        }
    }
}

async fn terminate(
    connector: &Connector,
    server: &Server,
    (database, processes): (&str, &[i32]),
) -> Result<()> {
    const SQL: &str = "
        SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND pid = ANY ($2)";
    let registry = connector.registry(server).await?;
    registry.rows(SQL, &[&database, &processes]).await.map(drop)
}

async fn source(job: &Job, eyes: Eyes) -> Result<Connection> {
    let sides = &job.sides;
    if eyes == Eyes::Control {
        return job.connector.database(&sides.source, &sides.source_database).await;
    }
    let mut sessions = job.reader.sessions(&sides.source_database, 1).await?;
    sessions.pop().ok_or_else(|| Error::Failed("the reader has no session".into()))
}

/// A session that writes as the role. Nothing that a check, a domain or a generated column does makes it a superuser's: it
/// logged in as what it is.
async fn target(job: &Job, writer: Option<Access>) -> Result<Connection> {
    let (connector, sides) = (&job.connector, &job.sides);
    let (server, database) = (&sides.target, sides.target_database.as_str());
    match writer {
        Some(access) => connector.as_role_in(server, (&sides.to, access), database).await,
        None => connector.database(server, database).await,
    }
}

async fn copy(sessions: &mut Sessions<'_>, range: Range) -> std::result::Result<(), Failure> {
    let job = sessions.job;
    let table = &job.tables[range.table];
    failpoint::pause("range", &table.name, range.from).await;
    let writer = job.writer(table);
    // What belongs to none of the tenant's roles, its reader may not read.
    let eyes = if range.is_whole() || writer.is_none() { Eyes::Control } else { Eyes::Reader };
    let (source, target) = sessions.both(eyes, writer).await?;
    // A transaction a range: a longer one would keep its locks on tables that are long done, and an application's
    // TRUNCATE, with all that queues behind it, would wait for the whole copy.
    begin(source, &job.sides.snapshot).await?;
    target.run("BEGIN").await?;
    let mut sent = Sent { progress: &job.progress, bytes: 0 };
    let rows = pipe(job, (range, table), (source, target), &mut sent).await?;
    failpoint::pause("loaded", &table.name, range.from).await;
    failpoint::reach("copy_loaded").await;
    if !range.is_whole() {
        // Code that ran while the range was planned may have set another one.
        source.run("SET LOCAL search_path = ''").await?;
        // This also shows that the lock is still held, so that nobody has begun anew what is committed next.
        let (file, blocks) = tables::file_of(source, table).await?;
        if file != range.file {
            target.run("ROLLBACK").await?;
            source.run("ROLLBACK").await?;
            return Ok(begin_anew(job, range, (file, blocks)).await?);
        }
    }
    if journal::note(target, table, &range, (rows, sent.bytes)).await? {
        target.run("COMMIT").await?;
    } else {
        target.run("ROLLBACK").await?;
    }
    failpoint::pause("copied", &table.name, range.from).await;
    failpoint::reach("copy_committed").await;
    // What was set in it goes, too.
    source.run("ROLLBACK").await?;
    sent.counts();
    job.progress.rows.fetch_add(rows, Relaxed);
    Ok(())
}

async fn begin(source: &Connection, snapshot: &str) -> std::result::Result<(), Failure> {
    let begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'");
    match source.run(&begin).await {
        // No such snapshot (22023 before PostgreSQL 16); whoever exported it has ended.
        Err(error) if matches!(error.sqlstate(), Some("22023" | "42704" | "55000")) => {
            Err(Failure::Final(Error::Timeout(format!("the copy's snapshot is gone: {error}"))))
        }
        outcome => Ok(outcome?),
    }
}

/// Puts a table in anew whose rows lie elsewhere now, unless another worker has done so.
async fn begin_anew(job: &Job, range: Range, (file, blocks): (u32, i64)) -> Result<()> {
    let _turn = job.anew.lock().await;
    if !job.queue.is_current(&range) {
        return Ok(());
    }
    let table = &job.tables[range.table];
    tracing::info!(table = table.name, "rewritten meanwhile: its rows are copied anew");
    // By the control plane itself: a writer need not be allowed to.
    let target = target(job, None).await?;
    let (rows, bytes) = journal::forget(&target, table, file).await?;
    target.close().await;
    job.progress.take_back(rows, bytes);
    job.queue.begin_anew(range.table, file, blocks);
    Ok(())
}

/// Bytes of a range on their way, which count as copied unless the range fails.
struct Sent<'p> {
    progress: &'p Progress,
    bytes: u64,
}

impl Sent<'_> {
    fn add(&mut self, bytes: u64) {
        self.progress.bytes.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    /// The range is across.
    fn counts(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.progress.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// Streams one range from side to side; holds one piece at a time. Returns how many rows it has.
async fn pipe(
    job: &Job,
    (range, table): (Range, &Table),
    (source, target): (&Connection, &Connection),
    sent: &mut Sent<'_>,
) -> Result<u64> {
    let binary = job.same_version && table.binary && !table.columns.is_empty();
    let format = if binary { "binary" } else { "text" };
    let out = source.client().copy_out(&range.copy_out(table, format)).await.map_err(|e| source.error(&e))?;
    let into = format!("COPY {}{} FROM STDIN (FORMAT {format})", table.name, table.column_list());
    let sink = target.client().copy_in::<_, Bytes>(&into).await.map_err(|e| target.error(&e))?;
    tokio::pin!(out, sink);
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
            sent.add(length);
        }
        if chunk.is_none() {
            break;
        }
    }
    sink.finish().await.map_err(|e| target.error(&e))
}
