//! `/v1/load`: what the fleet has to do just now, as its routers say.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use catalog::{Load, RouterLoad, TenantLoad};
use serde::{Deserialize, Serialize};
use shard_map::ServerName;

use super::Shared;
use super::answer::{Answer, Query, Refusal};

/// Tenants that are told, unless something else is asked for, and at most. Each router names its 20 busiest.
const TOP: usize = 20;
const TOP_MAX: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// How many tenants.
    top: Option<usize>,
}

/// What all live routers have to do.
#[derive(Serialize)]
pub(super) struct Loads {
    routers: Vec<OfRouter>,
    servers: Vec<OfServer>,
    /// The busiest first.
    tenants: Vec<TenantLoad>,
}

#[derive(Serialize)]
struct OfRouter {
    name: String,
    map_version: i64,
    #[serde(flatten)]
    load: Load,
}

#[derive(Serialize)]
struct OfServer {
    name: ServerName,
    /// Connections that all routers together may have there.
    max_connections: u32,
    #[serde(flatten)]
    load: Load,
}

pub(super) async fn show(State(context): Shared, Query(asked): Query<Asked>) -> Answer<Loads> {
    let top = asked.top.unwrap_or(TOP);
    if top > TOP_MAX {
        return Err(Refusal::usage(&format!("top: use 0 to {TOP_MAX}")));
    }
    let servers = context.catalog.servers().await?;
    let (mut all, mut routers) = (RouterLoad::default(), Vec::new());
    for router in context.catalog.loads(context.config.router_timeout).await? {
        let load = sum(&router.load.servers);
        routers.push(OfRouter { name: router.name, map_version: router.map_version, load });
        all.add(router.load, TOP_MAX);
    }
    all.keep_busiest(top);
    let servers = servers.into_iter().map(|row| OfServer {
        load: all.servers.get(&row.server.name).copied().unwrap_or_default(),
        max_connections: row.server.max_connections,
        name: row.server.name,
    });
    Ok(Json(Loads { routers, servers: servers.collect(), tenants: all.tenants }))
}

fn sum(servers: &BTreeMap<ServerName, Load>) -> Load {
    let mut sum = Load::default();
    for load in servers.values() {
        sum += *load;
    }
    sum
}
