//! A move as it is shown to operators, by the API and to who watches.

use catalog::{Operation, Step};
use serde_json::{Value, json};
use shard_map::moves::Phase;

use super::Window;
use crate::context::trying;

/// What stands on record of a move.
pub(crate) fn shown(operation: &Operation, steps: &[Step]) -> Value {
    let data = |key: &str| operation.data.get(key).cloned().unwrap_or(Value::Null);
    let counted = |key: &str| operation.data.get(key).cloned().unwrap_or_else(|| json!(0));
    let (reversible_until, window_closed) = match Window::of(&operation.data) {
        Some(Window::Open { .. }) if operation.state == "switched" => (data("reversible_until"), Value::Null),
        Some(Window::Closed { closing, .. }) => (Value::Null, json!(closing)),
        _ => (Value::Null, Value::Null),
    };
    let undecided = operation.state == "running" && operation.step.parse().is_ok_and(Phase::can_abort);
    let before_decision = |key: &str| if undecided { data(key) } else { Value::Null };
    let error = operation.data.get("failure").cloned().or_else(|| operation.error.clone().map(Value::from));
    let mut shown = json!({
        "id": operation.id, "tenant": operation.tenant, "from": operation.input["from"], "to": operation.input["to"],
        "reverse_of": operation.input.get("reverse_of"), "reversible_until": reversible_until, "window_closed": window_closed,
        "state": operation.state, "step": operation.step, "paused": data("paused"), "rows_copied": counted("rows_copied"),
        "rows_total": data("rows_total"), "bytes_copied": counted("bytes_copied"), "bytes_total": data("bytes_total"),
        "bytes_per_second": data("bytes_per_second"),
        "bytes_per_second_max": data("bytes_per_second_max"), "slowed_by": data("slowed_by"), "lag_bytes": data("lag_bytes"),
        "wal_retained": before_decision("wal_retained"), "warning": before_decision("warning"),
        "waiting_for": if operation.state == "running" { data("waiting_for") } else { Value::Null }, "waited_ms": counted("waited_ms"), "taken_back": counted("taken_back"), "last_cutover": data("last_cutover"),
        "last_cutover_ms": data("last_cutover_ms"), "last_cutover_parts_ms": data("last_cutover_parts_ms"),
        "hold_ms": data("hold_ms"), "hold_parts_ms": data("hold_parts_ms"), "verified": data("verified"),
        "rows_checked": data("rows_checked"), "tables_checked": data("tables_checked"),
        "differences": data("differences"), "not_compared": data("not_compared"), "error": error, "abort_requested": operation.abort_requested,
        "steps": steps, "created_at": operation.created_at, "updated_at": operation.updated_at,
    });
    // One expression has no place for more.
    for (key, value) in [
        ("verify", operation.input["verify"].clone()),
        ("asked_by", operation.input.get("asked_by").cloned().unwrap_or_default()),
        ("compared", compared(operation)),
        ("not_carried", data("not_carried")),
        ("failed_over", data("failed_over")),
        ("tables_copied", counted("tables_copied")),
        ("tables_total", data("tables_total")),
        ("trying", trying(operation)),
    ] {
        shown[key] = value;
    }
    shown
}

/// How far both sides are compared before the cutover, in figures.
fn compared(operation: &Operation) -> Value {
    let mut compared = operation.data.get("compared").cloned().unwrap_or_default();
    if let Some(compared) = compared.as_object_mut() {
        compared.remove("done");
    }
    compared
}
