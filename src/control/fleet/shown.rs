//! A migration run as it is shown to operators, by the API and to who watches.

use catalog::{Operation, RunProgress, Target, TargetState};
use serde_json::{Value, json};

/// What stands on record of a run, with these of its tenants by name.
pub(crate) fn shown(operation: &Operation, progress: &RunProgress, troubles: &[Target]) -> Value {
    let of = |state, key: &str| {
        let there = troubles.iter().filter(|target| target.state == state);
        there.map(|t| json!({ "tenant": t.tenant, key: t.error })).collect::<Vec<_>>()
    };
    let running = operation.state == "running";
    let rate = progress.rate.filter(|rate| running && *rate > 0.0);
    json!({
        "id": operation.id, "state": operation.state, "step": operation.step,
        "version": operation.data.get("version"), "trial": operation.data.get("trial"), "wave": progress.wave, "last_wave": progress.last_wave,
        "total": progress.total, "done": progress.done, "failed": progress.failed, "pending": progress.pending,
        "gone": progress.gone, "error": operation.error,
        "rate": rate.map(|rate| (rate * 10.0).round() / 10.0),
        "eta_s": rate.map(|rate| (progress.pending as f64 / rate).ceil()),
        "servers": if running { servers(&operation.data) } else { json!({}) },
        "failures": of(TargetState::Failed, "error"), "waiting": of(TargetState::Pending, "reason"),
        "created_at": operation.created_at, "updated_at": operation.updated_at,
    })
}

/// How fast the run goes at each server, and why not faster.
fn servers(data: &Value) -> Value {
    let lanes = data.as_object().into_iter().flatten();
    let lanes = lanes.filter_map(|(key, lane)| Some((key.strip_prefix("lane:")?.to_owned(), lane.clone())));
    Value::Object(lanes.collect())
}
