//! Emptying servers: moves every tenant off a server that drains, a few at a time, to where the placement policy puts it.
//!
//! That a server drains, which the catalog says, is the whole of the intent; what was done about it is there, too: moves, and who
//! was set aside because his move could not even start. So every look starts from what is there, a leader's successor goes on
//! where it died, every instance tells the same, and taking the drain back stops it at once: the transaction that puts a move
//! on record looks whether the server still drains. Moves under way end as all moves do.
//!
//! A tenant that can't be moved is set aside, and the others go on. It does not promise an end: what keeps a tenant may be
//! for an operator to change.

mod estimate;
mod report;
mod standing;
mod upgrade;

use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{Leaving, ServerRow};
use serde_json::json;
use shard_map::placement::Wish;
use shard_map::{Server, ServerName, ServerState};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::moves::{Input, Verify, start};
use crate::provision;
pub(crate) use report::report;
use standing::{Standing, judge};
pub(crate) use upgrade::{UpgradePlan, plan as plan_upgrade};

/// How often it is looked when nobody nudges: moves that end do.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long a new leader waits: it has to take up what others left first.
const FIRST_AFTER: Duration = Duration::from_secs(2);
/// How long it may take to find a tenant's new server, and to look whether it can be moved there.
const CHECK_TIMEOUT: Duration = Duration::from_secs(30);
/// Tenants that are looked at for each server before it is the next one's turn.
const TRIES_PER_PASS_MAX: usize = 20;
/// Longest time for which a tenant's new transactions are held, as for a move that an operator starts.
const MAX_HOLD: Duration = Duration::from_secs(2);
/// How long a cutover is put off for what is in its way. Then the tenant is set aside: its turn is another's.
const MAX_WAIT: Duration = Duration::from_mins(10);

/// Empties servers, for as long as this instance leads, until `stop`. What it is about to start is dropped with the term.
pub(crate) async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let mut terms = context.term.subscribe();
    let mut wait = FIRST_AFTER;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = context.drain_nudge.notified(), if wait == INTERVAL => {}
        }
        let Some(term) = *terms.borrow_and_update() else {
            context.metrics.draining.reset();
            wait = FIRST_AFTER;
            continue;
        };
        wait = INTERVAL;
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = terms.changed() => {}
            outcome = pass(&context, term) => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, "servers that drain could not be looked at");
                }
            }
        }
    }
}

async fn pass(context: &Context, term: i64) -> Result<()> {
    let mut servers: Vec<ServerRow> = context.catalog.servers().await?;
    servers.retain(|row| row.server.state == ServerState::Draining);
    context.metrics.draining.reset();
    for row in servers {
        match empty(context, &row.server, term).await {
            Err(error) if error.must_stop() || error.is_unreachable() => return Err(error),
            Err(error) => {
                tracing::warn!(server = %row.server.name, %error, "it could not be emptied further");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

/// Starts as many moves off one server as there is room for.
async fn empty(context: &Context, server: &Server, term: i64) -> Result<()> {
    let name = &server.name;
    let tenants = context.catalog.leaving(name, context.config.delete_grace).await?;
    for row in &tenants {
        let word = judge(row).as_str();
        context.metrics.draining.with_label_values(&[name.as_str(), word]).inc();
    }
    let under_way = context.catalog.copies_at(name).await?;
    let mut room = context.config.moves_per_server_max.saturating_sub(under_way);
    let is_ready = |row: &&Leaving| matches!(judge(row), Standing::Ready);
    let mut ready = tenants.iter().filter(is_ready).take(TRIES_PER_PASS_MAX).peekable();
    let Some(first) = ready.peek().filter(|_| room > 0) else { return Ok(()) };
    let away = provision::ask_servers(context, &first.tenant.id).await?;
    if away.contains(name) {
        tracing::warn!(server = %name, "it does not answer: none of its tenants can be moved away now");
        return Ok(());
    }
    for row in ready {
        if room == 0 {
            return Ok(());
        }
        match begin(context, row, (server, &away), term).await? {
            Begun::Started => room -= 1,
            Begun::NotNow => {}
            Begun::Enough => return Ok(()),
        }
    }
    // There is room, and perhaps there are more.
    context.drain_nudge.notify_one();
    Ok(())
}

enum Begun {
    /// A move is on record.
    Started,
    /// It is set aside, or somebody else was faster.
    NotNow,
    /// The server drains no more, or is in trouble.
    Enough,
}

/// Finds a tenant's new server, and starts its move there.
async fn begin(
    context: &Context,
    row: &Leaving,
    (server, away): (&Server, &[ServerName]),
    term: i64,
) -> Result<Begun> {
    let (id, from) = (&row.tenant.id, &server.name);
    let begun = Instant::now();
    let checking = tokio::time::timeout(CHECK_TIMEOUT, check(context, row, server, away));
    let checked = checking.await.unwrap_or_else(|_| {
        Err(Error::Timeout(format!("no answer of its servers within check_timeout ({CHECK_TIMEOUT:?})")))
    });
    let to = match checked {
        Ok(to) => to,
        Err(error) if error.must_stop() || error.is_unreachable() => return Err(error),
        Err(error) => {
            tracing::warn!(server = %from, tenant = %id, %error, "set aside: it can't be moved away now");
            let (remedy, may_pass) = remedy(&error, row, server, away);
            let why = error.to_string();
            context.catalog.set_aside((id, from), (&why, &remedy, may_pass), (begun.elapsed(), term)).await?;
            // Whatever was slow or away would be so for the next one, too: at the next look.
            return Ok(if error.is_transient() { Begun::Enough } else { Begun::NotNow });
        }
    };
    let input = Input {
        from: from.clone(),
        to: to.clone(),
        max_hold_ms: u64::try_from(MAX_HOLD.as_millis()).unwrap_or(u64::MAX),
        verify: Verify::default(),
        keep_sealed_s: context.config.reverse_window.as_secs(),
        accepted: Vec::new(),
        asked_by: Some(format!("drain of server {from}")),
        reverse_of: None,
        kill_stragglers: false,
        wait_sessions: false,
        max_wait_ms: u64::try_from(MAX_WAIT.as_millis()).ok(),
    };
    match context.catalog.start_drain_move(id, (from, &to), &json!(input), term).await {
        Ok(Some(operation)) => {
            tracing::info!(operation, server = %from, tenant = %id, %to, "moved away, as its server drains");
            context.nudge.notify_one();
            Ok(Begun::Started)
        }
        Ok(None) => Ok(Begun::Enough),
        // An operation on it has begun meanwhile. It is looked at again.
        Err(catalog::Error::Conflict(_) | catalog::Error::NotFound(_)) => Ok(Begun::NotNow),
        Err(error) => Err(error.into()),
    }
}

/// Where a tenant goes to, if nothing stands in the way of its move there.
async fn check(context: &Context, row: &Leaving, server: &Server, away: &[ServerName]) -> Result<ServerName> {
    let tenant = &row.tenant;
    let wish = Wish {
        server: None,
        class: Some(server.class),
        labels: tenant.labels.clone(),
        quota: tenant.quota.as_deref().copied().unwrap_or_default(),
        bytes: row.bytes.unwrap_or(0),
        away: away.to_vec(),
    };
    let to = context.catalog.place_anew(&wish, &context.policy().await?).await?.server;
    start::check(context, &tenant.id, &to, false).await?.may_start()?;
    Ok(to)
}

/// What to do about one that is set aside, and whether the reason may pass by itself.
fn remedy(error: &Error, row: &Leaving, server: &Server, away: &[ServerName]) -> (String, bool) {
    match error {
        Error::Refused { hint, .. } => (hint.clone().unwrap_or_default(), false),
        // No server fits; perhaps one that does not answer would.
        Error::Catalog(catalog::Error::Conflict(_)) => {
            let class = server.class.as_str();
            let remedy = format!(
                "make room on a {class} server or add one; or choose one by name: tenantry move start {} --to SERVER",
                row.tenant.id
            );
            (remedy, !away.is_empty())
        }
        error => ("see the control plane's log".to_owned(), error.is_transient()),
    }
}
