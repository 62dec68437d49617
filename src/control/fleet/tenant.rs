//! One tenant's database, brought to a version.

use std::time::Duration;

use refinery::{Runner, Target};
use shard_map::{Server, Tenant, TenantState};

use super::files::{Limits, Migrations, Step};
use super::{alone, history, script};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::moves::GUARD_SQLSTATE;
use crate::server::{Connection, MIGRATION_LOCK, database};

/// Beyond the time limits of its statements, how long a file may take: commits, and the way there and back.
const ANSWER_GRACE: Duration = Duration::from_secs(60);
/// Connection limit of a closed database while it is migrated.
const SESSIONS_FOR_MIGRATION: i32 = 5;
/// How long a move waits for the migration of its tenant, and how often it looks.
const MIGRATION_WAIT_MAX: Duration = Duration::from_secs(3600);
const MIGRATION_POLL: Duration = Duration::from_millis(200);
/// How long a migration waits at least for another one of the same tenant.
const TURN_WAIT_MIN: Duration = Duration::from_secs(30);
/// How often the end of an operation on a closed tenant is looked for.
const OPERATION_POLL: Duration = Duration::from_millis(200);

/// How far a database came.
pub(crate) struct Reached {
    /// Its version afterwards; `None` when that is not known, or nothing ever ran.
    pub(crate) version: Option<i32>,
    pub(crate) outcome: Result<()>,
}

impl From<Error> for Reached {
    fn from(error: Error) -> Self {
        Self { version: None, outcome: Err(error) }
    }
}

/// Runs what is not yet applied.
///
/// As the tenant's owner role, logged in as such: a superuser that only takes the role on could be made one again by
/// the tenant's own triggers.
pub(crate) async fn migrate(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    migrations: &Migrations,
    limits: Limits,
) -> Reached {
    if tenant.state == TenantState::Open {
        return run(context, (server, tenant), migrations, limits).await;
    }
    // Nobody gets in while it is being made or suspended, but for this: the limit counts sessions that are just
    // leaving, too. Routers refuse meanwhile, and nobody else knows the roles' passwords.
    let opened = async {
        let registry = context.connector.registry(server).await?;
        let term = context.leading_term()?;
        database::set_limit(&registry, term, tenant.id.live_database(), SESSIONS_FOR_MIGRATION).await?;
        Ok::<_, Error>((registry, term))
    };
    let (registry, term) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return error.into(),
    };
    let reached = run(context, (server, tenant), migrations, limits).await;
    match close(context, tenant, &registry, term).await {
        Ok(()) => reached,
        Err(error) => Reached { outcome: reached.outcome.and(Err(error)), ..reached },
    }
}

/// Closes the database again, unless somebody opens the tenant meanwhile: that operation's end decides.
async fn close(context: &Context, tenant: &Tenant, registry: &Connection, term: i64) -> Result<()> {
    let deadline = tokio::time::Instant::now() + ANSWER_GRACE;
    let database = tenant.id.live_database();
    if tenant.state != TenantState::Suspended {
        // The operation that makes it is the caller, and opens it when all is done.
        return database::set_limit(registry, term, database, 0).await;
    }
    loop {
        // While an operation goes on the limit is its own: it may be a move's fence.
        if context.catalog.running_operation(&tenant.id).await?.is_none() {
            let state = context.catalog.tenant(&tenant.id).await?.tenant.state;
            let limit = if state == TenantState::Open { -1 } else { 0 };
            database::set_limit(registry, term, database, limit).await?;
            let under_way = context.catalog.running_operation(&tenant.id).await?.is_some();
            if !under_way && context.catalog.tenant(&tenant.id).await?.tenant.state == state {
                return Ok(());
            }
        }
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Timeout(format!(
                "tenant {0}: an operation on it does not end (tenantry tenant show {0})",
                tenant.id
            )));
        }
        tokio::time::sleep(OPERATION_POLL).await;
    }
}

async fn run(
    context: &Context,
    (server, tenant): (&Server, &Tenant),
    migrations: &Migrations,
    limits: Limits,
) -> Reached {
    let mut connection = match context.connector.as_owner(server, tenant).await {
        Ok(connection) => connection,
        Err(error) => return error.into(),
    };
    let mut version = None;
    let outcome = apply(&mut connection, migrations, limits, &mut version).await;
    connection.close().await;
    Reached { version, outcome }
}

/// Takes the database's turn, and runs file after file. `version` is always what was reached.
pub(crate) async fn apply(
    connection: &mut Connection,
    migrations: &Migrations,
    limits: Limits,
    version: &mut Option<i32>,
) -> Result<()> {
    connection.run(&session(limits)).await?;
    // Another controller that lost its lead without noticing may still be at it, or the statement of one that died; or a
    // move is about to begin.
    let longest = match limits.statement_timeout_ms {
        0 => MIGRATION_WAIT_MAX,
        limit => Duration::from_millis(limit).max(TURN_WAIT_MIN),
    };
    keep_others_off(connection, longest).await?;
    const MOVED: &str =
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname LIKE 'tenantry\\_guard\\_%')";
    if connection.value::<bool>(MOVED, &[]).await? {
        return Err(connection.refused("this database is being moved", GUARD_SQLSTATE));
    }
    let applied = history::read(connection).await?;
    *version = history::version(&applied);
    let drift = history::drift(&applied, migrations);
    if !drift.is_empty() {
        let drift: Vec<String> = drift.iter().map(ToString::to_string).collect();
        return Err(Error::Failed(drift.join("; ")));
    }
    let at = version.unwrap_or(i32::MIN);
    let pending: Vec<&Step> = migrations.steps.iter().filter(|step| step.version() > at).collect();
    for group in groups(&pending) {
        run_group(connection, migrations, group, limits).await?;
        *version = group.last().map(|step| step.version());
    }
    Ok(())
}

/// Files that need nothing of their own go to refinery together; it gives each its transaction.
fn groups<'s, 'a>(pending: &'s [&'a Step]) -> impl Iterator<Item = &'s [&'a Step]> {
    let plain = |step: &Step| {
        let script = &step.script;
        script.alone.is_none()
            && script.settings.is_empty()
            && script.lock_timeout_ms.is_none()
            && script.statement_timeout_ms.is_none()
    };
    pending.chunk_by(move |a, b| plain(a) && plain(b))
}

async fn run_group(
    connection: &mut Connection,
    migrations: &Migrations,
    group: &[&Step],
    limits: Limits,
) -> Result<()> {
    let [first, ..] = group else { return Ok(()) };
    let script = &first.script;
    let of_file = Limits {
        lock_timeout_ms: script.lock_timeout_ms.unwrap_or(limits.lock_timeout_ms),
        statement_timeout_ms: script.statement_timeout_ms.unwrap_or(limits.statement_timeout_ms),
    };
    connection.run(&session(of_file)).await?;
    for (name, value) in &script.settings {
        const SQL: &str = "SELECT pg_catalog.set_config($1, $2, false)";
        connection.rows(SQL, &[name, value]).await.map_err(|e| in_file(first, 1, e))?;
    }
    let statements: usize = group.iter().map(|step| step.script.statements).sum();
    let count = u32::try_from(statements).unwrap_or(u32::MAX);
    let limit = Duration::from_millis(of_file.statement_timeout_ms).saturating_mul(count) + ANSWER_GRACE;
    let last = group.last().map_or(0, |step| step.version());
    let running = async {
        let target = match &script.alone {
            Some(statements) => {
                alone::run(connection, first, statements, of_file).await?;
                Target::FakeVersion(last)
            }
            None => Target::Version(last),
        };
        let runner = Runner::new(&migrations.list).set_target(target);
        let outcome = runner.run_async(connection.client_mut()).await;
        outcome.map(drop).map_err(|e| explain(connection, migrations, &e))
    };
    let timeout = |_| Error::Failed(format!("{}: no answer within its time limits", first.name));
    tokio::time::timeout(limit, running).await.map_err(timeout)?
}

/// What a file begins with; what the one before it had set is gone.
fn session(limits: Limits) -> String {
    format!(
        "RESET ALL; SET search_path = public; SET lock_timeout = {}; SET statement_timeout = {}",
        limits.lock_timeout_ms, limits.statement_timeout_ms
    )
}

/// The place of an error in front of what Postgres said.
pub(crate) fn in_file(step: &Step, line: usize, error: Error) -> Error {
    match error {
        Error::Statement { server, message, sqlstate } => {
            Error::Statement { server, message: step.at(line, &message), sqlstate }
        }
        other => other,
    }
}

/// refinery wraps the driver's error; what an operator needs is the file, the line, and what Postgres said.
fn explain(connection: &Connection, migrations: &Migrations, error: &refinery::Error) -> Error {
    let applying = error.to_string();
    let step = migrations.steps.iter().find(|step| applying.contains(&format!("{}`", step.migration)));
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(driver) = inner.downcast_ref::<tokio_postgres::Error>() {
            let explained = connection.error(driver);
            let Some(step) = step else { return explained };
            return in_file(step, line(step.sql(), driver), explained);
        }
        source = inner.source();
    }
    Error::Failed(applying.replace('`', ""))
}

/// The line that an error is about; the first when Postgres names none.
pub(crate) fn line(sql: &str, error: &tokio_postgres::Error) -> usize {
    match error.as_db_error().and_then(tokio_postgres::error::DbError::position) {
        Some(tokio_postgres::error::ErrorPosition::Original(at)) => script::line_of_character(sql, *at),
        _ => 1,
    }
}

/// Waits until nobody migrates this database, and lets nobody begin before the lock is given back with
/// [`let_migrations_on`], or the session ends.
pub(crate) async fn keep_migrations_off(connection: &Connection) -> Result<()> {
    keep_others_off(connection, MIGRATION_WAIT_MAX).await
}

async fn keep_others_off(connection: &Connection, longest: Duration) -> Result<()> {
    let deadline = tokio::time::Instant::now() + longest;
    let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({MIGRATION_LOCK})");
    while !connection.value::<bool>(&sql, &[]).await? {
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Timeout(format!(
                "another migration of this tenant does not end within {longest:?}: see who has the advisory lock in its \
                 database (pg_locks)"
            )));
        }
        tokio::time::sleep(MIGRATION_POLL).await;
    }
    Ok(())
}

/// The opposite of [`keep_migrations_off`].
pub(crate) async fn let_migrations_on(connection: &Connection) -> Result<()> {
    connection.run(&format!("SELECT pg_catalog.pg_advisory_unlock({MIGRATION_LOCK})")).await
}
