//! Watches the log that servers keep for moves that are not decided yet: a source whose disk fills up is worse than any move
//! that is not made. Beyond its bound a move is undone, with the reason on record; who drives it sees that, and if nobody
//! does, the slot goes at the next look. Paused moves are no exception, nor are those that wait for something.
//!
//! It does not look at windows of switched moves (`window_watch` does), and without a leader nobody looks at all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::{Kind, Operation};
use futures_util::future::join_all;
use serde_json::{Value, json};
use shard_map::moves::Phase;
use shard_map::{Server, ServerName};
use tokio_util::sync::CancellationToken;

use super::driver::servers_of;
use super::names::Names;
use super::undo;
use crate::config::ControlConfig;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::names::{OF_STREAMS, REVERSE};

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long one server may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A cutover is over within seconds, decided or taken back; one that is not is stuck at a server that is gone.
const CUTOVER_LEFT_ALONE: Duration = Duration::from_secs(60);
/// Settings of log are in megabytes.
const MEGABYTE: i64 = 1 << 20;

/// A slot as its server tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    /// Bytes of log that are kept for it.
    retained: i64,
    /// Whether log that it needs is gone, or goes at the next checkpoint (`wal_status` unreserved, lost).
    losing: bool,
    /// The server's `max_slot_wal_keep_size`, in bytes; negative: none.
    keep: i64,
}

/// The most that may be kept for a slot, and which setting says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) bytes: u64,
    pub(super) setting: &'static str,
}

impl Bound {
    /// `returns`: the slot is one of a stream back. `keep`: the server's `max_slot_wal_keep_size` in bytes, negative without.
    pub(super) fn of(config: &ControlConfig, returns: bool, keep: i64) -> Self {
        let own = Self { bytes: config.move_wal_bytes_max, setting: "move_wal_bytes_max" };
        let back = Self { bytes: config.reverse_wal_bytes_max, setting: "reverse_wal_bytes_max" };
        let kept = u64::try_from(keep)
            .ok()
            .map(|keep| Self { bytes: keep / 2, setting: "half of the server's max_slot_wal_keep_size" });
        let bounds = [Some(own), returns.then_some(back), kept];
        bounds.into_iter().flatten().min_by_key(|bound| bound.bytes).unwrap_or(own)
    }
}

/// What was seen of one slot of a move.
#[derive(Debug)]
struct Kept<'a> {
    server: &'a ServerName,
    slot: &'a Slot,
    bound: Bound,
}

impl Kept<'_> {
    fn bytes(&self) -> u64 {
        u64::try_from(self.slot.retained).unwrap_or(0)
    }

    /// Why the move can't go on, if so.
    fn too_much(&self) -> Option<String> {
        let (server, Bound { bytes, setting }) = (self.server, self.bound);
        if self.slot.losing {
            return Some(format!(
                "server {server} gives up log that the move still needs (max_slot_wal_keep_size)"
            ));
        }
        let retained = self.bytes();
        (retained > bytes).then(|| {
            format!(
                "server {server} kept {retained} bytes of log for the move, more than {setting} ({bytes})"
            )
        })
    }

    /// What an operator should know before that.
    fn warning(&self) -> Option<String> {
        let (server, retained, Bound { bytes, setting }) = (self.server, self.bytes(), self.bound);
        (retained > bytes / 2).then(|| {
            format!(
                "server {server} keeps {retained} bytes of log for the move: it is undone beyond {setting} ({bytes})"
            )
        })
    }
}

/// Watches, for as long as this instance leads, until `stop`.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    let mut cutovers = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        let Some(term) = *context.term.borrow() else {
            context.metrics.wal_retained.reset();
            continue;
        };
        tokio::select! {
            () = stop.cancelled() => return,
            outcome = pass(&context, term, &mut cutovers) => if let Err(error) = outcome {
                tracing::warn!(%error, "the log that is kept for moves could not be looked at");
            }
        }
    }
}

/// Moves under way that are not decided.
fn watched(open: &[Operation]) -> impl Iterator<Item = (&Operation, Phase)> {
    let moves = open.iter().filter(|operation| operation.kind == Kind::Move && operation.state == "running");
    moves.filter_map(|operation| {
        let phase: Phase = operation.step.parse().ok()?;
        phase.can_abort().then_some((operation, phase))
    })
}

/// The slots of a move: on its source and on its target.
fn slots_of(operation: &Operation) -> [(Option<ServerName>, String); 2] {
    let reverse_of = operation.input.get("reverse_of").and_then(Value::as_i64);
    let names = Names::of(operation.id, reverse_of);
    let [from, to] = servers_of(operation);
    [(from, names.forward), (to, names.reverse)]
}

/// The slots that are looked after here, and by nobody else.
pub(super) fn looked_after(open: &[Operation]) -> HashSet<String> {
    watched(open).flat_map(|(operation, _)| slots_of(operation)).map(|(_, slot)| slot).collect()
}

async fn pass(context: &Context, term: i64, cutovers: &mut HashMap<i64, Instant>) -> Result<()> {
    let open = context.catalog.open_operations().await?;
    let moves: Vec<(&Operation, Phase)> = watched(&open).collect();
    cutovers.retain(|id, _| moves.iter().any(|(o, phase)| o.id == *id && *phase == Phase::Cutover));
    let names: HashSet<ServerName> = moves.iter().flat_map(|(o, _)| servers_of(o)).flatten().collect();
    if names.is_empty() {
        context.metrics.wal_retained.reset();
        return Ok(());
    }
    let servers: Vec<Server> = context.catalog.servers().await?.into_iter().map(|row| row.server).collect();
    let here = servers.iter().filter(|server| names.contains(&server.name));
    let looks = here.map(async |server| Some((&server.name, look(context, server).await?)));
    let seen: BTreeMap<&ServerName, HashMap<String, Slot>> =
        join_all(looks).await.into_iter().flatten().collect();
    context.metrics.wal_retained.reset();
    for (operation, phase) in moves {
        let slots = slots_of(operation);
        let kept: Vec<(Kept<'_>, &str)> = slots
            .iter()
            .filter_map(|(server, name)| {
                let (server, slots) = seen.get_key_value(server.as_ref()?)?;
                let slot = slots.get(name)?;
                let bound = Bound::of(&context.config, name.starts_with(REVERSE), slot.keep);
                Some((Kept { server, slot, bound }, name.as_str()))
            })
            .collect();
        tell(context, term, operation, &kept).await?;
        let Some((why, server, slot)) =
            kept.iter().find_map(|(kept, name)| Some((kept.too_much()?, kept.server, *name)))
        else {
            continue;
        };
        let since = cutovers.entry(operation.id).or_insert_with(Instant::now);
        if phase == Phase::Cutover && since.elapsed() < CUTOVER_LEFT_ALONE {
            continue;
        }
        let Some(server) = servers.iter().find(|s| s.name == *server) else { continue };
        if let Err(error) = end(context, term, operation, (server, slot, why)).await {
            tracing::warn!(operation = operation.id, %error, "a move that keeps too much log could not be undone");
        }
    }
    Ok(())
}

/// The slots of moves on a server; none when it does not answer.
async fn look(context: &Context, server: &Server) -> Option<HashMap<String, Slot>> {
    let sql = format!(
        "SELECT slot_name::text, coalesce(pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn), 0)::bigint,
            coalesce(wal_status IN ('unreserved', 'lost'), false),
            (SELECT setting::bigint FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size')
        FROM pg_catalog.pg_replication_slots WHERE slot_name ~ '{OF_STREAMS}'"
    );
    let looked = async {
        let registry = context.connector.warm_registry(server).await?;
        let rows = registry.rows(&sql, &[]).await?;
        context.connector.keep_warm(server, registry);
        Ok::<_, Error>(rows)
    };
    let late = |_| Err(Error::Timeout(format!("server {} did not answer in time", server.name)));
    match tokio::time::timeout(TIMEOUT, looked).await.unwrap_or_else(late) {
        Ok(rows) => {
            let slot = |row: &tokio_postgres::Row| {
                let keep: i64 = row.get(3);
                let keep = if keep < 0 { -1 } else { keep.saturating_mul(MEGABYTE) };
                (row.get(0), Slot { retained: row.get(1), losing: row.get(2), keep })
            };
            Some(rows.iter().map(slot).collect())
        }
        Err(error) => {
            tracing::debug!(server = %server.name, %error, "its slots could not be looked at");
            None
        }
    }
}

/// Puts on record what is kept, for `move show`, and counts it.
async fn tell(context: &Context, term: i64, operation: &Operation, kept: &[(Kept<'_>, &str)]) -> Result<()> {
    for (kept, _) in kept {
        let gauge = context.metrics.wal_retained.with_label_values(&[kept.server.as_str()]);
        gauge.set(gauge.get().max(kept.slot.retained));
    }
    let told: Vec<Value> = kept
        .iter()
        .map(|(kept, _)| json!({ "server": kept.server, "bytes": kept.bytes(), "bytes_max": kept.bound.bytes }))
        .collect();
    let warnings: Vec<String> = kept.iter().filter_map(|(kept, _)| kept.warning()).collect();
    let warning = (!warnings.is_empty()).then(|| warnings.join("; "));
    let found = json!({ "wal_retained": told, "warning": warning });
    match context.catalog.merge_data(operation.id, &found, term).await {
        // It has just ended.
        Err(catalog::Error::Ended(_)) => Ok(()),
        outcome => Ok(outcome?),
    }
}

/// Has the move undone; if that was asked for at an earlier look and has not begun, drops the slot.
async fn end(
    context: &Context,
    term: i64,
    operation: &Operation,
    (server, slot, why): (&Server, &str, String),
) -> Result<()> {
    if why_undone(operation).is_none() {
        tracing::warn!(operation = operation.id, why, "a move is undone");
        return match context.catalog.merge_data(operation.id, &undone_because(&why), term).await {
            Err(catalog::Error::Ended(_)) => Ok(()),
            outcome => Ok(outcome?),
        };
    }
    tracing::warn!(operation = operation.id, slot, why, "the slot of a move that nobody undoes is dropped");
    let dropped = async {
        let registry = context.connector.warm_registry(server).await?;
        undo::drop_slot(&registry, slot).await?;
        context.connector.keep_warm(server, registry);
        Ok::<_, Error>(())
    };
    let late = |_| Err(Error::Timeout(format!("server {} did not answer in time", server.name)));
    tokio::time::timeout(TIMEOUT, dropped).await.unwrap_or_else(late)
}

/// Why a move has to be undone, if it was found so.
pub(super) fn why_undone(operation: &Operation) -> Option<&str> {
    operation.data.get("undo_because")?.as_str()
}

/// The record that has it undone.
pub(super) fn undone_because(why: &str) -> Value {
    json!({ "undo_because": why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> ControlConfig {
        ControlConfig { move_wal_bytes_max: 1000, reverse_wal_bytes_max: 400, ..ControlConfig::default() }
    }

    fn slot(retained: i64, keep: i64) -> Slot {
        Slot { retained, losing: false, keep }
    }

    #[test]
    fn the_smallest_bound_counts() {
        let bound = |returns, keep| Bound::of(&config(), returns, keep).bytes;
        assert_eq!((bound(false, -1), bound(true, -1)), (1000, 400));
        assert_eq!((bound(false, 1200), bound(true, 1200)), (600, 400));
        assert_eq!(bound(false, 0), 0, "a server that keeps nothing");
    }

    #[test]
    fn half_is_warned_of_and_more_is_too_much() {
        let server = ServerName::new("pg-1").unwrap();
        let kept = |slot: &Slot| {
            let kept = Kept { server: &server, slot, bound: Bound::of(&config(), false, slot.keep) };
            (kept.warning().is_some(), kept.too_much())
        };
        assert_eq!(kept(&slot(500, -1)), (false, None));
        assert_eq!(kept(&slot(501, -1)), (true, None));
        assert_eq!(kept(&slot(1000, -1)), (true, None));
        assert!(kept(&slot(1001, -1)).1.unwrap().contains("move_wal_bytes_max (1000)"));
        assert!(kept(&slot(601, 1200)).1.unwrap().contains("max_slot_wal_keep_size (600)"));
        assert!(kept(&Slot { losing: true, ..slot(0, 1200) }).1.is_some());
    }

    #[test]
    fn moves_are_looked_after_until_they_are_decided() {
        let operation = |id, step: &str, input: Value| -> Operation {
            let fields = json!({
                "id": id, "kind": "move", "tenant": "acme", "state": "running", "step": step, "input": input, "data": {},
                "error": null, "abort_requested": false, "created_at": "", "updated_at": "",
            });
            serde_json::from_value(fields).unwrap()
        };
        let input = || json!({ "from": "pg-1", "to": "pg-2" });
        let slots = looked_after(&[operation(1, "copy", input()), operation(2, "release", input())]);
        assert_eq!(slots, HashSet::from(["tenantry_move_1".to_owned(), "tenantry_reverse_1".to_owned()]));
        let turn = json!({ "from": "pg-2", "to": "pg-1", "reverse_of": 1 });
        let slots = looked_after(&[operation(3, "catch_up", turn)]);
        assert_eq!(slots, HashSet::from(["tenantry_reverse_1".to_owned(), "tenantry_reverse_3".to_owned()]));
    }
}
