//! A server whose standby was promoted: all of its tenants are served there from then on, by one change of the map.
//!
//! The map knows servers by their names, and nothing of a tenant changes. What the standby never got is not there: tenants
//! that differ from the catalog are named before anything is changed (rows are not), and what becomes of the old server after it.
//!
//! What was asked for is an operation (`drive`), which whichever instance leads brings to its end. The change of the map
//! decides: before it, the server is where it was, though it may be closed by then; after it, only forward.

mod close;
mod drive;
mod hosts;
mod look;
mod watch;

use std::time::{Duration, Instant};

use catalog::{Kind, Operation, ServerRow};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shard_map::moves::Phase;
use shard_map::recovery::Finding;
use shard_map::{Server, ServerName};

use crate::context::{Context, trying};
use crate::error::{Error, Result};
use crate::map::MapTools;
use crate::moves;
pub(crate) use drive::drive;
pub(crate) use hosts::primary;
use look::Old;
pub(crate) use watch::watch;

/// How long who asks waits for the end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(50);
/// How often is looked whether it has ended, if another instance drives it.
const POLL: Duration = Duration::from_millis(200);
/// Failovers of a server that are shown.
const SHOWN_MAX: i64 = 5;

/// What was asked for.
pub(crate) struct Asked {
    /// Host and port of the promoted standby.
    pub(crate) to: (String, u16),
    /// Whether it is only looked.
    pub(crate) dry_run: bool,
    /// Whether it is done although tenants differ there from the catalog.
    pub(crate) accept_differences: bool,
    /// Whether it was closed by an earlier failover, and is opened again: no other copy is left.
    pub(crate) reopen: bool,
}

/// The record of what was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    server: ServerName,
    from: Address,
    to: Address,
    tenants: u32,
    /// What the promoted server has otherwise than the catalog.
    differences: Vec<Finding>,
    /// Whether it was closed, and is opened again.
    #[serde(default)]
    reopens: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    host: String,
    port: u16,
}

impl Address {
    fn of(server: &Server) -> Self {
        Self { host: server.host.clone(), port: server.port }
    }

    fn is_of(&self, server: &Server) -> bool {
        self.host == server.host && self.port == server.port
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Points a server to its promoted standby, and answers when that is done.
pub(crate) async fn run(context: &Context, row: ServerRow, asked: Asked) -> Result<Value> {
    context.leading_term()?;
    let (host, port) = asked.to;
    let promoted = Server { host, port, ..row.server.clone() };
    refuse_if_taken(context, &row.server, &promoted).await?;
    // The session is kept meanwhile: by it, the server is known under other names.
    let (registry, standing) = look::promoted(context, &row, &promoted).await?;
    if !asked.reopen {
        look::refuse_if_closed(&registry, &promoted).await?;
    }
    let at_old = look::old(context, &row, (&promoted, &standing)).await?;
    let input = plan(context, &row, &promoted, asked.reopen).await?;
    if asked.dry_run {
        return Ok(told(&input));
    }
    if !input.differences.is_empty() && !asked.accept_differences {
        let found: Vec<String> = input.differences.iter().map(difference).collect();
        return Err(Error::refused(
            format!(
                "server {} is not at {} what the catalog has: {}",
                input.server,
                input.to,
                found.join("; ")
            ),
            "fetch what is missing from the old server first, or add --accept-differences; map verify names it afterwards, too",
        ));
    }
    if matches!(at_old, Old::Primary(..))
        && let Some(found) = switching(context, &input.server).await?
    {
        return Err(Error::refused(
            format!("move {} from or to server {} is in its {}", found.id, input.server, found.step),
            "try again in seconds; if it does not end, stop the old server first",
        ));
    }
    let id = start(context, &input).await?;
    wait(context, id).await
}

/// What is to be done, and how the promoted server differs from the catalog.
async fn plan(context: &Context, row: &ServerRow, promoted: &Server, reopens: bool) -> Result<Input> {
    let tools = MapTools::of_control(context.catalog.clone(), context.connector.clone(), &context.config);
    Ok(Input {
        server: row.server.name.clone(),
        from: Address::of(&row.server),
        to: Address::of(promoted),
        tenants: row.tenants,
        differences: tools.differences_of(promoted.clone()).await?,
        reopens,
    })
}

async fn start(context: &Context, input: &Input) -> Result<i64> {
    let id = context.catalog.start_failover(&input.server, &json!(input)).await?;
    tracing::warn!(operation = id, server = %input.server, from = %input.from, to = %input.to, "a failover begins");
    context.nudge.notify_one();
    Ok(id)
}

/// Waits for the end of a failover, whoever drives it.
async fn wait(context: &Context, id: i64) -> Result<Value> {
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    loop {
        let ended = context.ended.notified();
        let operation = context.catalog.operation(id).await?;
        match operation.state.as_str() {
            "running" if Instant::now() < deadline => {}
            "running" => {
                let why =
                    trying(&operation)["error"].as_str().map_or_else(String::new, |why| format!(" ({why})"));
                let step = &operation.step;
                let server = operation.input["server"].as_str().unwrap_or_default();
                return Err(Error::Timeout(format!(
                    "failover {id} is at step {step}{why}, and goes on by itself: tenantry server show {server}"
                )));
            }
            "done" => return Ok(shown(&operation)),
            _ => {
                let why = operation.error.unwrap_or_else(|| operation.state.clone());
                return Err(Error::Failed(format!("failover {id}: {why}")));
            }
        }
        drop(tokio::time::timeout(POLL, ended).await);
    }
}

/// What is to be done, as who asks is told.
fn told(input: &Input) -> Value {
    json!({
        "name": input.server, "from": input.from.to_string(), "to": input.to.to_string(), "tenants": input.tenants,
        "differences": input.differences, "old_server": null, "applied": false,
    })
}

/// A failover, as who asks is told.
fn shown(operation: &Operation) -> Value {
    let mut shown =
        serde_json::from_value(operation.input.clone()).map_or_else(|_| json!({}), |input| told(&input));
    shown["old_server"] = operation.data.get("old_server").cloned().unwrap_or_default();
    shown["routers_behind"] = operation.data.get("routers_behind").cloned().unwrap_or_else(|| json!([]));
    shown["applied"] = json!(operation.data.get("map_version").is_some());
    shown["operation"] = json!(operation.id);
    shown
}

/// The last failovers of a server, the newest first.
pub(crate) async fn history(context: &Context, server: &ServerName) -> Result<Value> {
    let failovers = context.catalog.failovers(server, SHOWN_MAX).await?;
    let one = |operation: &Operation| {
        let mut shown = shown(operation);
        for key in ["name", "differences"] {
            shown.as_object_mut().map(|shown| shown.remove(key));
        }
        for (key, value) in [
            ("state", json!(operation.state)),
            ("step", json!(operation.step)),
            ("error", json!(operation.error)),
            ("trying", trying(operation)),
            ("at", json!(operation.created_at)),
        ] {
            shown[key] = value;
        }
        shown
    };
    Ok(failovers.iter().map(one).collect())
}

fn difference(finding: &Finding) -> String {
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

/// A move that changes its tenant's server just now: it may be decided at the old one.
async fn switching(context: &Context, server: &ServerName) -> Result<Option<Operation>> {
    let name = Some(server.clone());
    let switching = [Phase::Cutover.as_str(), Phase::Release.as_str()];
    let open = context.catalog.open_operations().await?;
    Ok(open.into_iter().find(|operation| {
        operation.kind == Kind::Move
            && switching.contains(&operation.step.as_str())
            && moves::servers_of(operation).contains(&name)
    }))
}
