//! The plan by which a server is emptied onto servers of newer major versions of Postgres, a wave after the other. It changes
//! nothing and is kept nowhere: operators begin the moves, and see after each wave how the tenants do.

use std::collections::BTreeMap;
use std::time::Duration;

use catalog::{Leaving, UnderWay};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use shard_map::upgrade::{self, Leaver, Places, Planned, Unplaced};
use shard_map::{Server, ServerName, TenantId};

use super::standing::{Reason, Standing, judge};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::moves;

/// How long a server may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);
/// Servers that are asked at once.
const SERVERS_AT_ONCE: usize = 20;

/// What is told of it.
#[derive(Debug, Serialize)]
pub(crate) struct UpgradePlan {
    name: ServerName,
    /// Its major version.
    version: i32,
    /// Tenants in the plan, and the bytes of those that were measured.
    tenants: usize,
    bytes: u64,
    waves: Vec<Wave>,
    /// That no newer server can take.
    unplaced: Vec<Unplaced>,
    /// That can't be moved as they are, or are changed by something else just now.
    not_movable: Vec<Stays>,
}

#[derive(Debug, Serialize)]
struct Wave {
    wave: usize,
    tenants: usize,
    bytes: u64,
    moves: Vec<PlannedMove>,
}

#[derive(Debug, Serialize)]
struct PlannedMove {
    #[serde(flatten)]
    planned: Planned,
    command: String,
}

#[derive(Debug, Serialize)]
struct Stays {
    tenant: TenantId,
    why: String,
    remedy: String,
}

/// Plans it, as things are now.
///
/// # Errors
/// [`Error::Refused`] when no server has a newer Postgres; [`Error::ServerUnreachable`] when the server itself does not answer.
pub(crate) async fn plan(context: &Context, server: &Server) -> Result<UpgradePlan> {
    let policy = context.policy().await?;
    let (candidates, neighbours) = context.catalog.places(&policy).await?;
    let version = version(context, server).await?;
    let servers = candidates.iter().map(|candidate| candidate.server.clone()).collect();
    let majors = majors(context, servers).await;
    if !majors.values().any(|major| *major > version) {
        let silent = candidates.len().saturating_sub(majors.len());
        let silent = if silent == 0 { String::new() } else { format!(" ({silent} did not answer)") };
        return Err(Error::refused(
            format!("no server has a newer Postgres than {}, which has {version}{silent}", server.name),
            "add one: tenantry server add NAME --url URL",
        ));
    }
    let (mut leavers, mut not_movable) = (Vec::new(), Vec::new());
    for row in context.catalog.leaving(&server.name, context.config.delete_grace).await? {
        match stays(&row) {
            Some(stays) => not_movable.push(stays),
            None => leavers.push(leaver(row)),
        }
    }
    let plan = upgrade::plan((server, version), leavers, Places { candidates, majors, neighbours, policy });
    let waves: Vec<Wave> = plan.waves.into_iter().zip(1..).map(wave).collect();
    Ok(UpgradePlan {
        name: server.name.clone(),
        version,
        tenants: waves.iter().map(|wave| wave.tenants).sum(),
        bytes: waves.iter().map(|wave| wave.bytes).sum(),
        waves,
        unplaced: plan.unplaced,
        not_movable,
    })
}

fn wave((planned, wave): (Vec<Planned>, usize)) -> Wave {
    let bytes = planned.iter().filter_map(|one| one.bytes).sum();
    let with_command = |planned: Planned| {
        let command = format!("tenantry move start {} --to {} --wait", planned.tenant, planned.to);
        PlannedMove { planned, command }
    };
    let moves: Vec<PlannedMove> = planned.into_iter().map(with_command).collect();
    Wave { wave, tenants: moves.len(), bytes, moves }
}

fn leaver(row: Leaving) -> Leaver {
    let Leaving { tenant, bytes, .. } = row;
    let quota = tenant.quota.as_deref().copied().unwrap_or_default();
    Leaver { id: tenant.id, labels: tenant.labels, quota, bytes }
}

/// Why a tenant is not in the plan; none if it is. That its last move failed is no reason.
fn stays(row: &Leaving) -> Option<Stays> {
    let tenant = row.tenant.id.clone();
    match judge(row) {
        Standing::Ready | Standing::Soon | Standing::Aside(_) => None,
        Standing::Stuck(Reason { why, remedy, .. }) => Some(Stays { tenant, why, remedy }),
        Standing::Moving(UnderWay { id, .. }) => {
            let remedy = format!("see where it stands: tenantry move show {id}");
            Some(Stays { tenant, why: format!("move {id} is under way"), remedy })
        }
        Standing::Busy(UnderWay { id, kind, .. }) => {
            let why = format!("operation {id} ({}) is under way", kind.as_str());
            Some(Stays { tenant, why, remedy: "plan again when that has ended".to_owned() })
        }
    }
}

/// The major versions of all that answer.
async fn majors(context: &Context, servers: Vec<Server>) -> BTreeMap<ServerName, i32> {
    let asked = stream::iter(servers).map(async |server| {
        let answer = tokio::time::timeout(VERSION_TIMEOUT, version(context, &server)).await;
        Some((server.name, answer.ok()?.ok()?))
    });
    let answers: Vec<_> = asked.buffer_unordered(SERVERS_AT_ONCE).collect().await;
    answers.into_iter().flatten().collect()
}

async fn version(context: &Context, server: &Server) -> Result<i32> {
    moves::major(&context.connector.registry(server).await?).await
}
