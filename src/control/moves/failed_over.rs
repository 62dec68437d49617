//! Moves of which one server is served by its promoted standby from now on.
//!
//! Before the decision such a move is undone: a slot that the source had is not at its standby, or not as far, and what the
//! target's standby has of the copy may be behind what its slot has passed. After it, the tenant stays where it is, and the way
//! back is closed for the same reasons. What becomes of a move is on its record, for whoever drives it and for `move show`.

use std::time::Instant;

use catalog::{Kind, Operation};
use serde_json::{Value, json};
use shard_map::moves::Phase;
use shard_map::{Server, ServerName};

use super::driver::servers_of;
use super::seal;
use super::wal_watch::{undone_because, why_undone};
use super::window::{Closing, Window};
use crate::context::{Context, Work};
use crate::error::{Error, Result};
use crate::server::{database, registry};

/// Which part the server has in a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Source,
    Target,
}

impl Side {
    fn of(operation: &Operation, server: &ServerName) -> Option<Self> {
        let [from, to] = servers_of(operation);
        match (from.as_ref() == Some(server), to.as_ref() == Some(server)) {
            (true, _) => Some(Self::Source),
            (_, true) => Some(Self::Target),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

/// Puts on record what becomes of each move that the server has a part in.
pub(crate) async fn settle(context: &Context, server: &ServerName, term: i64) -> Result<()> {
    for operation in context.catalog.open_operations().await? {
        let Some(mut record) = becomes(&operation, server) else { continue };
        if let Some(closing) = record.pointer_mut("/window/at") {
            *closing = json!(context.catalog.timestamp(None).await?);
        }
        tracing::warn!(operation = operation.id, %server, "a move's server failed over");
        match context.catalog.merge_data(operation.id, &record, term).await {
            Ok(()) | Err(catalog::Error::Ended(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What is put on a move's record; none when it has nothing to do with the server, or made nothing there yet.
fn becomes(operation: &Operation, server: &ServerName) -> Option<Value> {
    if operation.kind != Kind::Move {
        return None;
    }
    let (side, phase) = (Side::of(operation, server)?, operation.step.parse::<Phase>().ok()?);
    let what = format!("server {server}, its {}, failed over to its standby in step {phase}", side.as_str());
    let told = |why: &str| format!("{what}: {why}");
    let mut record = match (phase, side) {
        _ if phase.can_abort() => {
            let why = match side {
                Side::Source => "the standby does not have the move's slot",
                Side::Target => "what it has of the copy may lack changes that the move's slot has passed",
            };
            let why = told(why);
            // What had it undone before stays the reason.
            let mut record = json!({ "failed_over": why });
            if why_undone(operation).is_none() {
                record["undo_because"] = undone_because(&why)["undo_because"].clone();
            }
            return Some(record);
        }
        (Phase::Undo, _) => return Some(json!({ "failed_over": told("it is being undone") })),
        (Phase::Release | Phase::Verify | Phase::Switched | Phase::Complete, Side::Source) => {
            json!({ "failed_over": told("what the standby has of the sealed copy may lack changes") })
        }
        (Phase::Release | Phase::Verify | Phase::Switched | Phase::Complete, Side::Target) => {
            json!({ "failed_over": told("the standby does not have the slot of the way back") })
        }
        _ => return None,
    };
    if !matches!(Window::of(&operation.data), Some(Window::Closed { .. })) {
        let why = record["failed_over"].as_str().unwrap_or_default();
        record["window"] = json!(Window::Closed { closing: Closing::because(why), removed: false });
    }
    Some(record)
}

/// Seals, at the promoted server, what the old one had sealed for tenants that live elsewhere by now: the standby may not have
/// got that.
pub(crate) async fn seal_again(work: &Work, promoted: &Server) -> Result<()> {
    let mut at_promoted = None;
    for operation in work.context.catalog.open_operations().await? {
        let [from, to] = servers_of(&operation);
        let (Some(to), Some(id)) = (to, &operation.tenant) else { continue };
        if operation.kind != Kind::Move || from.as_ref() != Some(&promoted.name) {
            continue;
        }
        let tenant = match work.context.catalog.tenant(id).await {
            Ok(row) if row.tenant.server == to => row.tenant,
            Ok(_) | Err(catalog::Error::NotFound(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        if at_promoted.is_none() {
            at_promoted = Some(work.context.connector.registry(promoted).await?);
        }
        let Some(registry) = &at_promoted else { continue };
        let record = registry::read(registry, id).await?;
        if !record.is_some_and(|record| record.state == "open" && record.epoch < tenant.epoch) {
            continue;
        }
        let address = work.context.server(&to).await?.address();
        tracing::warn!(operation = operation.id, tenant = %id, "sealed again: the promoted standby has not got its seal");
        let change = registry::Change {
            tenant: id,
            from: &[Some("open")],
            to: "sealed",
            database: &id.sealed_database(),
            epoch: tenant.epoch,
            moved_to: Some((to.as_str(), &address)),
        };
        let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
        match seal::record_and_rename(work, registry, &change, id.live_database(), deadline).await {
            Err(error @ Error::Failed(_)) => {
                // Another try finds it as it is by now.
                return Err(Error::Timeout(error.to_string()));
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(step: &str, data: &Value) -> Operation {
        let fields = json!({
            "id": 1, "kind": "move", "tenant": "acme", "state": "running", "step": step,
            "input": { "from": "pg-1", "to": "pg-2" }, "data": data,
            "error": null, "abort_requested": false, "created_at": "", "updated_at": "",
        });
        serde_json::from_value(fields).unwrap()
    }

    fn becomes(step: &str, data: &Value, server: &str) -> Option<Value> {
        super::becomes(&operation(step, data), &server.parse().unwrap())
    }

    #[test]
    fn before_the_decision_a_move_is_undone_and_after_it_its_way_back_is_closed() {
        for phase in Phase::ALL {
            for server in ["pg-1", "pg-2"] {
                let record = becomes(phase.as_str(), &json!({}), server).unwrap_or_default();
                assert_eq!(record.get("undo_because").is_some(), phase.can_abort(), "{phase}");
                let decided =
                    matches!(phase, Phase::Release | Phase::Verify | Phase::Switched | Phase::Complete);
                let closed = matches!(Window::of(&record), Some(Window::Closed { removed: false, .. }));
                assert_eq!(closed, decided, "{phase}");
                let told = record["failed_over"].as_str();
                assert!(told.is_none_or(|told| told.contains(server) && told.contains(phase.as_str())));
            }
        }
    }

    #[test]
    fn a_move_that_made_nothing_there_goes_on() {
        assert_eq!(becomes("copy", &json!({}), "pg-3"), None);
        assert_eq!(becomes("begin", &json!({}), "pg-1"), None);
    }

    #[test]
    fn what_closed_a_window_or_undid_a_move_before_stays_the_reason() {
        let closing = Closing::because("a change of its schema");
        let closed = json!({ "window": Window::Closed { closing, removed: true } });
        assert_eq!(becomes("switched", &closed, "pg-1").unwrap().get("window"), None);
        let undone = undone_because("too much log");
        assert_eq!(becomes("copy", &undone, "pg-1").unwrap().get("undo_because"), None);
    }
}
