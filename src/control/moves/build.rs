//! Indexes, constraints, triggers and views on the loaded rows; then the subscription that brings what was written
//! meanwhile.

use super::driver::Move;
use super::programs::Programs;
use super::schema::{dump_file, restore};
use super::stream::{self, Publisher};
use super::{identity, pause, statistics, watchdog};
use crate::error::Result;
use crate::failpoint;
use crate::restore::{Section, remove_archive};
use crate::server::Connection;

/// Jobs with which indexes are built; and where other tenants are at work.
const BUILD_JOBS: &str = "--jobs=2";
const BUILD_JOBS_CONSIDERATE: &str = "--jobs=1";

/// Builds, then subscribes.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    let programs = Programs::for_server(&work.context, &the_move.source_registry().await?).await?;
    let (file, arriving) = (dump_file(the_move), the_move.id.arriving_database());
    pause::wait(&work.context.catalog, work.operation.id).await?;
    let restore = restore(the_move, &file, (programs, &arriving)).await?;
    failpoint::reach("build_listed").await;
    let at_work = the_move.throttle.at_work();
    // A statement can't be slowed down once it runs: there are fewer at a time.
    let considerate = the_move.throttle.has_neighbours();
    let jobs = if considerate { BUILD_JOBS_CONSIDERATE } else { BUILD_JOBS };
    restore.section(Section::PostData(jobs)).await?;
    restore.end().await?;
    failpoint::reach("build_restored").await;
    // While the move is paused it does nothing.
    drop(at_work);
    remove_files(the_move).await;

    let target = the_move.arriving_database().await?.without_statement_limit().await?;
    let source = the_move.source_database().await?;
    pause::wait(&work.context.catalog, work.operation.id).await?;
    let _at_work = the_move.throttle.at_work();
    let there = (&the_move.target, arriving.as_str());
    statistics::gather(&work.context.connector, there, the_move.throttle.has_neighbours()).await?;
    failpoint::reach("build_analyzed").await;
    refresh_views(&source, &target).await?;
    failpoint::reach("build_refreshed").await;
    // Whoever is let in here can write to every table, also to one whose identity on the source is younger than the
    // snapshot; and no schema change passes the watchdog.
    identity::set(&target, &identity::missing(&target).await?).await?;
    watchdog::put_up(&target).await?;
    failpoint::reach("build_watched").await;
    let publisher = Publisher {
        server: &the_move.source,
        database: the_move.id.live_database(),
        name: &the_move.names.forward,
        password: work.context.key.move_password(work.operation.id),
        version: stream::version(&source).await?,
    };
    stream::follow(&work.context, &publisher, &target).await
}

/// Removes what this phase and the schema's kept on disk.
pub(crate) async fn remove_files(the_move: &Move<'_>) {
    remove_archive(&dump_file(the_move)).await;
}

/// Fills the materialized views that are filled on the source. One may read another: passes until all are.
pub(crate) async fn refresh_views(source: &Connection, target: &Connection) -> Result<()> {
    const VIEWS: &str = "
        SELECT format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND c.relispopulated";
    let filled = source.rows(VIEWS, &[]).await?;
    let mut left: Vec<String> = filled.iter().map(|row| row.get(0)).collect();
    while !left.is_empty() {
        let mut failed = Vec::new();
        let mut reason = None;
        for view in &left {
            if let Err(error) = target.run(&format!("REFRESH MATERIALIZED VIEW {view}")).await {
                failed.push(view.clone());
                reason = Some(error);
            }
        }
        if let Some(error) = reason
            && failed.len() == left.len()
        {
            return Err(error);
        }
        left = failed;
    }
    Ok(())
}
