//! Asks a server's registry about a tenant: it holds the truth when the map is behind.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use futures_util::future;
use futures_util::stream::{self, Stream, StreamExt as _};
use shard_map::{Epoch, Server, ServerName, TenantId};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::TlsStream;
use tokio_postgres::{Client, Connection, NoTls};

use crate::map::unknown_server;
use crate::shared::Shared;

/// How long a registry may take to answer, connecting included.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(3);
/// Registries that are asked at a time where a tenant is.
const ASKED_AT_ONCE: usize = 16;
const DATABASE: &str = "tenantry";
const ROLE: &str = "tenantry_router";

/// Where a tenant went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) server: ServerName,
    pub(crate) address: Option<String>,
    pub(crate) epoch: Epoch,
}

/// What a registry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    /// It never heard of the tenant.
    None,
    /// The tenant is open here.
    Open(Epoch),
    /// It is on its way here.
    Arriving,
    /// It was here.
    Sealed(Moved),
    /// It is here and an operator suspended it, or deleted it.
    Closed,
}

/// A registry that can't be asked.
#[derive(Debug, thiserror::Error)]
#[error("the registry of {server}: {message}")]
pub(crate) struct Unanswered {
    server: ServerName,
    message: String,
}

/// Asks one server's registry.
pub(crate) async fn ask(server: &Server, shared: &Shared, tenant: &TenantId) -> Result<Record, Unanswered> {
    let unanswered = |message: String| Unanswered { server: server.name.clone(), message };
    tokio::time::timeout(REGISTRY_TIMEOUT, query(server, shared, tenant))
        .await
        .map_err(|_| unanswered(format!("no answer within {REGISTRY_TIMEOUT:?}")))?
        .map_err(|e| unanswered(e.source().map_or_else(|| e.to_string(), ToString::to_string)))
}

/// Asks the registries of all servers that map and configuration know where a tenant is open.
pub(crate) async fn find(shared: &Shared, tenant: &TenantId) -> Option<(Server, Epoch)> {
    let mut answers = pin!(ask_all(shared, tenant, servers(shared)));
    while let Some((server, record)) = answers.next().await {
        // It is open nowhere else.
        if let Record::Open(epoch) = record {
            return Some((server, epoch));
        }
    }
    None
}

/// Asks all servers but the one that the map names, and those that are down, where a tenant is by now. Of what they say, the
/// highest epoch counts, if it is higher than the map's: a server may have come back as an older state of itself.
pub(crate) async fn find_moved(shared: &Shared, tenant: &TenantId, not_at: &ServerName) -> Option<Moved> {
    let mut servers = servers(shared);
    servers.retain(|server| server.name != *not_at && !shared.breakers.is_down(&server.name));
    let known = shared.map.read().tenants.get(tenant)?.epoch;
    let answers: Vec<_> = ask_all(shared, tenant, servers).collect().await;
    let moved = answers.into_iter().filter_map(|(server, record)| match record {
        Record::Open(epoch) => Some(Moved { address: Some(server.address()), server: server.name, epoch }),
        Record::Sealed(moved) => Some(moved),
        _ => None,
    });
    newest(moved.collect(), known, not_at)
}

/// The highest epoch over the known one, if it is not where the tenant was thought to be.
fn newest(moved: Vec<Moved>, known: Epoch, not_at: &ServerName) -> Option<Moved> {
    let newest = moved.into_iter().max_by_key(|moved| moved.epoch)?;
    (newest.epoch > known && newest.server != *not_at).then_some(newest)
}

/// The servers that map and configuration know.
fn servers(shared: &Shared) -> Vec<Server> {
    let map = shared.map.read();
    let config = shared.config();
    let declared = config.servers.iter().filter(|(name, _)| !map.servers.contains_key(*name));
    let declared = declared.filter_map(|(name, address)| unknown_server(name, Some(address)));
    map.servers.values().cloned().chain(declared).collect()
}

/// What these servers say, in the order in which they do. Those that do not answer are left out.
fn ask_all(shared: &Shared, tenant: &TenantId, servers: Vec<Server>) -> impl Stream<Item = (Server, Record)> {
    let questions = servers.into_iter().map(move |server| async move {
        match ask(&server, shared, tenant).await {
            Ok(record) => Some((server, record)),
            Err(error) => {
                tracing::debug!(%tenant, %error, "a registry does not answer");
                None
            }
        }
    });
    stream::iter(questions).buffer_unordered(ASKED_AT_ONCE).filter_map(future::ready)
}

async fn query(
    server: &Server,
    shared: &Shared,
    tenant: &TenantId,
) -> Result<Record, Box<dyn Error + Send + Sync>> {
    let mut config = tokio_postgres::Config::new();
    config
        .dbname(DATABASE)
        .user(ROLE)
        .password(shared.master_key.registry_reader_password(&server.name))
        .application_name("tenantry router");
    let tls = shared.tls.servers();
    let mut outcome = Err("no attempt to connect was made".into());
    for with_tls in tls.attempts() {
        let connector = if *with_tls { tls.connector(&server.host)? } else { None };
        let socket = TcpStream::connect((server.host.as_str(), server.port)).await?;
        let answer = match connector {
            None => read(config.ssl_mode(SslMode::Disable).connect_raw(socket, NoTls).await, tenant).await,
            Some(connector) => {
                let mode = if tls.insists() { SslMode::Require } else { SslMode::Prefer };
                read(config.ssl_mode(mode).connect_raw(socket, connector).await, tenant).await
            }
        };
        outcome = answer.map_err(Into::into);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

async fn read<T: TlsStream + Unpin>(
    connected: Result<(Client, Connection<TcpStream, T>), tokio_postgres::Error>,
    tenant: &TenantId,
) -> Result<Record, tokio_postgres::Error> {
    const SQL: &str = "SELECT state, epoch, moved_to, moved_to_address FROM tenant WHERE id = $1";
    let (client, connection) = connected?;
    let asked = async {
        let row = client.query_opt(SQL, &[&tenant.as_str()]).await;
        drop(client);
        row
    };
    // The connection ends when the client is dropped; what it says then is of no interest.
    let (row, _) = tokio::join!(asked, connection);
    let Some(row) = row? else {
        return Ok(Record::None);
    };
    let (state, epoch): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
    let (moved_to, address): (Option<String>, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
    Ok(record(&state, Epoch(epoch), moved_to.as_deref(), address))
}

fn record(state: &str, epoch: Epoch, moved_to: Option<&str>, address: Option<String>) -> Record {
    match (state, moved_to.and_then(|name| ServerName::new(name).ok())) {
        ("open", _) => Record::Open(epoch),
        ("arriving", _) => Record::Arriving,
        ("sealed", Some(server)) => Record::Sealed(Moved { server, address, epoch }),
        _ => Record::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_servers_say_the_highest_epoch_counts() {
        let at = |server: &str, epoch| Moved {
            server: ServerName::new(server).unwrap(),
            address: None,
            epoch: Epoch(epoch),
        };
        let here = ServerName::new("a").unwrap();
        assert_eq!(newest(vec![at("b", 5), at("c", 6), at("b", 4)], Epoch(3), &here), Some(at("c", 6)));
        assert_eq!(newest(vec![at("b", 3)], Epoch(3), &here), None, "the map knows as much");
        assert_eq!(newest(vec![at("b", 5), at("a", 6)], Epoch(3), &here), None, "it came back");
        assert_eq!(newest(Vec::new(), Epoch(3), &here), None);
    }

    #[test]
    fn a_seal_says_where_to_go() {
        let moved = Moved { server: ServerName::new("b").unwrap(), address: None, epoch: Epoch(4) };
        assert_eq!(record("sealed", Epoch(4), Some("b"), None), Record::Sealed(moved));
        assert_eq!(record("open", Epoch(4), None, None), Record::Open(Epoch(4)));
        assert_eq!(record("leaving", Epoch(4), None, None), Record::Closed);
    }
}
