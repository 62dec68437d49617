//! What is told of a server that drains: who is left and why, how fast it goes, and what stays behind.

use catalog::{SealedCopy, UnderWay};
use serde::Serialize;
use shard_map::{ServerName, TenantId};

use super::estimate::{self, Rate};
use super::standing::{Reason, Standing, judge};
use crate::context::Context;
use crate::error::Result;

/// Entries of each list; how many there are is told, too.
const LISTED_MAX: usize = 50;

/// How far a server is emptied.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    tenants_left: usize,
    /// Of those whose databases were measured.
    bytes_left: u64,
    /// That can be moved, and wait for their turn.
    pending: usize,
    moving: Listed<Moving>,
    /// That something else than a move changes.
    busy: Listed<Busy>,
    set_aside: Listed<Kept>,
    not_movable: Listed<Kept>,
    sealed_copies: Listed<SealedCopy>,
    rate: Option<Rate>,
    eta_s: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Listed<T> {
    count: usize,
    /// The first of them.
    listed: Vec<T>,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { count: 0, listed: Vec::new() }
    }
}

impl<T> Listed<T> {
    fn add(&mut self, one: T) {
        self.count += 1;
        if self.listed.len() < LISTED_MAX {
            self.listed.push(one);
        }
    }
}

#[derive(Debug, Serialize)]
struct Moving {
    #[serde(rename = "move")]
    id: i64,
    tenant: TenantId,
    to: Option<ServerName>,
    step: String,
    bytes: Option<u64>,
    bytes_copied: Option<u64>,
}

fn moving(tenant: &TenantId, operation: &UnderWay, bytes: Option<u64>) -> Moving {
    let UnderWay { id, step, to, bytes_copied, .. } = operation.clone();
    Moving { id, tenant: tenant.clone(), to, step, bytes, bytes_copied }
}

#[derive(Debug, Serialize)]
struct Busy {
    operation: i64,
    tenant: TenantId,
    kind: &'static str,
    step: String,
}

#[derive(Debug, Serialize)]
struct Kept {
    tenant: TenantId,
    why: String,
    remedy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tried_again_in_s: Option<u64>,
}

fn kept(tenant: &TenantId, reason: Reason) -> Kept {
    let Reason { why, remedy, tried_again_in } = reason;
    Kept { tenant: tenant.clone(), why, remedy, tried_again_in_s: tried_again_in.map(|left| left.as_secs()) }
}

/// Looks at a server that drains, as far as the catalog goes: the server is not asked.
pub(crate) async fn report(context: &Context, server: &ServerName) -> Result<Report> {
    let catalog = &context.catalog;
    let most = i64::try_from(LISTED_MAX).unwrap_or(i64::MAX);
    // First, so that who leaves meanwhile is seen twice rather than not at all.
    let tenants = catalog.leaving(server, context.config.delete_grace).await?;
    let (gone, (copies, copies_count), made) = tokio::try_join!(
        catalog.left_just_now(server),
        catalog.sealed_copies(server, most),
        catalog.made_moves(server),
    )?;
    let mut report = Report {
        tenants_left: tenants.len(),
        bytes_left: tenants.iter().filter_map(|row| row.bytes).sum(),
        pending: 0,
        moving: Listed::default(),
        busy: Listed::default(),
        set_aside: Listed::default(),
        not_movable: Listed::default(),
        sealed_copies: Listed { count: usize::try_from(copies_count).unwrap_or(0), listed: copies },
        rate: estimate::rate(&made),
        eta_s: None,
    };
    let mut to_move = (0, 0_u64);
    for row in &tenants {
        let id = &row.tenant.id;
        let standing = judge(row);
        if matches!(standing, Standing::Ready | Standing::Soon | Standing::Moving(_)) {
            to_move = (to_move.0 + 1, to_move.1.saturating_add(row.bytes.unwrap_or(0)));
        }
        match standing {
            Standing::Ready | Standing::Soon => report.pending += 1,
            Standing::Moving(operation) => report.moving.add(moving(id, operation, row.bytes)),
            Standing::Busy(UnderWay { id: operation, kind, step, .. }) => {
                let (kind, step) = (kind.as_str(), step.clone());
                report.busy.add(Busy { operation: *operation, tenant: id.clone(), kind, step });
            }
            Standing::Aside(reason) => report.set_aside.add(kept(id, reason)),
            Standing::Stuck(reason) => report.not_movable.add(kept(id, reason)),
        }
    }
    // Served elsewhere already: their two sides are compared.
    for (id, operation) in &gone {
        report.moving.add(moving(id, operation, None));
    }
    report.eta_s = estimate::eta_s(&made, to_move, context.config.moves_per_server_max);
    Ok(report)
}
