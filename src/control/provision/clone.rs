//! `clone`: a tenant is copied into a new one while it goes on serving. The copy is of one moment: schema and rows are read
//! in one exported snapshot. What belongs to the source's roles, or is granted to them, becomes the new tenant's roles'.
//!
//! A copy is never gone on with: a try that died is begun anew in an empty database, and one that can't succeed leaves
//! nothing.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::Kind;
use serde_json::json;
use shard_map::{ServerName, TenantId, TenantState};

use super::create::{claim, is_claimed};
use super::{Place, Steps, if_known, open, tenant_of, unless_it_is_the_servers};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::fleet;
use crate::moves::copy::{self, Sides};
use crate::moves::programs::Programs;
use crate::moves::{fence, refresh_views, statistics};
use crate::restore::{self, Restore, Section, remove_archive};
use crate::server::doom::{self, Doomed};
use crate::server::reader::{Reader, remove_all as remove_readers};
use crate::server::{Connection, database, registry, roles, settings, tables};

/// How long one try waits for a move of its source, and how often it looks.
const MOVE_WAIT_MAX: Duration = Duration::from_hours(24);
const MOVE_POLL: Duration = Duration::from_millis(500);
/// Scripts are run one after the other.
const ONE_JOB: &str = "--jobs=1";

/// Makes a tenant that is a copy of another.
pub(crate) async fn clone_tenant(work: &Work) -> Result<()> {
    let place = Place::of(work, tenant_of(work)?).await?;
    let (id, registry) = (&place.tenant.id, &place.registry);
    let mut steps = Steps::of(work);
    // One that is on record as open is whole, and may have clients.
    if !is_on_record(work, &place).await? {
        steps.run("claim", claim(work, &place)).await?;
        let source = source_of(work)?;
        if move_of(work, &source).await?.is_some() {
            steps.run("wait", wait_for_move(work, &source)).await?;
        }
        let source = Place::of(work, &source).await?;
        let put_roles = roles::put_tenant_roles(registry, &work.context.key, id, place.tenant.key_version);
        steps.run("roles", put_roles).await?;
        steps.run("database", make_database(work, &source, &place)).await?;
        let copied = steps.run("copy", copy_all(work, &source, &place)).await;
        unless_it_is_the_servers(work, &[&source.server, &place.server], copied).await?;
        steps.run("analyze", analyze(work, &place)).await?;
    }
    steps.run("open", open(work, &place, &[None, Some("sealed")])).await?;
    work.set_state("done", None).await
}

async fn is_on_record(work: &Work, place: &Place) -> Result<bool> {
    let record = registry::read(&place.registry, &place.tenant.id).await?;
    Ok(record.is_some_and(|record| record.state == "open") && is_claimed(work).await?)
}

fn source_of(work: &Work) -> Result<TenantId> {
    let source = work.operation.input.get("source").and_then(|source| source.as_str());
    let source = source.ok_or_else(|| Error::Failed("the operation names no source".into()))?;
    source.parse().map_err(|e: shard_map::InvalidName| Error::Failed(e.to_string()))
}

/// Makes an empty database with the source's settings. What an earlier try left goes first.
async fn make_database(work: &Work, source: &Place, place: &Place) -> Result<()> {
    if !matches!(source.tenant.state, TenantState::Open | TenantState::Suspended) {
        let (id, state) = (&source.tenant.id, source.tenant.state.as_str());
        return Err(Error::Failed(format!("tenant {id} is {state}: it can't be copied")));
    }
    let (id, registry) = (&place.tenant.id, &place.registry);
    let earlier = Doomed { tenant: id, database: id.live_database(), state: None };
    doom::remove(registry, work.term, earlier).await?;
    database::create(registry, id.live_database(), 0).await?;
    database::grant(registry, id.live_database(), id).await?;
    settings::copy(&settings_of(source), &settings_of(place)).await
}

fn settings_of(place: &Place) -> settings::Of<'_> {
    let Place { tenant, registry, .. } = place;
    settings::Of { registry, tenant: &tenant.id, database: tenant.id.live_database() }
}

/// Copies schema and rows. Nothing of who read and made them is left, also not of an earlier try.
async fn copy_all(work: &Work, source: &Place, place: &Place) -> Result<()> {
    end_readers(work).await?;
    let server = source.server.name.as_str();
    work.remember(&json!({
        "read_at": server, "read_of": source.tenant.id.as_str(), "made_at": place.server.name.as_str(),
    }))
    .await?;
    let archive =
        work.context.config.work_dir.join(format!("tenantry_clone_{}.schema.dump", work.operation.id));
    remove_archive(&archive).await;
    let copied = copy_in_one_snapshot(work, (source, place), &archive).await;
    remove_archive(&archive).await;
    match copied {
        Err(error) if error.must_stop() => Err(error),
        // Whatever comes of the copy: who tries it again, or undoes it, does this, too.
        Err(error) => end_readers(work).await.and(Err(error)),
        Ok(()) => end_readers(work).await,
    }
}

/// Removes the role with which this operation read its source, and made the copy's schema.
pub(super) async fn end_readers(work: &Work) -> Result<()> {
    let data = work.context.catalog.operation(work.operation.id).await?.data;
    let recorded = |key: &str| data.get(key).and_then(|name| name.as_str());
    let source = recorded("read_of").and_then(|id| id.parse::<TenantId>().ok());
    for (at, tenant) in [("made_at", Some(tenant_of(work)?.clone())), ("read_at", source)] {
        let server = recorded(at).and_then(|name| name.parse::<ServerName>().ok());
        let (Some(server), Some(tenant)) = (server, tenant) else { continue };
        let Some(server) = if_known(work.context.catalog.server(&server).await)? else { continue };
        remove_readers([Reader::of(work, &server.server, &tenant)]).await?;
    }
    Ok(())
}

async fn copy_in_one_snapshot(work: &Work, (source, place): (&Place, &Place), archive: &Path) -> Result<()> {
    let connector = &work.context.connector;
    let (from_id, id) = (&source.tenant.id, &place.tenant.id);
    let from = connector.database(&source.server, from_id.live_database()).await?;
    let from = from.without_statement_limit().await?;
    refuse_what_is_not_copied(&from).await?;
    let files = tables::files(&from).await?;
    from.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let snapshot: String = from.value("SELECT pg_catalog.pg_export_snapshot()", &[]).await?;
    if let Some(id) = move_of(work, from_id).await? {
        return Err(Error::Timeout(format!("move {id} is at work on tenant {from_id}")));
    }

    // Before any table: without the journal no rows are loaded, so one that hung and goes on adds none to a copy that its
    // successor has ended.
    let into = connector.database(&place.server, id.live_database()).await?;
    let into = into.without_statement_limit().await?;
    into.run(&format!("CREATE SCHEMA tenantry; {}", copy::JOURNAL)).await?;
    dump(work, source, &snapshot, archive).await?;
    let restore = restored((&from, source), work, place, archive).await?;
    restore.section(Section::PreData).await?;
    let sides = Sides {
        source: source.server.clone(),
        source_database: from_id.live_database().to_owned(),
        target: place.server.clone(),
        target_database: id.live_database().to_owned(),
        from: from_id.clone(),
        to: place.tenant.clone(),
        snapshot: snapshot.clone(),
        is_closed: source.tenant.state == TenantState::Suspended,
    };
    let throttle = Arc::new(work.context.budgets.throttle([&sides.source, &sides.target]));
    copy::rows(work, sides, throttle, Arc::default()).await?;
    have_stayed(work, source, &files).await?;
    set_sequences(work, source, (&from, &into)).await?;
    into.run("DROP SCHEMA tenantry CASCADE").await?;
    restore.section(Section::PostData(ONE_JOB)).await?;
    restore.end().await?;
    refresh_views(&from, &into).await?;
    from.run("COMMIT").await
}

/// Sets the sequences as they are on the source. Nothing keeps a view from taking the name of one meanwhile: those that are the
/// tenant's are read by the reader, unless nobody is in there.
async fn set_sequences(work: &Work, source: &Place, (from, into): (&Connection, &Connection)) -> Result<()> {
    let id = &source.tenant.id;
    let state = work.context.catalog.tenant(id).await?.tenant.state;
    if state == TenantState::Suspended {
        return into.run(&fence::read_sequences(from, &tables::sequences(from).await?).await?).await;
    }
    let (own, others) = tables::sequences_by_owner(from, id).await?;
    if !own.is_empty() {
        let reader = Reader::of(work, &source.server, id);
        reader.put().await?;
        for session in reader.sessions(id.live_database(), 1).await? {
            into.run(&fence::read_sequences(&session, &own).await?).await?;
        }
    }
    into.run(&fence::read_sequences(from, &others).await?).await
}

/// The move that is at work on the source. One that began before the snapshot has put its guard into the source, which is none
/// of the copy's; one that begins later has not, and ends this try at its switch. The next one reads where the tenant is then.
/// One that is in the queue has not begun, and may have to wait for this clone.
async fn move_of(work: &Work, source: &TenantId) -> Result<Option<i64>> {
    let running = work.context.catalog.running_operation(source).await?;
    let begun = running.filter(|operation| operation.kind == Kind::Move && operation.step != "begin");
    Ok(begun.map(|operation| operation.id))
}

/// Waits before anything is made, and as one try: a move takes its time.
async fn wait_for_move(work: &Work, source: &TenantId) -> Result<()> {
    let deadline = Instant::now() + MOVE_WAIT_MAX;
    while let Some(id) = move_of(work, source).await? {
        if Instant::now() >= deadline {
            return Err(Error::Timeout(format!("move {id} is at work on tenant {source}")));
        }
        tokio::time::sleep(MOVE_POLL).await;
    }
    Ok(())
}

/// TRUNCATE and rewrites of a table are not seen by snapshots as other changes are (Postgres' documentation, "Caveats" of
/// concurrency control): what a later range read there would be nothing.
async fn have_stayed(work: &Work, source: &Place, files: &HashMap<String, u32>) -> Result<()> {
    let database = source.tenant.id.live_database();
    let from = work.context.connector.database(&source.server, database).await?;
    let now = tables::files(&from).await?;
    from.close().await;
    match files.iter().find(|(table, file)| now.get(*table) != Some(*file)) {
        // Another try may meet a quieter moment.
        Some((table, _)) => {
            Err(Error::Timeout(format!("table {table} was truncated or rewritten meanwhile")))
        }
        None => Ok(()),
    }
}

/// What can't be copied faithfully is not copied half.
async fn refuse_what_is_not_copied(from: &Connection) -> Result<()> {
    const LARGE_OBJECTS: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)";
    const UNLOGGED: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relkind = 'r' AND relpersistence = 'u')";
    for (what, remedy, sql) in [
        ("large objects", "move them into bytea columns first", LARGE_OBJECTS),
        ("an unlogged table", "make it logged (ALTER TABLE … SET LOGGED) or drop it first", UNLOGGED),
    ] {
        if from.value(sql, &[]).await? {
            return Err(Error::Failed(format!("the source has {what}, which can't be copied: {remedy}")));
        }
    }
    Ok(())
}

/// Writes the source's schema down.
async fn dump(work: &Work, source: &Place, snapshot: &str, archive: &Path) -> Result<()> {
    let programs = Programs::for_server(&work.context, &source.registry).await?;
    let snapshot = format!("--snapshot={snapshot}");
    let file = archive.to_str().ok_or_else(|| Error::Failed("work_dir: its path is not UTF-8".into()))?;
    let dump = [
        "--format=custom",
        "--schema-only",
        &snapshot,
        // A move works in it, and this copy.
        "--exclude-schema=tenantry",
        "--no-tablespaces",
        "--no-publications",
        "--no-subscriptions",
        "--lock-wait-timeout=10s",
        "--file",
        file,
    ];
    programs.run("pg_dump", &source.server, source.tenant.id.live_database(), &dump).await.map(drop)
}

/// The source's schema, on its way to the new tenant's roles.
async fn restored<'r>(
    (from, source): (&Connection, &'r Place),
    work: &'r Work,
    place: &'r Place,
    archive: &'r Path,
) -> Result<Restore<'r>> {
    let programs = Programs::for_server(&work.context, &source.registry).await?;
    let Place { tenant, server, .. } = place;
    let maker = Reader::of(work, server, &tenant.id);
    maker.put().await?;
    let (database, term) = (tenant.id.live_database(), Some(work.term));
    let to = restore::Place { server, database, tenant: &tenant.id, term };
    let connector = &work.context.connector;
    Restore::of((from, &source.tenant.id), archive, (connector, programs), (maker.login(), to)).await
}

/// Gives the planner its statistics, and the catalog the schema's version, which the copy brought with it.
async fn analyze(work: &Work, place: &Place) -> Result<()> {
    let id = &place.tenant.id;
    let connector = &work.context.connector;
    // Who is at work there by now is not known, and nobody waits for it.
    statistics::gather(connector, (&place.server, id.live_database()), true).await?;
    let into = connector.database(&place.server, id.live_database()).await?;
    let version = fleet::newest_version(&into).await?;
    work.remember(&json!({ "schema_version": version })).await?;
    Ok(work.context.catalog.set_schema_version(id, version, work.term).await?)
}
