//! Reads servers: one session for each, a few queries over all of its tenants.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use shard_map::recovery::{Record, RecordState, Registry, Seen, Survey};
use shard_map::{Epoch, Server, ServerName, TenantId};

use crate::error::{Error, Result};
use crate::server::arm::CONNECTIONS_RESERVED;
use crate::server::names::{OF_MOVES, OF_OPERATIONS};
use crate::server::{Connection, Connector, registry};

/// How long one server may take.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(20);
/// Servers that a command reads at once.
pub(super) const COMMAND_SERVERS_AT_ONCE: usize = 8;
/// Servers that the background's look reads at once.
pub(super) const BACKGROUND_SERVERS_AT_ONCE: usize = 1;

/// Reads servers as they are.
pub(super) async fn look(connector: &Connector, servers: Vec<Server>, at_once: usize) -> Survey {
    read_all(connector, servers, at_once, None).await
}

/// Reads servers after no controller with a lower term can change anything there any more. Those not in `known` are
/// read as they are: they may be another fleet's.
pub(super) async fn fence(
    connector: &Connector,
    servers: Vec<Server>,
    (term, known): (i64, &[ServerName]),
) -> Survey {
    read_all(connector, servers, COMMAND_SERVERS_AT_ONCE, Some((term, known))).await
}

async fn read_all(
    connector: &Connector,
    servers: Vec<Server>,
    at_once: usize,
    fence: Option<(i64, &[ServerName])>,
) -> Survey {
    let reads = servers.into_iter().map(async |server| {
        let term = fence.filter(|(_, known)| known.contains(&server.name)).map(|(term, _)| term);
        let read = tokio::time::timeout(SURVEY_TIMEOUT, read(connector, &server, term)).await;
        let seen = match read {
            Ok(Ok(registry)) => Seen::Registry(Box::new(registry)),
            Ok(Err(error)) => Seen::Unreachable(reason(error)),
            Err(_) => Seen::Unreachable(format!("it was not read within {SURVEY_TIMEOUT:?}")),
        };
        (server.name, seen)
    });
    stream::iter(reads).buffer_unordered(at_once).collect::<Vec<_>>().await.into_iter().collect()
}

fn reason(error: Error) -> String {
    match error {
        Error::ServerUnreachable { message, .. } => message,
        Error::Statement { message, sqlstate, .. } => match sqlstate.as_str() {
            "42P01" => {
                "its registry lacks a table: drop its database, and a rebuild makes it anew".to_owned()
            }
            _ => format!("{message} (SQLSTATE {sqlstate})"),
        },
        other => other.to_string(),
    }
}

async fn read(connector: &Connector, server: &Server, fence: Option<i64>) -> Result<Registry> {
    let connection = match connector.registry(server).await {
        Err(e) if e.sqlstate() == Some("3D000") => return read_without_registry(connector, server).await,
        connected => connected?,
    };
    if let Some(term) = fence {
        registry::raise_term(&connection, term).await?;
    }
    // One snapshot: a record and the name of its database change in one transaction.
    connection.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let mut registry = look_around(&connection).await?;
    const HEAD: &str = "SELECT (SELECT id FROM public.fleet), (SELECT term FROM public.controller_term)";
    let head = one(connection.row(HEAD, &[]).await?)?;
    registry.fleet = head.get(0);
    registry.term = head.get::<_, Option<i64>>(1).unwrap_or(0);
    registry.lacks = match (&registry.fleet, head.get::<_, Option<i64>>(1)) {
        (None, _) => Some("the record of its fleet"),
        (_, None) => Some("the record of the controllers' term, without which it refuses none"),
        _ => None,
    };
    registry.records = records(&connection).await?;
    if registry::has_stock(&connection).await? {
        const STOCK: &str = "SELECT name FROM public.stock";
        registry.stock = connection.rows(STOCK, &[]).await?.iter().map(|row| row.get(0)).collect();
    }
    connection.run("COMMIT").await?;
    Ok(registry)
}

/// Reads a server that took the control plane's login, so it is armed, and has no registry.
async fn read_without_registry(connector: &Connector, server: &Server) -> Result<Registry> {
    let connection = connector.database(server, "postgres").await?;
    Ok(Registry { lacks: Some("its registry, database tenantry"), ..look_around(&connection).await? })
}

/// What can be seen of a server from any of its databases.
async fn look_around(connection: &Connection) -> Result<Registry> {
    let mut registry = server_itself(connection).await?;
    const DATABASES: &str = "
        SELECT datname::text FROM pg_catalog.pg_database
        WHERE datname <> ALL ('{postgres,template0,template1,tenantry}') AND datname !~ '__trial$'";
    registry.databases = connection.rows(DATABASES, &[]).await?.iter().map(|row| row.get(0)).collect();
    registry.moves = moves(connection).await?;
    Ok(registry)
}

fn one(row: Option<tokio_postgres::Row>) -> Result<tokio_postgres::Row> {
    row.ok_or_else(|| Error::Failed("no answer to a plain query".into()))
}

async fn server_itself(connection: &Connection) -> Result<Registry> {
    // The last number in a name that a move gave to a role, a slot or a subscription.
    let sql = format!(
        "SELECT (SELECT system_identifier FROM pg_catalog.pg_control_system()), current_setting('max_connections')::int,
            coalesce((SELECT max(substring(name FROM '{OF_OPERATIONS}')::bigint) FROM (
                SELECT rolname::text FROM pg_catalog.pg_roles
                UNION ALL SELECT slot_name::text FROM pg_catalog.pg_replication_slots
                UNION ALL SELECT subname::text FROM pg_catalog.pg_subscription) AS names (name)), 0),
            pg_catalog.pg_is_in_recovery()"
    );
    let row = one(connection.row(&sql, &[]).await?)?;
    // Such as the old primary that an old file names: who placed tenants there would let them only read.
    if row.get(3) {
        return Err(Error::Failed("it is a standby: the map has to name its primary".into()));
    }
    let connections: i32 = row.get(1);
    Ok(Registry {
        system_identifier: row.get(0),
        connections_max: u32::try_from((connections - CONNECTIONS_RESERVED).max(1)).unwrap_or(1),
        move_number: row.get(2),
        ..Registry::default()
    })
}

async fn records(connection: &Connection) -> Result<Vec<Record>> {
    const RECORDS: &str = "SELECT id, database, epoch, state, moved_to FROM public.tenant";
    let rows = connection.rows(RECORDS, &[]).await?;
    let record = |row: &tokio_postgres::Row| {
        let state = match row.get::<_, &str>(3) {
            "arriving" => RecordState::Arriving,
            "open" => RecordState::Open,
            "sealed" => RecordState::Sealed,
            "suspended" => RecordState::Suspended,
            _ => RecordState::Leaving,
        };
        let moved_to: Option<&str> = row.get(4);
        Some(Record {
            // Nobody can have put another one in but by hand.
            id: TenantId::new(row.get(0)).ok()?,
            database: row.get(1),
            epoch: Epoch(row.get(2)),
            state,
            moved_to: moved_to.and_then(|name| ServerName::new(name).ok()),
        })
    };
    Ok(rows.iter().filter_map(record).collect())
}

/// Moves by the right that their role has on the database that they stream from.
async fn moves(connection: &Connection) -> Result<BTreeMap<i64, String>> {
    let sql = format!(
        "SELECT substring(r.rolname FROM '\\d+$')::bigint, d.datname::text
        FROM pg_catalog.pg_database d, pg_catalog.aclexplode(d.datacl) a
        JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
        WHERE r.rolname ~ '{OF_MOVES}'"
    );
    Ok(connection.rows(&sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}
