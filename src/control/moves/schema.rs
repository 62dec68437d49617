//! The schema on the target, without indexes and constraints: those are built after the rows, which is faster.

use std::path::PathBuf;

use super::driver::Move;
use super::programs::Programs;
use crate::error::{Error, Result};
use crate::server::{Connection, database, ident, literal, registry, roles};

/// Settings whose stored value is a list of quoted names already, and must not be quoted again. From the settings
/// marked GUC_LIST_QUOTE in Postgres 15 to 18.
const LIST_SETTINGS: [&str; 5] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "shared_preload_libraries",
    "local_preload_libraries",
];

/// Where this move keeps the source's schema, between this phase and the build.
pub(crate) fn dump_file(the_move: &Move<'_>) -> PathBuf {
    the_move.work.context.config.work_dir.join(format!("{}.schema.dump", the_move.names.forward))
}

/// Makes roles, database and tables on the target.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let (work, id) = (the_move.work, &the_move.id);
    let Some((_, snapshot)) = &the_move.snapshot else {
        return Err(Error::Timeout("the snapshot is gone".into()));
    };
    let tenant = the_move.tenant().await?;
    let arriving = id.arriving_database();
    let target_registry = the_move.target_registry().await?;
    let change = registry::Change {
        tenant: id,
        from: &[None, Some("sealed"), Some("arriving")],
        to: "arriving",
        database: &arriving,
        epoch: tenant.epoch.next(),
        moved_to: None,
    };
    if !registry::write(&target_registry, work.term, &change).await? {
        let found = registry::read(&target_registry, id).await?;
        return Err(Error::Failed(format!(
            "server {} has tenant {id} on record as {found:?}",
            the_move.target.name
        )));
    }
    roles::put_tenant_roles(&target_registry, &work.context.key, id, tenant.key_version).await?;
    database::create(&target_registry, &arriving, 0).await?;
    database::grant(&target_registry, &arriving, id).await?;
    copy_settings(the_move, &target_registry).await?;

    let file = dump_file(the_move);
    let path = file.to_str().ok_or_else(|| Error::Failed("work_dir: its path is not UTF-8".into()))?;
    let programs = Programs { bin: work.context.config.pg_bin.as_deref(), key: &work.context.key };
    let snapshot = format!("--snapshot={snapshot}");
    let dump = [
        "--format=custom",
        "--schema-only",
        "--no-tablespaces",
        "--lock-wait-timeout=10s",
        &snapshot,
        "--file",
        path,
    ];
    programs.run("pg_dump", &the_move.source, id.live_database(), &dump).await?;
    let restore = ["--section=pre-data", "--no-tablespaces", "--exit-on-error", "--single-transaction", path];
    programs.run("pg_restore", &the_move.target, &arriving, &restore).await?;

    // The journal: each range is written down in the transaction that loads it.
    the_move
        .arriving_database()
        .await?
        .run(
            "CREATE TABLE tenantry.copied (
                table_name text NOT NULL, first_block bigint NOT NULL, rows bigint NOT NULL, bytes bigint NOT NULL,
                PRIMARY KEY (table_name, first_block))",
        )
        .await
}

/// Settings that were made for the database, for its roles, or for its roles in it.
async fn copy_settings(the_move: &Move<'_>, target_registry: &Connection) -> Result<()> {
    const SQL: &str = "
        SELECT r.rolname, s.setdatabase <> 0, s.setconfig FROM pg_catalog.pg_db_role_setting s
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = $1)
            OR s.setdatabase = 0 AND r.rolname = ANY ($2)";
    let tenant_roles: Vec<String> = shard_map::Access::ALL.map(|access| access.role(&the_move.id)).into();
    let source_registry = the_move.source_registry().await?;
    let rows = source_registry.rows(SQL, &[&the_move.id.live_database(), &tenant_roles]).await?;
    let database = ident(&the_move.id.arriving_database());
    for row in rows {
        let (role, in_database): (Option<&str>, bool) = (row.get(0), row.get(1));
        let subject = match role {
            Some(role) if in_database => format!("ROLE {} IN DATABASE {database}", ident(role)),
            Some(role) => format!("ROLE {}", ident(role)),
            None => format!("DATABASE {database}"),
        };
        for setting in row.get::<_, Vec<&str>>(2) {
            let Some((name, value)) = setting.split_once('=') else { continue };
            let value = if LIST_SETTINGS.contains(&name) { value.to_owned() } else { literal(value) };
            let value = if value.is_empty() { "''".to_owned() } else { value };
            target_registry.run(&format!("ALTER {subject} SET {} TO {value}", ident(name))).await?;
        }
    }
    Ok(())
}
