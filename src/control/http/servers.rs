//! `/v1/servers`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use catalog::{AddressState, Removal, ServerAddress};
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::labels::Labels;
use shard_map::{Server, ServerClass, ServerName, ServerState};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal, parse};
use super::paging::Page;
use crate::context::Context;
use crate::drain;
use crate::error::Error;
use crate::failover;
use crate::server::arm;

/// How long one address of a server that is said to be lost is tried, and how long its name is looked up.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(asked): Query<Page<String>>,
) -> Result<Response, Refusal> {
    asked.of(context.catalog.servers().await?, &uri, |row| row.server.name.to_string())
}

pub(super) async fn show(State(context): Shared, Path(name): Path<String>) -> Answer<Value> {
    let row = context.catalog.server(&parse::<ServerName>(&name)?).await?;
    let mut shown = json!(row);
    let seen = look(&context, &row.server).await;
    shown["reachable"] = json!(seen.is_ok());
    shown["error"] = json!(seen.as_ref().err().map(ToString::to_string));
    let (version, wal_level) = seen.ok().unzip();
    shown["version"] = json!(version);
    shown["wal_level"] = json!(wal_level);
    let drains = row.server.state == ServerState::Draining;
    let mut addresses = context.catalog.server_addresses().await?;
    addresses.retain(|address| address.server == row.server.name);
    shown["addresses"] = json!(addresses);
    shown["failovers"] = failover::history(&context, &row.server.name).await?;
    shown["drain"] =
        if drains { json!(drain::report(&context, &row.server.name).await?) } else { Value::Null };
    Ok(Json(shown))
}

async fn look(context: &Context, server: &Server) -> Result<(String, String), Error> {
    let registry = context.connector.registry(server).await?;
    let row =
        registry.row("SELECT current_setting('server_version'), current_setting('wal_level')", &[]).await?;
    row.map(|row| (row.get(0), row.get(1))).ok_or_else(|| Error::Failed("no answer to a plain query".into()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Add {
    name: String,
    url: String,
    class: Option<ServerClass>,
    max_connections: Option<u32>,
    labels: Option<Labels>,
}

/// Checks, arms and records a server. The URL's password is used now and kept nowhere. Of a server that is in the map
/// already, what is not given stays as it is.
pub(super) async fn add(State(context): Shared, Body(add): Body<Add>) -> Answer<catalog::ServerRow> {
    let name: ServerName = parse(&add.name)?;
    let config = configuration(&add.url)?;
    let hosts = arm::addresses(&config)?;
    let term = context.leading_term()?;
    let known: Vec<Server> = context.catalog.servers().await?.into_iter().map(|row| row.server).collect();
    let before = known.iter().find(|server| server.name == name);
    let (config, (host, port)) = failover::primary(&context.connector, &name, &config).await?;
    if let Some(before) = before
        && hosts.contains(&(before.host.clone(), before.port))
        && (&before.host, before.port) != (&host, port)
    {
        return Err(promoted_meanwhile(before, &host, port).into());
    }
    if before.is_some_and(|before| (&before.host, before.port) != (&host, port)) {
        refuse_former(&context, &name, (&host, port)).await?;
    }
    let mut server = Server {
        name,
        host,
        port,
        class: add.class.or(before.map(|server| server.class)).unwrap_or_default(),
        max_connections: 0,
        labels: add.labels.or(before.map(|server| server.labels.clone())).unwrap_or_default(),
        state: before.map(|server| server.state).unwrap_or_default(),
        capacity: before.map(|server| server.capacity).unwrap_or_default(),
        quota: before.map(|server| server.quota).unwrap_or_default(),
    };
    if let Some(other) = known.iter().find(|k| k.address() == server.address() && k.name != server.name) {
        let what = format!("the server at {} is already in the map as {}", server.address(), other.name);
        return Err(catalog::Error::Conflict(what).into());
    }
    let identity = context.catalog.identity().await?;
    let armed = arm::arm(&config, &server, (&context.connector, term), &identity).await?;
    let most = armed.connections_max;
    server.max_connections =
        add.max_connections.or(before.map(|server| server.max_connections)).unwrap_or(most);
    if !(1..=most).contains(&server.max_connections) {
        let given = server.max_connections;
        let what =
            format!("max_connections: {given} is not allowed, the server takes 1 to {most} from routers");
        return Err(Refusal::usage(&what));
    }
    context.catalog.put_server(&server, armed.system_identifier).await?;
    context.catalog.put_members(&server.name, if hosts.len() > 1 { &hosts } else { &[] }).await?;
    Ok(Json(context.catalog.server(&server.name).await?))
}

/// Where a server was before it failed over, it may be as it was then. Only a failover looks whether it was promoted since.
async fn refuse_former(context: &Context, name: &ServerName, (host, port): (&str, u16)) -> Result<(), Error> {
    let addresses = context.catalog.server_addresses().await?;
    let is_left = |address: &ServerAddress| {
        !address.is_member || matches!(address.state, AddressState::Closed | AddressState::Open)
    };
    let former = addresses.iter().find(|address| {
        address.server == *name && (address.host.as_str(), address.port) == (host, port) && is_left(address)
    });
    if former.is_none() {
        return Ok(());
    }
    Err(Error::refused(
        format!("server {name} was at {host}:{port} before it failed over: what is there may be old"),
        format!(
            "make it a standby of the new one; to go back, promote it, then tenantry server failover {name} --to \
             postgres://{host}:{port}/postgres"
        ),
    ))
}

/// Of the hosts that are named, it is another one that takes writes than the one that the map has.
fn promoted_meanwhile(server: &Server, host: &str, port: u16) -> Error {
    let name = &server.name;
    Error::refused(
        format!(
            "server {name} is at {} in the map, and it is {host}:{port} that takes writes",
            server.address()
        ),
        format!("tenantry server failover {name} --to postgres://{host}:{port}/postgres, then this again"),
    )
}

/// How TLS is done is for the control plane's configuration to say, as for all connections to servers.
fn configuration(url: &str) -> std::result::Result<tokio_postgres::Config, Refusal> {
    let (url, _) = catalog::tls::without_tls(url).map_err(|why| Refusal::usage(&format!("url: {why}")))?;
    url.parse().map_err(|e| Refusal::usage(&format!("url: {}", describe(&e))))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Failover {
    to: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    accept_differences: bool,
    #[serde(default)]
    reopen: bool,
}

/// Points a server to its promoted standby. Of the URL, only the address counts: the control plane logs in as itself.
pub(super) async fn failover(
    State(context): Shared,
    Path(name): Path<String>,
    Body(asked): Body<Failover>,
) -> Answer<Value> {
    let row = context.catalog.server(&parse::<ServerName>(&name)?).await?;
    let to = arm::address(&configuration(&asked.to)?)?;
    let Failover { dry_run, accept_differences, reopen, .. } = asked;
    let asked = failover::Asked { to, dry_run, accept_differences, reopen };
    Ok(Json(failover::run(&context, row, asked).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Drain {
    #[serde(default)]
    undo: bool,
}

/// Empties a server and lets it take no new tenants; or takes that back. Said again, it tries everybody anew who was set aside.
pub(super) async fn drain(
    State(context): Shared,
    Path(name): Path<String>,
    Body(asked): Body<Drain>,
) -> Answer<catalog::ServerRow> {
    let name = parse::<ServerName>(&name)?;
    context.catalog.set_draining(&name, !asked.undo).await?;
    context.drain_nudge.notify_one();
    Ok(Json(context.catalog.server(&name).await?))
}

/// How far a server is emptied.
pub(super) async fn drained(State(context): Shared, Path(name): Path<String>) -> Answer<Value> {
    let server = context.catalog.server(&parse::<ServerName>(&name)?).await?.server;
    let mut shown = json!(drain::report(&context, &server.name).await?);
    shown["name"] = json!(server.name);
    shown["state"] = json!(server.state);
    Ok(Json(shown))
}

/// How a server would be emptied onto servers of newer versions of Postgres. Nothing is changed, and nothing kept.
pub(super) async fn upgrade_plan(
    State(context): Shared,
    Path(name): Path<String>,
) -> Answer<drain::UpgradePlan> {
    let server = context.catalog.server(&parse::<ServerName>(&name)?).await?.server;
    Ok(Json(drain::plan_upgrade(&context, &server).await?))
}

#[derive(Deserialize)]
pub(super) struct Remove {
    #[serde(default)]
    lost: bool,
}

/// Takes a server off the map. Nothing on it is touched.
pub(super) async fn remove(
    State(context): Shared,
    Path(name): Path<String>,
    Query(Remove { lost }): Query<Remove>,
) -> Answer<Value> {
    let name = parse::<ServerName>(&name)?;
    let term = context.leading_term()?;
    let server = context.catalog.server(&name).await?.server;
    if lost {
        refuse_if_alive(&server).await?;
    }
    let removal = context.catalog.remove_server(&name, lost, term).await;
    context.nudge.notify_one();
    let removed = match removal? {
        Removal::Done(removed) => removed,
        Removal::InTheWay(obstacle) => {
            return Err(Error::refused(obstacle.what(&name), obstacle.remedy(&name)).into());
        }
    };
    tracing::warn!(server = %name, lost, tenants = removed.tenants.len(), "removed from the map");
    let kept: Vec<Value> = removed
        .kept
        .iter()
        .map(|(server, database)| json!({ "server": server, "database": database }))
        .collect();
    Ok(Json(json!({ "name": name, "state": "removed", "lost_tenants": removed.tenants, "kept": kept })))
}

/// Refuses to believe that a server is lost unless nothing answers at any of its addresses. Only the network is asked: one
/// that refuses a login or a certificate lives, too.
async fn refuse_if_alive(server: &Server) -> Result<(), Error> {
    let name = &server.name;
    let unknown = |error: &std::io::Error| {
        let hint = "it counts as lost when nothing answers at its address: see to the cause, then try again; a name that does \
                    not resolve any more gets its old address in /etc/hosts of the control plane's host";
        Error::refused(format!("whether server {name} is lost can't be told: {}: {error}", server.host), hint)
    };
    let looked_up =
        tokio::time::timeout(PROBE_TIMEOUT, tokio::net::lookup_host((server.host.as_str(), server.port)));
    let too_long = || std::io::Error::other(format!("no address within probe_timeout ({PROBE_TIMEOUT:?})"));
    let looked_up = looked_up.await.unwrap_or_else(|_| Err(too_long()));
    let addresses: Vec<SocketAddr> = looked_up.map_err(|error| unknown(&error))?.collect();
    for address in addresses {
        match tokio::time::timeout(PROBE_TIMEOUT, tokio::net::TcpStream::connect(address)).await {
            Ok(Ok(_)) => {
                let hint = format!("if its tenants are to leave it: tenantry server drain {name}");
                return Err(Error::refused(format!("server {name} answers: it is not lost"), hint));
            }
            Ok(Err(error)) if !is_silence(&error) => return Err(unknown(&error)),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether it says that nothing is there.
fn is_silence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut)
}

/// What a driver's error says, with its cause; it never quotes the URL.
fn describe(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_lost_only_when_nothing_answers_at_its_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Server {
            name: ServerName::new("pg-9").unwrap(),
            host: "127.0.0.1".to_owned(),
            port: listener.local_addr().unwrap().port(),
            class: ServerClass::default(),
            max_connections: 10,
            labels: Labels::default(),
            state: ServerState::default(),
            capacity: shard_map::policy::Capacity::default(),
            quota: shard_map::policy::Quota::default(),
        };
        // Whatever it is, and whether it lets the control plane in or not.
        assert!(refuse_if_alive(&server).await.unwrap_err().to_string().contains("pg-9 answers"));
        drop(listener);
        refuse_if_alive(&server).await.unwrap();
        server.host = "no-such-name.invalid".to_owned();
        assert!(refuse_if_alive(&server).await.unwrap_err().to_string().contains("can't be told"));
    }
}
