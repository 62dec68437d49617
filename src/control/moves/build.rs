//! Indexes, constraints, triggers and views on the loaded rows; then the subscription that brings what was written
//! meanwhile.

use super::driver::Move;
use super::programs::Programs;
use super::schema::dump_file;
use super::stream::{self, Publisher};
use super::{identity, pause, watchdog};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::Connection;

/// Jobs with which indexes are built; and where other tenants are at work.
const BUILD_JOBS: &str = "--jobs=2";
const BUILD_JOBS_CONSIDERATE: &str = "--jobs=1";
/// There, statistics are gathered with pauses, at 40 MB a second or less.
const ANALYZE_CONSIDERATE: &str = "SET vacuum_cost_delay = '20ms'";

/// Builds, then subscribes.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    let programs = Programs::for_server(&work.context, &the_move.source_registry().await?).await?;
    let file = dump_file(the_move);
    let list_file = file.with_extension("list");
    let (Some(path), Some(list_path)) = (file.to_str(), list_file.to_str()) else {
        return Err(Error::Failed("work_dir: its path is not UTF-8".into()));
    };
    pause::wait(&work.context.catalog, work.operation.id).await?;
    let list = programs.run_local("pg_restore", &["--list", path]).await?;
    let io = |source| Error::Io { what: list_path.to_owned(), source };
    tokio::fs::write(&list_file, without_own(&list)).await.map_err(io)?;
    failpoint::reach("build_listed").await;
    let at_work = the_move.throttle.at_work();
    // A statement can't be slowed down once it runs: there are fewer at a time.
    let considerate = the_move.throttle.has_neighbours();
    let restore = [
        "--section=post-data",
        "--no-tablespaces",
        "--exit-on-error",
        if considerate { BUILD_JOBS_CONSIDERATE } else { BUILD_JOBS },
        "--use-list",
        list_path,
        path,
    ];
    programs.run("pg_restore", &the_move.target, &the_move.id.arriving_database(), &restore).await?;
    failpoint::reach("build_restored").await;
    // While the move is paused it does nothing.
    drop(at_work);
    remove_files(the_move).await;

    let target = the_move.arriving_database().await?.without_statement_limit().await?;
    let source = the_move.source_database().await?;
    pause::wait(&work.context.catalog, work.operation.id).await?;
    let _at_work = the_move.throttle.at_work();
    if the_move.throttle.has_neighbours() {
        target.run(ANALYZE_CONSIDERATE).await?;
    }
    target.run("ANALYZE").await?;
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
    let file = dump_file(the_move);
    for file in [file.with_extension("list"), file] {
        // They may not be there; and a file left in work_dir does no harm.
        drop(tokio::fs::remove_file(file).await);
    }
}

/// The table of contents without what the move itself put into the source's schema: the target needs no guard.
fn without_own(list: &str) -> String {
    let own = |line: &&str| {
        line.contains(" EVENT TRIGGER - tenantry_guard_")
            || line.contains(" EVENT TRIGGER - tenantry_window_")
            || line.contains(" PUBLICATION - tenantry_move_")
            || line.contains(" PUBLICATION - tenantry_reverse_")
    };
    list.lines().filter(|line| !own(line)).map(|line| format!("{line}\n")).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenants_own_entries_are_restored() {
        let list = "; archive\n12; 0 0 INDEX public people_idx acme__owner\n\
            13; 0 0 EVENT TRIGGER - tenantry_guard_end tenantry_control\n14; 0 0 PUBLICATION - tenantry_move_7 x\n\
            15; 0 0 PUBLICATION - mine acme__owner\n";
        let kept = without_own(list);
        assert!(kept.contains("people_idx") && kept.contains("PUBLICATION - mine"));
        assert!(!kept.contains("tenantry_"));
    }
}
