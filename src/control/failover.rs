//! A server whose standby was promoted: all of its tenants are served there from then on, by one change of the map.
//!
//! The map knows servers by their names, and nothing of a tenant changes. What the standby never got is not there: tenants
//! that differ from the catalog are named before anything is changed (rows are not), and what becomes of the old server after it.

use std::time::Instant;

use catalog::{Kind, ServerRow};
use serde::Serialize;
use shard_map::Server;
use shard_map::moves::Phase;
use shard_map::recovery::Finding;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::map::MapTools;
use crate::moves;
use crate::server::{Connection, database, ident, registry};

/// What was asked for.
pub(crate) struct Asked {
    /// Host and port of the promoted standby.
    pub(crate) to: (String, u16),
    /// Whether it is only looked.
    pub(crate) dry_run: bool,
    /// Whether it is done although tenants differ there from the catalog.
    pub(crate) accept_differences: bool,
}

/// What was found, and done.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    name: String,
    /// Its address before.
    from: String,
    /// Where it is now.
    to: String,
    tenants: u32,
    /// What the promoted server has otherwise than the catalog.
    differences: Vec<Finding>,
    /// What became of the old server.
    old_server: Option<String>,
    applied: bool,
}

/// How many errors of fencing are told.
const TROUBLES_TOLD_MAX: usize = 5;
const NOT_THERE: &str = "it does not answer; as it is, it must not run again: make it a standby of the new one first (pg_rewind \
    or pg_basebackup), or keep it from the network, since a router that is cut off from the catalog would go on there";

/// What is at the old address.
enum Old {
    /// It takes writes, and is to be fenced.
    Primary(Box<Connection>),
    /// Nothing is to be fenced, or can't be; why.
    LeftAlone(String),
}

/// What a server says of itself.
struct Standing {
    is_standby: bool,
    system: i64,
    /// None of a standby.
    timeline: Option<i32>,
    session: Session,
}

/// The asking session: its process, and when that began in microseconds since 1970. No two servers have the same.
#[derive(Clone, Copy)]
struct Session(i32, i64);

/// Points a server to its promoted standby.
pub(crate) async fn run(context: &Context, row: ServerRow, asked: Asked) -> Result<Outcome> {
    let term = context.leading_term()?;
    let (host, port) = asked.to;
    let old = &row.server;
    let promoted = Server { host, port, ..old.clone() };
    refuse_if_taken(context, old, &promoted).await?;
    let registry = context.connector.registry(&promoted).await?;
    let standing = standing(&registry).await?;
    refuse_unless_promoted(&standing, &row, &promoted)?;
    let at_old = look_at_old(context, &row, (&promoted, &standing)).await?;
    let tools = MapTools::of_control(context.catalog.clone(), context.connector.clone(), &context.config);
    let mut outcome = Outcome {
        name: old.name.to_string(),
        from: old.address(),
        to: promoted.address(),
        tenants: row.tenants,
        differences: tools.differences_of(promoted.clone()).await?,
        old_server: None,
        applied: false,
    };
    if asked.dry_run {
        return Ok(outcome);
    }
    if !outcome.differences.is_empty() && !asked.accept_differences {
        let found: Vec<String> = outcome.differences.iter().map(told).collect();
        return Err(Error::refused(
            format!(
                "server {} is not at {} what the catalog has: {}",
                old.name,
                outcome.to,
                found.join("; ")
            ),
            "fetch what is missing from the old server first, or add --accept-differences; map verify names it afterwards, too",
        ));
    }
    if matches!(at_old, Old::Primary(_)) {
        refuse_during_switches(context, &row).await?;
    }
    // No controller of an earlier term changes anything there any more.
    registry::raise_term(&registry, term).await?;
    // Before routers go to the new one: nothing is written here any more that would not be there.
    let became = match at_old {
        Old::Primary(primary) => fence(context, (old, &primary), term).await?,
        Old::LeftAlone(why) => why,
    };
    if let Err(error) = context.catalog.point_server(old, &promoted, term).await {
        return Err(Error::Failed(format!(
            "{error}; the map still has server {} at {}: say the same command again. The old server: {became}",
            old.name, outcome.from
        )));
    }
    outcome.old_server = Some(became);
    outcome.applied = true;
    tracing::warn!(server = %old.name, from = outcome.from, to = outcome.to, "failed over");
    context.nudge.notify_one();
    Ok(outcome)
}

fn told(finding: &Finding) -> String {
    let whose = finding.tenant.as_ref().map_or_else(String::new, |tenant| format!(" of {tenant}"));
    format!("{}{whose}: {}", finding.kind.as_str(), finding.detail)
}

async fn refuse_if_taken(context: &Context, old: &Server, promoted: &Server) -> Result<()> {
    let address = promoted.address();
    let servers = context.catalog.servers().await?;
    match servers.iter().find(|row| row.server.address() == address) {
        Some(row) if row.server.name == old.name => Err(Error::refused(
            format!("server {} is at {address} already", old.name),
            "nothing is to be done",
        )),
        Some(row) => {
            let what = format!("the server at {address} is in the map as {}", row.server.name);
            Err(Error::refused(what, "give the address of the promoted standby"))
        }
        None => Ok(()),
    }
}

fn refuse_unless_promoted(standing: &Standing, row: &ServerRow, promoted: &Server) -> Result<()> {
    let (name, address) = (&row.server.name, promoted.address());
    if standing.system != row.system_identifier {
        return Err(Error::refused(
            format!("another Postgres cluster than server {name} answers at {address}"),
            "give the address of its promoted standby",
        ));
    }
    if standing.is_standby {
        return Err(Error::refused(
            format!("the server at {address} is a standby"),
            "see that the old primary is down or fenced, promote it (SELECT pg_promote()), then say this again",
        ));
    }
    Ok(())
}

async fn standing(registry: &Connection) -> Result<Standing> {
    // Of the log that is written now: the control file has a new timeline only after the first checkpoint on it.
    const SQL: &str = "
        SELECT pg_catalog.pg_is_in_recovery(), (SELECT system_identifier FROM pg_catalog.pg_control_system()),
            CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
                ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::integer END,
            pid, (extract(epoch FROM backend_start) * 1000000)::bigint
        FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()";
    let row = registry.row(SQL, &[]).await?;
    let row = row.ok_or_else(|| Error::Failed("no answer to a plain query".into()))?;
    Ok(Standing {
        is_standby: row.get(0),
        system: row.get(1),
        timeline: row.get(2),
        session: Session(row.get(3), row.get(4)),
    })
}

/// Whether a session is one of this server's. Two addresses may lead to one server: names, and addresses that move.
async fn has(registry: &Connection, Session(process, began_us): Session) -> Result<bool> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
            WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2)";
    registry.value(SQL, &[&process, &began_us]).await
}

/// Tells whether the old server is to be fenced. Refused if it is the new one, or if that was never promoted after it. That it
/// does not answer must not keep its tenants from being served.
async fn look_at_old(
    context: &Context,
    row: &ServerRow,
    (promoted, new): (&Server, &Standing),
) -> Result<Old> {
    let name = &row.server.name;
    let looked = async {
        let registry = context.connector.registry(&row.server).await?;
        let (is_the_new_one, old) = (has(&registry, new.session).await?, standing(&registry).await?);
        Ok((registry, is_the_new_one, old))
    };
    let (registry, is_the_new_one, old) = match looked.await {
        Ok(found) => found,
        Err(Error::ServerUnreachable { .. }) => return Ok(Old::LeftAlone(NOT_THERE.to_owned())),
        Err(error) => return Ok(Old::LeftAlone(not_fenced(&error.to_string()))),
    };
    if is_the_new_one {
        let (to, from) = (promoted.address(), row.server.address());
        return Err(Error::refused(
            format!("{to} is the server that the map has already, as {from}: nothing to fail over to"),
            format!("use server add {name} to change its address, once no other server takes writes for it"),
        ));
    }
    if old.system != row.system_identifier {
        return Ok(Old::LeftAlone("another Postgres cluster answers at its address".to_owned()));
    }
    if old.is_standby {
        return Ok(Old::LeftAlone("it is a standby".to_owned()));
    }
    if new.timeline <= old.timeline {
        return Err(Error::refused(
            format!("the server at {} was not promoted after server {name} as it is now", promoted.address()),
            "its timeline is not above the old server's: it is an old clone or a restored backup; give the promoted standby",
        ));
    }
    Ok(Old::Primary(Box::new(registry)))
}

/// A tenant that changes servers just now may be decided at the old one.
async fn refuse_during_switches(context: &Context, row: &ServerRow) -> Result<()> {
    let name = Some(row.server.name.clone());
    let switching = [Phase::Cutover.as_str(), Phase::Release.as_str()];
    let open = context.catalog.open_operations().await?;
    let found = open.iter().find(|operation| {
        operation.kind == Kind::Move
            && switching.contains(&operation.step.as_str())
            && moves::servers_of(operation).contains(&name)
    });
    found.map_or(Ok(()), |found| {
        Err(Error::refused(
            format!("move {} from or to server {} is in its {}", found.id, row.server.name, found.step),
            "try again in seconds; if it does not end, stop the old server first",
        ))
    })
}

/// Lets nobody into the tenants' databases of the old server any more, and this control plane's own work in flight, which
/// knows the server by its old address, change nothing there: the old registry has seen a higher term then. Returns what
/// became of it; that it can't be fenced must not keep its tenants from being served.
async fn fence(context: &Context, (server, registry): (&Server, &Connection), term: i64) -> Result<String> {
    let term = term + 1;
    let fenced = async {
        registry::raise_term(registry, term).await?;
        const OPEN: &str = "
            SELECT t.database FROM public.tenant t JOIN pg_catalog.pg_database d ON d.datname = t.database
            WHERE d.datconnlimit <> -2";
        let rows = registry.rows(OPEN, &[]).await?;
        let databases: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let mut failed = Vec::new();
        // One that gives trouble keeps no other open.
        for database in &databases {
            failed.extend(database::set_limit(registry, term, database, 0).await.err());
        }
        for database in &databases {
            failed.extend(end_following(context, (server, database), registry).await.err());
        }
        let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
        failed.extend(database::terminate_all(registry, (&databases, None), deadline).await.err());
        Ok((databases.len(), failed))
    };
    match fenced.await {
        Ok((count, failed)) if failed.is_empty() => Ok(format!(
            "it was fenced: its {count} databases of tenants take nobody; make it a standby of the new one"
        )),
        Ok((_, failed)) => {
            let told: Vec<String> = failed.iter().take(TROUBLES_TOLD_MAX).map(ToString::to_string).collect();
            Ok(not_fenced(&format!("in {} cases: {}", failed.len(), told.join("; "))))
        }
        // Another instance leads.
        Err(error) if Error::must_stop(&error) => Err(error),
        Err(error) => Ok(not_fenced(&error.to_string())),
    }
}

fn not_fenced(why: &str) -> String {
    format!("it could not be fenced in full ({why}): stop it, and make it a standby of the new one")
}

/// Lets a copy that follows another server follow it no more: the promoted one does, from the same slot.
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
    for row in &subscriptions {
        connection.run(&format!("ALTER SUBSCRIPTION {} DISABLE", ident(row.get(0)))).await?;
    }
    connection.close().await;
    Ok(())
}
