//! Rows, from the snapshot, by several workers, in ranges. What may be tried again without harm is; only without its snapshot
//! a copy is begun anew.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use catalog::Catalog;
use serde_json::json;
use shard_map::{Access, Server, Tenant, TenantId};
use tokio::task::JoinSet;

use super::copier;
use super::driver::Move;
pub(crate) use super::journal::JOURNAL;
use super::progress::Progress;
use super::queue::Queue;
use super::throttle::Throttle;
use crate::context::{Work, back_off};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::reader::Reader;
use crate::server::tables::{self, Table};
use crate::server::{Connector, database, ident};

/// Sessions of earlier tries that may just be leaving.
const SESSIONS_LEAVING: usize = 5;
/// Tries to close the target again after a copy.
const CLOSE_TRIES: u32 = 12;
/// Both sides must write and read text alike.
pub(super) const TEXT_SETTINGS: &str = "
    SET client_encoding = 'UTF8'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3";

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
    /// Whether none but superusers are let into the source. Then each table is read at once, for which nothing is planned: a
    /// reader would have to be let in, and Postgres lets in all roles or none.
    pub(crate) is_closed: bool,
}

/// What all workers of a copy share.
pub(super) struct Job {
    pub(super) connector: Connector,
    /// Reads at the source.
    pub(super) reader: Reader,
    pub(super) sides: Sides,
    pub(super) same_version: bool,
    pub(super) tables: Vec<Table>,
    pub(super) queue: Queue,
    /// Held by who puts a table in anew.
    pub(super) anew: tokio::sync::Mutex<()>,
    pub(super) throttle: Arc<Throttle>,
    /// Where the operation is on record.
    pub(super) catalog: Catalog,
    pub(super) operation: i64,
    pub(super) progress: Arc<Progress>,
}

impl Job {
    /// The role that writes a table's rows: its owner, if that is one of the tenant's; else the control plane's.
    pub(super) fn writer(&self, table: &Table) -> Option<Access> {
        table.owner_of(&self.sides.from)
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
        is_closed: false,
    };
    // A copy that is begun anew counts anew.
    the_move.progress = Arc::default();
    rows(the_move.work, sides, the_move.throttle.clone(), the_move.progress.clone()).await?;
    // The rows are there; from here on the slot alone holds what follows.
    the_move.snapshot = None;
    Ok(())
}

/// Copies all rows of a snapshot into tables that are there and empty; the target has the copy's journal.
pub(crate) async fn rows(
    work: &Work,
    sides: Sides,
    throttle: Arc<Throttle>,
    progress: Arc<Progress>,
) -> Result<()> {
    let job = Arc::new(prepare(work, sides, throttle, progress).await?);
    let context = &work.context;
    let sessions = context.config.copy_workers * Access::ALL.len() + SESSIONS_LEAVING;
    let sessions = i32::try_from(sessions).unwrap_or(i32::MAX);
    if !job.sides.is_closed {
        job.reader.put().await?;
    }
    set_limit(work, &job.sides, sessions).await?;
    failpoint::reach("copy_opened").await;
    let mut workers = JoinSet::new();
    for _ in 0..context.config.copy_workers {
        workers.spawn(copier::run(job.clone()));
    }
    let all = async {
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|e| Error::Failed(e.to_string()))??;
        }
        Ok::<(), Error>(())
    };
    let outcome = tokio::select! {
        outcome = all => outcome,
        outcome = job.progress.report(work, &job.throttle) => outcome,
    };
    // What opened it may have broken meanwhile, like the workers' sessions.
    let mut tries = 0;
    let closed = loop {
        match set_limit(work, &job.sides, 0).await {
            Err(error) if outcome.is_ok() && error.is_transient() && tries < CLOSE_TRIES => tries += 1,
            closed => break closed,
        }
        back_off(tries).await;
    };
    outcome?;
    closed?;
    failpoint::reach("copy_closed").await;
    job.progress.write(work, 0, None).await?;
    context.metrics.rows_copied.inc_by(job.progress.rows.load(Relaxed));
    context.metrics.bytes_copied.inc_by(job.progress.bytes.load(Relaxed));
    Ok(())
}

/// How many sessions of the tenant's roles the target takes.
async fn set_limit(work: &Work, sides: &Sides, sessions: i32) -> Result<()> {
    let registry = work.context.connector.registry(&sides.target).await?;
    database::set_limit(&registry, work.term, &sides.target_database, sessions).await
}

async fn prepare(work: &Work, sides: Sides, throttle: Arc<Throttle>, progress: Arc<Progress>) -> Result<Job> {
    let connector = work.context.connector.clone();
    // A table that is being rewritten is waited for.
    let source = connector.database(&sides.source, &sides.source_database).await?;
    let source = source.without_statement_limit().await?;
    let target = connector.database(&sides.target, &sides.target_database).await?;
    let roles = Access::ALL.map(|access| ident(&access.role(&sides.to.id))).join(", ");
    target
        .run(&format!(
            "GRANT USAGE ON SCHEMA tenantry TO {roles}; GRANT INSERT ON tenantry.copied TO {roles}"
        ))
        .await?;
    let mut tables = tables::list(&source).await?;
    if sides.is_closed {
        // Nobody is there to rewrite one meanwhile.
        tables.iter_mut().for_each(|table| table.blocks = 0);
    }
    work.remember(&json!({
        "tables_total": tables.len(), "tables_copied": 0,
        "rows_total": tables.iter().map(|table| table.rows_estimate).sum::<i64>(),
        "bytes_total": tables.iter().map(|table| table.bytes).sum::<i64>(),
        "rows_copied": 0, "bytes_copied": 0,
    }))
    .await?;
    const MAJOR: &str = "SELECT current_setting('server_version_num')::int / 10000";
    let same_version = source.value::<i32>(MAJOR, &[]).await? == target.value::<i32>(MAJOR, &[]).await?;
    Ok(Job {
        connector,
        reader: Reader::of(work, &sides.source, &sides.from),
        sides,
        same_version,
        queue: Queue::of(&tables),
        anew: tokio::sync::Mutex::default(),
        tables,
        throttle,
        catalog: work.context.catalog.clone(),
        operation: work.operation.id,
        progress,
    })
}
