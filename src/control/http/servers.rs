//! `/v1/servers`.

use axum::Json;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::selector::Labels;
use shard_map::{Server, ServerClass, ServerName, ServerState};

use super::Shared;
use super::answer::{Answer, Body, Refusal, parse};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::arm;

pub(super) async fn list(State(context): Shared) -> Answer<Vec<catalog::ServerRow>> {
    Ok(Json(context.catalog.servers().await?))
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
    Ok(Json(shown))
}

async fn look(context: &Context, server: &Server) -> Result<(String, String)> {
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
    #[serde(default)]
    class: ServerClass,
    max_connections: Option<u32>,
    #[serde(default)]
    labels: Labels,
}

/// Checks, arms and records a server. The URL's password is used now and kept nowhere.
pub(super) async fn add(State(context): Shared, Body(add): Body<Add>) -> Answer<catalog::ServerRow> {
    let name: ServerName = parse(&add.name)?;
    let config: tokio_postgres::Config =
        add.url.parse().map_err(|e| Refusal::usage(&format!("url: {}", describe(&e))))?;
    let (host, port) = arm::address(&config)?;
    let term = context.leading_term()?;
    if add.max_connections == Some(0) {
        return Err(Refusal::usage("max_connections: 0 is not allowed, use 1 or more"));
    }
    let mut server = Server {
        name,
        host,
        port,
        class: add.class,
        max_connections: add.max_connections.unwrap_or(1),
        labels: add.labels,
        state: ServerState::Active,
    };
    let known = context.catalog.servers().await?;
    if let Some(other) =
        known.iter().find(|k| k.server.address() == server.address() && k.server.name != server.name)
    {
        let what =
            format!("the server at {} is already in the map as {}", server.address(), other.server.name);
        return Err(catalog::Error::Conflict(what).into());
    }
    let armed = arm::arm(&config, &server, &context.key, term).await?;
    if add.max_connections.is_none() {
        server.max_connections = armed.connections_proposed;
    }
    context.catalog.put_server(&server, armed.system_identifier).await?;
    Ok(Json(context.catalog.server(&server.name).await?))
}

/// What a driver's error says, with its cause; it never quotes the URL.
fn describe(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}
