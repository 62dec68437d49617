//! The schema on the target, without indexes and constraints: those are built after the rows, which is faster.

use std::path::{Path, PathBuf};

use super::copy;
use super::driver::Move;
use super::programs::Programs;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::restore::{self, Restore, Section};
use crate::server::doom::{self, Doomed};
use crate::server::{Connection, attributes, database, registry, roles, settings};

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
    failpoint::reach("schema_recorded").await;
    let source_registry = the_move.source_registry().await?;
    let registries = (&source_registry, &target_registry);
    roles::carry_tenant_roles(registries, &work.context.key, &tenant).await?;
    failpoint::reach("schema_roles").await;
    let place = Doomed { tenant: id, database: &arriving, state: Some("arriving") };
    doom::make(&target_registry, work.term, place, 0).await?;
    failpoint::reach("schema_made").await;
    database::grant(&target_registry, &arriving, id).await?;
    let from = settings::Of { registry: &source_registry, tenant: id, database: id.live_database() };
    let to = settings::Of { registry: &target_registry, tenant: id, database: &arriving };
    settings::copy(&from, &to).await?;
    failpoint::reach("schema_settings").await;

    let file = dump_file(the_move);
    let path = file.to_str().ok_or_else(|| Error::Failed("work_dir: its path is not UTF-8".into()))?;
    let programs = Programs::for_server(&work.context, &source_registry).await?;
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
    restore::remove_archive(&file).await;
    programs.run("pg_dump", &the_move.source, id.live_database(), &dump).await?;
    failpoint::reach("schema_dumped").await;
    restore(the_move, &file, (programs, &arriving)).await?.section(Section::PreData).await?;
    failpoint::reach("schema_restored").await;

    // The journal: each range is written down in the transaction that loads it.
    the_move.arriving_database().await?.run(copy::JOURNAL).await
}

/// The source's schema, on its way from the archive into the target.
pub(super) async fn restore<'m>(
    the_move: &'m Move<'_>,
    archive: &'m Path,
    (programs, arriving): (Programs<'m>, &'m str),
) -> Result<Restore<'m>> {
    let source = the_move.source_database().await?;
    let [_, maker] = the_move.readers();
    maker.put().await?;
    let Move { work, id, target, .. } = the_move;
    let to = restore::Place { server: target, database: arriving, tenant: id, term: Some(work.term) };
    let restored =
        Restore::of((&source, id), archive, (&work.context.connector, programs), (maker.login(), to)).await;
    source.close().await;
    restored
}

/// Brings roles and database of the target to what they are on the source now.
pub(crate) async fn carry_attributes(the_move: &Move<'_>) -> Result<()> {
    let (source, target) = (the_move.source_registry().await?, the_move.target_registry().await?);
    let tenant = the_move.tenant().await?;
    roles::carry_tenant_roles((&source, &target), &the_move.work.context.key, &tenant).await?;
    let id = &the_move.id;
    let from = settings::Of { registry: &source, tenant: id, database: id.live_database() };
    let to = settings::Of { registry: &target, tenant: id, database: &id.arriving_database() };
    attributes::carry(&from, &to).await
}

/// The statements, for the target, that limit the tenant's roles as the source does.
pub(crate) async fn role_limits(the_move: &Move<'_>, source_registry: &Connection) -> Result<String> {
    let id = &the_move.id;
    let from = settings::Of { registry: source_registry, tenant: id, database: id.live_database() };
    attributes::limits(&from).await
}
