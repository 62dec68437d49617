//! A directory, tried before anything runs: on an empty copy of a tenant's schema, as that tenant's owner, by the very
//! code that migrates. What Postgres says about the SQL itself refuses the run, with file and line. What depends on the
//! data can't be known there.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shard_map::{Access, Server, TRIAL_SUFFIX, Tenant};
use wire::sql::statements;

use super::files::{Limits, Migrations, Step};
use super::history::Applied;
use super::script::line_of;
use super::tenant;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::moves::{Programs, take_guard_down};
use crate::restore::{self, Restore, Section, remove_archive};
use crate::server::names::TRIAL;
use crate::server::{Connection, database, ident, roles};

/// A copy that is older was left by a controller that died.
const COPY_AGE_MAX: Duration = Duration::from_secs(3600);
/// Sessions of plain roles in it: one, and those that are just leaving.
const SESSIONS_MAX: i32 = 16;
/// What who makes it may, beside what the tenant's roles may.
const MAKER: &str = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION";
/// There is nothing in it that takes time to build.
const ONE_JOB: &str = "--jobs=1";
/// Limits of the statements in it: there are no rows, and nobody else.
const LIMITS: Limits = Limits { lock_timeout_ms: 5_000, statement_timeout_ms: 30_000 };
/// SQLSTATE classes of errors that are about the text and not about the data: feature not supported, transaction state,
/// dependent objects, schema name, syntax or access.
const ABOUT_THE_TEXT: [&str; 5] = ["0A", "25", "2B", "3F", "42"];

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Why the files must not run: file, line, what Postgres says.
    pub(crate) refusal: Option<String>,
    pub(crate) took: Duration,
}

/// Tries the files on a copy of this tenant's schema.
///
/// # Errors
/// When the copy can't be made.
pub(crate) async fn run(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    applied: &[Applied],
    migrations: &Migrations,
) -> Result<Outcome> {
    let registry = context.connector.registry(server).await?;
    sweep(&registry).await?;
    // Seconds since 1970, by which old ones are known, and a random number.
    let name = format!("{}_{:08x}", now_s(), rand::random::<u32>());
    let (copy, role) = (format!("{name}{TRIAL_SUFFIX}"), format!("{TRIAL}{name}"));
    let tried = async {
        make(context, (server, tenant), &registry, (&copy, &role)).await?;
        fill_history(context, (server, tenant), &copy, applied).await?;
        let mut connection = context.connector.as_role_in(server, (tenant, Access::Owner), &copy).await?;
        let begun = Instant::now();
        let refusal = try_files(&mut connection, migrations).await?;
        connection.close().await;
        Ok(Outcome { refusal, took: begun.elapsed() })
    };
    let tried = tried.await;
    // What is left of it is found by the next trial.
    if let Err(error) = database::drop(&registry, &copy).await {
        tracing::warn!(copy, %error, "a copy of a schema could not be dropped");
    } else if let Err(error) = registry.run(&format!("DROP ROLE IF EXISTS {}", ident(&role))).await {
        tracing::warn!(role, %error, "who made a copy of a schema could not be dropped");
    }
    tried
}

async fn try_files(connection: &mut Connection, migrations: &Migrations) -> Result<Option<String>> {
    let mut version = None;
    let error = match tenant::apply(connection, migrations, LIMITS, &mut version).await {
        Ok(()) => return Ok(None),
        Err(error) => error,
    };
    let Error::Statement { message, sqlstate, .. } = &error else { return Err(error) };
    if !ABOUT_THE_TEXT.iter().any(|class| sqlstate.starts_with(class)) {
        tracing::info!(%error, "the trial stopped at what depends on the data");
        return Ok(None);
    }
    let next = migrations.steps.iter().find(|step| version.is_none_or(|at| step.version() > at));
    let Some(step) = next else { return Ok(Some(message.clone())) };
    let Some(what) = message.strip_prefix(&format!("{}:1: ", step.name)) else {
        return Ok(Some(message.clone()));
    };
    // Postgres gave no place, or it is the first line: the statement has one.
    Ok(Some(step.at(locate(connection, step).await.unwrap_or(1), what)))
}

/// The line of the statement that fails.
async fn locate(connection: &Connection, step: &Step) -> Option<usize> {
    if step.script.alone.is_some() {
        return None;
    }
    connection.run("ROLLBACK; BEGIN").await.ok()?;
    let mut line = None;
    for statement in statements(step.sql()) {
        if let Err(error) = connection.client().batch_execute(statement.text).await {
            let below = tenant::line(statement.text, &error) - 1;
            line = Some(line_of(step.sql(), statement.start) + below);
            break;
        }
    }
    connection.run("ROLLBACK").await.ok()?;
    line
}

/// Makes the copy: the schema and no rows.
async fn make(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    registry: &Connection,
    (copy, role): (&str, &str),
) -> Result<()> {
    let owner = ident(&Access::Owner.role(&tenant.id));
    database::create(registry, copy, SESSIONS_MAX).await?;
    let (database, all) = (ident(copy), "REVOKE ALL ON DATABASE");
    registry
        .run(&format!(
            "{all} {database} FROM PUBLIC; GRANT CONNECT, TEMPORARY, CREATE ON DATABASE {database} TO {owner}"
        ))
        .await?;
    let file = context.config.work_dir.join(format!("{copy}.dump"));
    let path = file.to_str().ok_or_else(|| Error::Failed("work_dir: its path is not UTF-8".into()))?;
    let programs = Programs::for_server(context, registry).await?;
    let dump = ["--format=custom", "--schema-only", "--no-publications", "--no-subscriptions"];
    let dump = [&dump[..], &["--no-tablespaces", "--lock-wait-timeout=10s", "--file", path]].concat();
    let maker = (role.to_owned(), format!("{:032x}", rand::random::<u128>()));
    let tenants = Access::ALL.map(|access| ident(&access.role(&tenant.id))).join(", ");
    let copied = async {
        remove_archive(&file).await;
        programs.run("pg_dump", server, tenant.id.live_database(), &dump).await?;
        roles::put_login(registry, role, MAKER, &maker.1).await?;
        registry.run(&format!("GRANT {tenants} TO {}", ident(role))).await?;
        let source = context.connector.database(server, tenant.id.live_database()).await?;
        let to = restore::Place { server, database: copy, tenant: &tenant.id, term: None };
        let from = (&source, &tenant.id);
        let restore = Restore::of(from, &file, (&context.connector, programs), (maker, to)).await?;
        restore.section(Section::PreData).await?;
        restore.section(Section::PostData(ONE_JOB)).await
    };
    let copied = copied.await;
    remove_archive(&file).await;
    copied?;
    let connection = context.connector.database(server, copy).await?;
    // The copy of a tenant that is being moved has the move's guard.
    take_guard_down(&connection).await?;
    connection.close().await;
    Ok(())
}

/// What ran in the tenant's database has run in the copy. As its owner, whose triggers the table may have.
async fn fill_history(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    copy: &str,
    applied: &[Applied],
) -> Result<()> {
    let connection = context.connector.as_role_in(server, (tenant, Access::Owner), copy).await?;
    for row in applied {
        const SQL: &str = "
            INSERT INTO public.refinery_schema_history (version, name, applied_on, checksum) VALUES ($1, $2, $3, $4)";
        connection.rows(SQL, &[&row.version, &row.name, &row.applied_on, &row.checksum]).await?;
    }
    connection.close().await;
    Ok(())
}

/// Drops copies that were left, and who made them.
async fn sweep(registry: &Connection) -> Result<()> {
    const COPIES: &str = "
        SELECT datname FROM pg_catalog.pg_database WHERE datname ~ '^[0-9]{1,15}_[0-9a-f]{8}__trial$'
            AND substring(datname FROM '^([0-9]{1,15})_')::bigint < $1";
    let before = now_s().saturating_sub(COPY_AGE_MAX.as_secs());
    for row in registry.rows(COPIES, &[&i64::try_from(before).unwrap_or(i64::MAX)]).await? {
        database::drop(registry, row.get(0)).await?;
    }
    let roles = format!(
        "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname ~ '^{TRIAL}[0-9]{{1,15}}_[0-9a-f]{{8}}$'
            AND substring(rolname FROM '^{TRIAL}([0-9]{{1,15}})_')::bigint < $1"
    );
    for row in registry.rows(&roles, &[&i64::try_from(before).unwrap_or(i64::MAX)]).await? {
        registry.run(&format!("DROP ROLE IF EXISTS {}", ident(row.get(0)))).await?;
    }
    Ok(())
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
