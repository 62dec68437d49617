//! The fleet at a glance: who leads, servers with what they bear, routers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use catalog::{RouterLoad, ServerRow};
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};
use shard_map::{Server, ServerName};

use crate::context::Context;
use crate::error::{Error, Result};

/// How long one server may take to answer.
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Tenants that are told by what they do.
const BUSIEST_MAX: usize = 20;

/// What a server said of itself, or why it did not.
#[derive(Debug, Clone, Default, Serialize)]
struct Sight {
    version: Option<String>,
    /// Sessions of tenants' roles: what counts against the budget.
    sessions: Option<i64>,
    /// Those of them that are in a transaction.
    busy: Option<i64>,
    error: Option<String>,
}

/// Servers as they were seen last, by name.
#[derive(Default)]
pub(super) struct Sights(Mutex<BTreeMap<ServerName, Sight>>);

impl Sights {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<ServerName, Sight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks all servers at once, each with a limit. What one says is known as soon as it has said it.
pub(super) async fn look(context: &Context, rows: &[ServerRow], sights: &Sights) {
    sights.lock().retain(|name, _| rows.iter().any(|row| row.server.name == *name));
    let looks = rows.iter().map(async |row| {
        let name = row.server.name.clone();
        let seen = tokio::time::timeout(SERVER_TIMEOUT, ask(context, &row.server)).await;
        let failed = |error: String| Sight { error: Some(error), ..Sight::default() };
        let sight = match seen {
            Ok(Ok(sight)) => sight,
            Ok(Err(error)) => failed(error.to_string()),
            Err(_) => failed(format!("no answer within server_timeout ({SERVER_TIMEOUT:?})")),
        };
        sights.lock().insert(name, sight);
    });
    join_all(looks).await;
}

async fn ask(context: &Context, server: &Server) -> Result<Sight> {
    const SQL: &str = "
        SELECT current_setting('server_version'), count(*), count(*) FILTER (WHERE state <> 'idle')
        FROM pg_stat_activity WHERE backend_type = 'client backend' AND usename ~ '__(owner|app|readonly)$'";
    let registry = context.connector.warm_registry(server).await?;
    let row = registry.row(SQL, &[]).await?;
    let row = row.ok_or_else(|| Error::Failed("no answer to a plain query".to_owned()))?;
    let version: String = row.get(0);
    let sight =
        Sight { version: Some(version), sessions: Some(row.get(1)), busy: Some(row.get(2)), error: None };
    context.connector.keep_warm(server, registry);
    Ok(sight)
}

/// All of it, from the catalog and the last look at the servers.
pub(super) async fn summary(context: &Context, sights: &Sights) -> Result<Value> {
    let catalog = &context.catalog;
    let (health, rows, uses, routers, loads) = tokio::try_join!(
        catalog.health(),
        catalog.servers(),
        catalog.server_uses(),
        catalog.router_health(),
        catalog.loads(context.config.router_timeout)
    )?;
    let seen = sights.lock().clone();
    let timeout = i64::try_from(context.config.router_timeout.as_millis()).unwrap_or(i64::MAX);
    let live = routers.iter().filter(|router| router.silent_ms <= timeout);
    let down: Vec<&String> = live.flat_map(|router| &router.report.servers_down).collect();
    let servers = rows.iter().map(|row| {
        let mut shown = json!(row);
        shown["use"] = json!(uses.get(&row.server.name));
        shown["seen"] = json!(seen.get(&row.server.name));
        let name = row.server.name.as_str();
        shown["down_for_routers"] = json!(down.iter().filter(|down| down.as_str() == name).count());
        shown
    });
    let servers: Vec<Value> = servers.collect();
    let shown_routers: Vec<Value> = routers
        .iter()
        .map(|router| {
            json!({
                "name": router.name, "address": router.address, "clients": router.report.clients,
                "map_version": router.map_version, "behind_ms": router.behind_ms,
                "silent": router.silent_ms > timeout, "servers_down": router.report.servers_down,
            })
        })
        .collect();
    let mut load = RouterLoad::default();
    loads.into_iter().for_each(|router| load.add(router.load, BUSIEST_MAX));
    let lease = health.lease.as_ref();
    Ok(json!({
        "instance": context.config.name.as_deref().unwrap_or(&context.config.listen),
        "leads": context.term.borrow().is_some(),
        "leader": lease.filter(|lease| lease.remaining_ms.is_some_and(|left| left > 0)).map(|lease| &lease.holder),
        "program": env!("CARGO_PKG_VERSION"), "tenants": health.tenants, "map_version": health.map_version,
        "servers": servers, "routers": shown_routers, "busiest": load.tenants,
    }))
}
