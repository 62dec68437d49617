//! Watches the windows of switched moves: each slot's retained log against its bound, and whether the sealed copy still
//! follows. A window whose target's schema changed, or whose slot keeps too much, is closed. Slots of moves that nobody sees
//! to any more are dropped.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{Catalog, Kind, Operation};
use serde_json::Value;
use shard_map::{Server, ServerName};
use tokio_util::sync::CancellationToken;

use super::driver::Move;
use super::window::{self, Closing, Window};
use super::{stream, undo, wal_watch, watchdog};
use crate::context::{Context, Work};
use crate::error::{Error, Result};
use crate::server::names::REVERSE;
use crate::server::{Connection, database, ident};

/// How often it looks.
pub(super) const INTERVAL: Duration = Duration::from_secs(2);
/// How often it looks into a database whose stream seems to be well, and at a server without any.
const THOROUGH_INTERVAL: Duration = Duration::from_secs(30);
/// How often a subscription that stopped is started again.
const ENABLE_INTERVAL: Duration = Duration::from_secs(10);
/// How long one window, or one server, may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The slots of a server; with a condition behind it.
pub(super) const SLOTS: &str = "
    SELECT slot_name::text, active, wal_status IS NOT DISTINCT FROM 'lost',
        coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint, database::text
    FROM pg_catalog.pg_replication_slots";

/// A slot that a sealed copy reads.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    name: String,
    active: bool,
    lost: bool,
    /// Bytes of log that the server keeps for it.
    retained: i64,
    database: Option<String>,
}

impl Slot {
    pub(super) fn of(row: &tokio_postgres::Row) -> Self {
        Self {
            name: row.get(0),
            active: row.get(1),
            lost: row.get(2),
            retained: row.get(3),
            database: row.get(4),
        }
    }

    /// Why it can't be kept, in words; none when it can.
    pub(super) fn too_much(&self, server: &ServerName, most: u64) -> Option<String> {
        if self.lost {
            return Some(format!(
                "server {server} removed log that the sealed copy still needed (max_slot_wal_keep_size)"
            ));
        }
        let retained = u64::try_from(self.retained).unwrap_or(0);
        (retained > most).then(|| {
            format!("its slot kept {retained} bytes of log on server {server}, more than reverse_wal_bytes_max ({most})")
        })
    }

    /// The move that it is of.
    fn number(&self) -> Option<i64> {
        self.name.strip_prefix(REVERSE)?.parse().ok()
    }
}

/// When something was last done for a move.
#[derive(Default)]
struct Done {
    servers: HashMap<ServerName, Instant>,
    looked: HashMap<i64, Instant>,
    enabled: HashMap<i64, Instant>,
    /// Slots that are not looked after here.
    others: HashSet<String>,
}

/// Whether so much time has passed since; if so, it is done now.
fn is_time<K: Hash + Eq>(done: &mut HashMap<K, Instant>, id: K, interval: Duration) -> bool {
    let due = done.get(&id).is_none_or(|at| at.elapsed() >= interval);
    if due {
        done.insert(id, Instant::now());
    }
    due
}

/// Watches, for as long as this instance leads, until `stop`.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    let mut done = Done::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Some(term) = *context.term.borrow() else { continue };
        tokio::select! {
            () = stop.cancelled() => return,
            outcome = pass(&context, term, &mut done) => if let Err(error) = outcome {
                tracing::debug!(%error, "the windows of moves could not be looked at");
            }
        }
    }
}

async fn pass(context: &Arc<Context>, term: i64, done: &mut Done) -> Result<()> {
    let open = context.catalog.open_operations().await?;
    done.others = wal_watch::looked_after(&open);
    let windows: Vec<Operation> = watched(&open).cloned().collect();
    let known: HashSet<i64> = windows.iter().map(|operation| operation.id).collect();
    done.looked.retain(|id, _| known.contains(id));
    done.enabled.retain(|id, _| known.contains(id));
    for row in context.catalog.servers().await? {
        let server = row.server;
        let here: Vec<&Operation> = windows
            .iter()
            .filter(|o| o.input.get("to").and_then(Value::as_str) == Some(server.name.as_str()))
            .collect();
        if here.is_empty() && !is_time(&mut done.servers, server.name.clone(), THOROUGH_INTERVAL) {
            continue;
        }
        let looked = look_at(context, term, (&server, &here), done);
        let late = |_| Err(Error::Timeout(format!("server {} did not answer in time", server.name)));
        if let Err(error) = tokio::time::timeout(TIMEOUT, looked).await.unwrap_or_else(late) {
            tracing::debug!(server = %server.name, %error, "its slots could not be looked at");
        }
    }
    Ok(())
}

/// Switched moves whose window is not known to be gone, and that nothing else is at work on.
fn watched(open: &[Operation]) -> impl Iterator<Item = &Operation> {
    let busy: HashSet<_> =
        open.iter().filter(|o| o.state == "running").filter_map(|o| o.tenant.as_ref()).collect();
    open.iter().filter(move |operation| {
        operation.kind == Kind::Move
            && (operation.state.as_str(), operation.step.as_str()) == ("switched", "switched")
            && operation.tenant.as_ref().is_some_and(|tenant| !busy.contains(tenant))
            && !matches!(Window::of(&operation.data), Some(Window::Closed { removed: true, .. }))
    })
}

async fn look_at(
    context: &Arc<Context>,
    term: i64,
    (server, windows): (&Server, &[&Operation]),
    done: &mut Done,
) -> Result<()> {
    let registry = context.connector.warm_registry(server).await?;
    let sql = format!("{SLOTS} WHERE slot_name LIKE 'tenantry\\_reverse\\_%'");
    let slots: HashMap<i64, Slot> = registry
        .rows(&sql, &[])
        .await?
        .iter()
        .map(Slot::of)
        .filter_map(|slot| Some((slot.number()?, slot)))
        .collect();
    // Before anything that may have to wait, and whatever its move is at: no way back is worth a full disk. What reads it finds
    // it gone, and the window is closed.
    for slot in slots.values().filter(|slot| !done.others.contains(&slot.name)) {
        if let Some(why) = slot.too_much(&server.name, context.config.reverse_wal_bytes_max) {
            tracing::warn!(slot = slot.name, why, "a slot is dropped");
            undo::drop_slot(&registry, &slot.name).await?;
        }
    }
    let unknown = slots
        .values()
        .filter(|slot| !slot.active && slot.number().is_some_and(|id| !windows.iter().any(|o| o.id == id)));
    for slot in unknown {
        drop_if_nobodys(context, (server, &registry), slot).await?;
    }
    for operation in windows {
        let work = Work { context: context.clone(), operation: (*operation).clone(), term };
        let seen = see(&work, (server, slots.get(&operation.id)), done);
        if let Err(error) = seen.await {
            tracing::warn!(operation = operation.id, %error, "its way back could not be seen to");
        }
    }
    context.connector.keep_warm(server, registry);
    Ok(())
}

/// Drops a slot whose move has ended, or is on no record. The record is read after the slot: a slot is made later than its
/// move's.
async fn drop_if_nobodys(
    context: &Context,
    (server, registry): (&Server, &Connection),
    slot: &Slot,
) -> Result<()> {
    let Some(id) = slot.number() else { return Ok(()) };
    match context.catalog.operation(id).await {
        Ok(operation) if matches!(operation.state.as_str(), "running" | "switched") => return Ok(()),
        Ok(_) | Err(catalog::Error::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    tracing::warn!(slot = slot.name, server = %server.name, "a slot of a move that has ended is dropped");
    undo::drop_slot(registry, &slot.name).await?;
    let Some(name) = &slot.database else { return Ok(()) };
    if database::is_valid(registry, name).await? {
        let connection = context.connector.database(server, name).await?;
        connection.run(&format!("DROP PUBLICATION IF EXISTS {}", ident(&slot.name))).await?;
    }
    match shard_map::recovery::tenant_of_database(name) {
        Some(tenant) => undo::drop_role(registry, &tenant, &slot.name).await,
        None => Ok(()),
    }
}

/// Sees to one window: closes it if it can't stay open, and lets the sealed copy follow again if it stopped.
async fn see(work: &Work, (server, slot): (&Server, Option<&Slot>), done: &mut Done) -> Result<()> {
    let id = work.operation.id;
    let closing = match Window::of(&work.operation.data) {
        Some(Window::Closed { closing, .. }) => Some(closing),
        // Taken up by a rebuild of the catalog, or made by a program that knew no way back.
        None => Some(Closing::because("there is no record of its way back")),
        Some(Window::Open { .. }) => match slot {
            None => Some(Closing::because(format!("its slot on server {} is gone", server.name))),
            Some(slot) => {
                let most = work.context.config.reverse_wal_bytes_max;
                slot.too_much(&server.name, most).map(Closing::because)
            }
        },
    };
    let is_well = closing.is_none() && slot.is_some_and(|slot| slot.active);
    if is_well && !is_time(&mut done.looked, id, THOROUGH_INTERVAL) {
        return Ok(());
    }
    let _turn = work.context.turns.take(id).await;
    let operation = work.context.catalog.operation(id).await?;
    // Somebody else had its turn meanwhile.
    let still = watched(std::slice::from_ref(&operation)).next().is_some();
    if !still || is_turning(&work.context.catalog, &operation).await? {
        return Ok(());
    }
    let the_move = Move::load(work, &operation).await?;
    if let Some(closing) = look_into(&the_move).await?.or(closing) {
        return window::close(&the_move, closing).await;
    }
    if !is_well && is_time(&mut done.enabled, id, ENABLE_INTERVAL) {
        let sealed = the_move.id.sealed_database();
        let sealed = work.context.connector.database(&the_move.source, &sealed).await?;
        stream::enable(&sealed, &the_move.names.reverse).await?;
    }
    Ok(())
}

/// What was seen in the target's database that ends the window.
async fn look_into(the_move: &Move<'_>) -> Result<Option<Closing>> {
    let connector = &the_move.work.context.connector;
    let target = connector.database(&the_move.target, the_move.id.live_database()).await?;
    Ok(Closing::of(&watchdog::look(&target, &the_move.names.reverse).await?))
}

/// Whether a move that turns this one round is at work: it has taken over what this one left.
pub(super) async fn is_turning(catalog: &Catalog, operation: &Operation) -> Result<bool> {
    let Some(by) = operation.data.get("turned_by").and_then(Value::as_i64) else { return Ok(false) };
    Ok(catalog.operation(by).await?.state == "running")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slot(retained: i64, lost: bool) -> Slot {
        Slot { name: "tenantry_reverse_7".into(), active: true, lost, retained, database: None }
    }

    #[test]
    fn a_slot_is_kept_up_to_its_bound() {
        let server = ServerName::new("pg-3").unwrap();
        assert_eq!(slot(100, false).too_much(&server, 100), None);
        assert!(slot(101, false).too_much(&server, 100).unwrap().contains("101 bytes"));
        assert!(slot(0, true).too_much(&server, 100).is_some(), "nobody can read on from it");
        assert_eq!(slot(0, false).number(), Some(7));
    }

    #[test]
    fn windows_of_tenants_that_change_are_left_alone() {
        let operation = |id, kind: &str, state: &str, data: Value| -> Operation {
            let fields = json!({
                "id": id, "kind": kind, "tenant": "acme", "state": state, "step": state, "input": {}, "data": data,
                "error": null, "abort_requested": false, "created_at": "", "updated_at": "",
            });
            serde_json::from_value(fields).unwrap()
        };
        let switched = || operation(1, "move", "switched", json!({}));
        assert_eq!(watched(&[switched()]).count(), 1);
        assert_eq!(watched(&[switched(), operation(2, "suspend", "running", json!({}))]).count(), 0);
        let removed = Window::Closed { closing: Closing::because("it was"), removed: true };
        assert_eq!(watched(&[operation(1, "move", "switched", json!({ "window": removed }))]).count(), 0);
    }
}
