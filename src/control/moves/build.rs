//! Indexes, constraints, triggers and views on the loaded rows; then the subscription that brings what was written
//! meanwhile.

use catalog::tls::TlsMode;

use super::driver::Move;
use super::force_security;
use super::programs::Programs;
use super::schema::dump_file;
use crate::config::ControlConfig;
use crate::error::{Error, Result};
use crate::server::{Connection, ident, literal};

/// Jobs with which indexes are built.
const BUILD_JOBS: &str = "--jobs=2";
/// `origin` and parallel streaming came with it.
const POSTGRES_16: i32 = 160_000;

/// Builds, then subscribes.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    let programs = Programs::of(&work.context);
    let file = dump_file(the_move);
    let list_file = file.with_extension("list");
    let (Some(path), Some(list_path)) = (file.to_str(), list_file.to_str()) else {
        return Err(Error::Failed("work_dir: its path is not UTF-8".into()));
    };
    let list = programs.run_local("pg_restore", &["--list", path]).await?;
    let io = |source| Error::Io { what: list_path.to_owned(), source };
    tokio::fs::write(&list_file, without_own(&list)).await.map_err(io)?;
    let restore = [
        "--section=post-data",
        "--no-tablespaces",
        "--exit-on-error",
        BUILD_JOBS,
        "--use-list",
        list_path,
        path,
    ];
    programs.run("pg_restore", &the_move.target, &the_move.id.arriving_database(), &restore).await?;
    remove_files(the_move).await;

    let target = the_move.arriving_database().await?.without_statement_limit().await?;
    let source = the_move.source_database().await?;
    target.run("ANALYZE").await?;
    refresh_views(&source, &target).await?;
    subscribe(the_move, &source, &target).await
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

async fn subscribe(the_move: &Move<'_>, source: &Connection, target: &Connection) -> Result<()> {
    const VERSION: &str = "SELECT current_setting('server_version_num')::int";
    let target_version: i32 = target.value(VERSION, &[]).await?;
    let both = target_version.min(source.value(VERSION, &[]).await?);
    let mut options =
        "create_slot = false, copy_data = false, enabled = false, disable_on_error = true".to_owned();
    options += if both >= POSTGRES_16 { ", streaming = parallel" } else { ", streaming = on" };
    if target_version >= POSTGRES_16 {
        options += ", origin = none";
    }
    let password = the_move.work.context.key.move_password(the_move.work.operation.id);
    let forward = &the_move.names.forward;
    let connection = format!(
        "host={} port={} dbname={} user={} password={} connect_timeout=5 application_name={}{}",
        conninfo(&the_move.source.host),
        the_move.source.port,
        conninfo(the_move.id.live_database()),
        conninfo(forward),
        conninfo(&password),
        conninfo(forward),
        stream_tls(&the_move.work.context.config)
    );
    let name = ident(forward);
    // The statement has the role's password in it: it must not stand in the server's log.
    target
        .run("SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1")
        .await?;
    target
        .run(&format!(
            "CREATE SUBSCRIPTION {name} CONNECTION {} PUBLICATION {name} WITH (slot_name = {name}, {options})",
            literal(&connection)
        ))
        .await?;
    force_security::lift(target).await?;
    target.run(&format!("ALTER SUBSCRIPTION {name} ENABLE")).await
}

/// TLS from one server to another: as the control plane does it, by the file on the server.
fn stream_tls(config: &ControlConfig) -> String {
    let mode = format!(" sslmode={}", config.server_tls_mode.as_str());
    let file = config.server_tls_ca_file_on_servers.as_ref().or(config.server_tls_ca_file.as_ref());
    let file = file.filter(|_| config.server_tls_mode != TlsMode::Disable);
    file.map_or(mode.clone(), |file| format!("{mode} sslrootcert={}", conninfo(&file.to_string_lossy())))
}

/// Quotes a value for a libpq connection string.
fn conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
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
