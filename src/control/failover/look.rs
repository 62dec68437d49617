//! What is at an address: which cluster, whether it takes writes, and on which timeline.

use std::time::Duration;

use catalog::ServerRow;
use shard_map::Server;

use super::close;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::Connection;

/// How long one server may take to tell what it is: one that hangs still takes connections.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) is_standby: bool,
    pub(super) system: i64,
    /// None of a standby.
    pub(super) timeline: Option<i32>,
    pub(super) session: Session,
}

/// The asking session: its process, and when that began in microseconds since 1970. No two servers have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session(pub(super) i32, pub(super) i64);

/// What is at the address that the map has.
pub(super) enum Old {
    /// It takes writes, and is to be closed.
    Primary(Box<Connection>, Standing),
    /// It does not answer, or not as it should; why.
    Silent(String),
    /// There is nothing to close; why.
    LeftAlone(String),
}

/// A session in a server's registry, and what the server says of itself there.
pub(super) async fn at(context: &Context, server: &Server) -> Result<(Connection, Standing)> {
    let looked = async {
        let registry = context.connector.registry(server).await?;
        let standing = standing(&registry).await?;
        Ok((registry, standing))
    };
    in_time(server, looked).await
}

async fn in_time<T>(server: &Server, looked: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::ServerUnreachable {
        server: server.name.to_string(),
        message: format!("no answer at {} within look_timeout ({LOOK_TIMEOUT:?})", server.address()),
    };
    tokio::time::timeout(LOOK_TIMEOUT, looked).await.map_err(late)?
}

pub(super) async fn standing(registry: &Connection) -> Result<Standing> {
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

/// Whether a server acknowledges what it is given to write: not as a standby, nor as a primary that waits for one that is gone.
pub(super) async fn acknowledges(server: &Server, registry: &Connection) -> Result<bool> {
    const SQL: &str = "
        SELECT NOT pg_catalog.pg_is_in_recovery() AND (pg_catalog.current_setting('synchronous_standby_names') = ''
            OR EXISTS (SELECT FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum')))";
    in_time(server, registry.value(SQL, &[])).await
}

/// Whether a session is one of this server's. Two addresses may lead to one server: names, and addresses that move.
pub(super) async fn has(registry: &Connection, Session(process, began_us): Session) -> Result<bool> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity
            WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2)";
    registry.value(SQL, &[&process, &began_us]).await
}

/// The promoted standby, as which a server is refused that is another cluster, or was not promoted.
pub(super) async fn promoted(
    context: &Context,
    row: &ServerRow,
    promoted: &Server,
) -> Result<(Connection, Standing)> {
    let (registry, standing) = at(context, promoted).await?;
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
    Ok((registry, standing))
}

/// Refused if it was closed as an old primary: what was written since is not there.
pub(super) async fn refuse_if_closed(registry: &Connection, promoted: &Server) -> Result<()> {
    if !close::is_ahead(registry).await? {
        return Ok(());
    }
    let (name, address) = (&promoted.name, promoted.address());
    Err(Error::refused(
        format!(
            "the server at {address}, or one that it was copied from, was closed as an old primary of server {name}"
        ),
        "make it a standby of the server's present primary first (pg_rewind or pg_basebackup), then promote it; if that primary is \
         lost, and this one is the last copy, add --reopen: what was written since it was closed is lost",
    ))
}

/// What is at the address that the map has. Refused if that is the promoted server, or if this one was never promoted after it.
/// That it does not answer must not keep its tenants from being served.
pub(super) async fn old(
    context: &Context,
    row: &ServerRow,
    (promoted, new): (&Server, &Standing),
) -> Result<Old> {
    let name = &row.server.name;
    let looked = async {
        let (registry, old) = at(context, &row.server).await?;
        let is_the_new_one = in_time(&row.server, has(&registry, new.session)).await?;
        Ok::<_, Error>((registry, is_the_new_one, old))
    };
    let (registry, is_the_new_one, old) = match looked.await {
        Ok(found) => found,
        Err(error) => return Ok(Old::Silent(error.to_string())),
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
    Ok(Old::Primary(Box::new(registry), old))
}
