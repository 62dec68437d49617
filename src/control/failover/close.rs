//! Closes a server that was one of the map's before: nobody gets into its tenants' databases any more, and no controller changes
//! anything there. What can't be done now is told, and done by whoever looks at its address afterwards. And opens one again that
//! is the last copy left.

use std::time::{Duration, Instant};

use shard_map::Server;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::{Connection, database, ident, registry};

/// How long all of it may take: a server that hangs must not keep its tenants from being served elsewhere.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one statement may: somebody may have locked a database.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many errors are told.
const TROUBLES_TOLD_MAX: usize = 5;
/// How far the registry of a closed server is ahead of the leader: more terms than there will be leaders, so that it takes no
/// change of any, also not of one that does not know yet that the server is another by now.
const TERMS_AHEAD: i64 = 1_000_000;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Became {
    /// Nobody is in its so many databases of tenants, and nobody gets in.
    Closed(usize),
    /// Why that is not so for sure.
    Open(String),
}

/// Databases of tenants in which somebody is, or into which somebody gets.
const OPEN: &str = "
    SELECT count(*) FROM public.tenant t JOIN pg_catalog.pg_database d ON d.datname = t.database
    WHERE d.datconnlimit NOT IN (0, -2) OR EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
        WHERE a.datid = d.oid AND a.backend_type = 'client backend')";

const NO_STANDBY: &str = "SET synchronous_commit = local";
/// Controllers that wait for a standby there keep others from raising the term.
const END_WAITING: &str = "
    SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
    WHERE datname = current_database() AND usename = current_user AND wait_event = 'SyncRep'
        AND pid <> pg_catalog.pg_backend_pid()";

/// Whether it is closed.
pub(super) async fn is_closed(registry: &Connection) -> Result<bool> {
    Ok(is_ahead(registry).await? && registry.value::<i64>(OPEN, &[]).await? == 0)
}

/// Closes it. An error only when this instance leads no more.
pub(super) async fn close(
    context: &Context,
    (server, registry): (&Server, &Connection),
    term: i64,
) -> Result<Became> {
    let closed = tokio::time::timeout(CLOSE_TIMEOUT, try_close(context, (server, registry), term));
    match closed.await {
        Ok(Ok((count, failed))) if failed.is_empty() => Ok(Became::Closed(count)),
        Ok(Ok((_, failed))) => {
            let told: Vec<String> = failed.iter().take(TROUBLES_TOLD_MAX).map(ToString::to_string).collect();
            Ok(Became::Open(format!("in {} cases: {}", failed.len(), told.join("; "))))
        }
        // Another instance leads.
        Ok(Err(error)) if error.must_stop() => Err(error),
        Ok(Err(error)) => Ok(Became::Open(error.to_string())),
        Err(_) => Ok(Became::Open(format!("not done within close_timeout ({CLOSE_TIMEOUT:?})"))),
    }
}

async fn try_close(
    context: &Context,
    (server, registry): (&Server, &Connection),
    term: i64,
) -> Result<(usize, Vec<Error>)> {
    // Nor is a standby waited for, which may be the promoted one: such a wait has no limit.
    let limits = format!("SET statement_timeout = {}; {NO_STANDBY}", STATEMENT_TIMEOUT.as_millis());
    registry.run(&limits).await?;
    registry.rows(END_WAITING, &[]).await?;
    refuse_if_led_by_another(registry, term).await?;
    let term = term + TERMS_AHEAD;
    registry::raise_term(registry, term).await?;
    // What an earlier try has closed is not closed again: thousands may take more than one.
    const THERE: &str = "
        SELECT t.database, d.datconnlimit <> 0, EXISTS (SELECT FROM pg_catalog.pg_subscription s
            WHERE s.subdbid = d.oid AND s.subenabled AND s.subname LIKE 'tenantry\\_%')
        FROM public.tenant t JOIN pg_catalog.pg_database d ON d.datname = t.database
        WHERE d.datconnlimit <> -2";
    let rows = registry.rows(THERE, &[]).await?;
    let databases: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let that = |column: usize| {
        let databases = databases.iter().zip(&rows);
        databases.filter(move |(_, row)| row.get(column)).map(|(database, _)| *database)
    };
    let mut failed = Vec::new();
    // One that gives trouble keeps no other open.
    for database in that(1) {
        failed.extend(database::set_limit(registry, term, database, 0).await.err());
    }
    for database in that(2) {
        failed.extend(end_following(context, (server, database), registry).await.err());
    }
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    failed.extend(database::terminate_all(registry, (&databases, None), deadline).await.err());
    Ok((databases.len(), failed))
}

/// The term to come is above those of all leaders, so that it would not tell.
async fn refuse_if_led_by_another(registry: &Connection, term: i64) -> Result<()> {
    if is_ahead(registry).await? { Ok(()) } else { registry::raise_term(registry, term).await }
}

/// Whether a registry takes no change of any leader, since its server was closed.
pub(super) async fn is_ahead(registry: &Connection) -> Result<bool> {
    const SEEN: &str = "SELECT coalesce(max(term), 0) FROM public.controller_term";
    Ok(registry.value::<i64>(SEEN, &[]).await? >= TERMS_AHEAD)
}

/// Opens a closed server again for these databases, which then take whoever comes; at last, its registry takes changes of this
/// term. Before that, it counts as closed, and whoever goes on does all of it again.
pub(super) async fn reopen(registry: &Connection, term: i64, databases: &[&str]) -> Result<()> {
    const SHUT: &str = "
        SELECT datname::text FROM pg_catalog.pg_database WHERE datname = ANY ($1) AND datconnlimit = 0";
    for row in registry.rows(SHUT, &[&databases]).await? {
        database::set_limit(registry, term + TERMS_AHEAD, row.get(0), -1).await?;
    }
    // Not what a later leader has closed.
    const TERM: &str = "UPDATE public.controller_term SET term = $1 WHERE term BETWEEN $2 AND $1 + $2";
    registry.rows(TERM, &[&term, &TERMS_AHEAD]).await.map(drop)
}

/// Lets a copy that follows another server follow it no more: the promoted one has the same, and the same slot.
async fn end_following(
    context: &Context,
    (server, database): (&Server, &str),
    registry: &Connection,
) -> Result<()> {
    const FOLLOWS: &str = "
        SELECT s.subname::text FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
        WHERE d.datname = $1 AND s.subenabled AND s.subname LIKE 'tenantry\\_%'";
    let subscriptions = registry.rows(FOLLOWS, &[&database]).await?;
    if subscriptions.is_empty() {
        return Ok(());
    }
    let connection = context.connector.database(server, database).await?;
    connection.run(NO_STANDBY).await?;
    for row in &subscriptions {
        connection.run(&format!("ALTER SUBSCRIPTION {} DISABLE", ident(row.get(0)))).await?;
    }
    connection.close().await;
    Ok(())
}
