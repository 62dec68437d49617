//! Asks a server's registry about a tenant: it holds the truth when the map is behind.

use std::error::Error;
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
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
    let servers: Vec<_> = {
        let map = shared.map.read();
        let config = shared.config();
        let declared = config.servers.iter().filter(|(name, _)| !map.servers.contains_key(*name));
        let declared = declared.filter_map(|(name, address)| unknown_server(name, Some(address)));
        map.servers.values().cloned().chain(declared).collect()
    };
    let questions = servers.into_iter().map(async |server| {
        let record = ask(&server, shared, tenant).await;
        (server, record)
    });
    let mut answers = pin!(stream::iter(questions).buffer_unordered(ASKED_AT_ONCE));
    while let Some((server, record)) = answers.next().await {
        match record {
            // It is open nowhere else.
            Ok(Record::Open(epoch)) => return Some((server, epoch)),
            Ok(_) => {}
            Err(error) => tracing::debug!(%tenant, %error, "a registry does not answer"),
        }
    }
    None
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
    fn a_seal_says_where_to_go() {
        let moved = Moved { server: ServerName::new("b").unwrap(), address: None, epoch: Epoch(4) };
        assert_eq!(record("sealed", Epoch(4), Some("b"), None), Record::Sealed(moved));
        assert_eq!(record("open", Epoch(4), None, None), Record::Open(Epoch(4)));
        assert_eq!(record("leaving", Epoch(4), None, None), Record::Closed);
    }
}
