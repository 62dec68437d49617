//! How runs and plans are shown to people.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde_json::Value;

use crate::cli::output::{self, Format};
use crate::cli::wait::{number, text};

/// Characters of the progress bar.
const BAR: u64 = 24;

/// Where a run stands, in one line; with a bar on a terminal.
pub(super) fn progress(run: &Value) -> String {
    line(run, std::io::stderr().is_terminal())
}

fn line(run: &Value, bar: bool) -> String {
    let (total, failed) = (number(run, "total"), number(run, "failed"));
    let ended = number(run, "done") + number(run, "gone");
    let mut line = format!("migration {}: {ended} of {total} done, {failed} failed", text(run, "state"));
    if bar {
        let full = (ended + failed) * BAR / total.max(1);
        let (full, rest) = ("#".repeat(full as usize), ".".repeat((BAR - full.min(BAR)) as usize));
        line = format!("[{full}{rest}] {line}");
    }
    let figure = |key: &str| run.get(key).and_then(Value::as_f64);
    // Writing to a String can't fail.
    if let Some(wave) = figure("wave") {
        let _ = write!(line, ", wave {wave} of {}", figure("last_wave").unwrap_or(wave));
    }
    if let (Some(rate), Some(eta)) = (figure("rate"), figure("eta_s")) {
        let _ = write!(line, ", {rate:.1}/s, {eta:.0} s to go");
    }
    for (server, lane) in run.get("servers").and_then(Value::as_object).into_iter().flatten() {
        match (text(lane, "why"), number(lane, "slots")) {
            ("", _) => {}
            (why, 0) => drop(write!(line, "; {server} pauses: {why}")),
            (why, slots) => drop(write!(line, "; {server} has {slots} at once: {why}")),
        }
    }
    line
}

/// Prints a run, and each tenant that failed.
pub(super) fn print_run(format: Format, run: &Value) -> std::io::Result<()> {
    if format == Format::Json {
        return output::object(format, run);
    }
    let mut summary = run.clone();
    if let Some(summary) = summary.as_object_mut() {
        summary.remove("failures");
        summary.remove("waiting");
    }
    output::object(format, &summary)?;
    for (key, columns) in [
        ("failures", [("TENANT", "tenant"), ("ERROR", "error")]),
        ("waiting", [("TENANT", "tenant"), ("WAITS", "reason")]),
    ] {
        let list = run.get(key).filter(|list| list.as_array().is_some_and(|list| !list.is_empty()));
        if let Some(list) = list {
            output::line("")?;
            output::list(format, list, &columns)?;
        }
    }
    Ok(())
}

/// Prints a plan: each tenant, then what is true of all.
pub(super) fn print_plan(format: Format, plan: &Value) -> std::io::Result<()> {
    if format == Format::Json {
        return output::json(plan);
    }
    let tenants = plan.get("tenants").unwrap_or(&Value::Null);
    let columns = [
        ("TENANT", "tenant"),
        ("SERVER", "server"),
        ("WAVE", "wave"),
        ("SCHEMA", "schema_version"),
        ("PENDING", "pending"),
        ("DRIFT", "drift"),
        ("DIFFERS", "schema_differs"),
        ("INVALID INDEXES", "invalid_indexes"),
        ("WAITS", "conflict"),
    ];
    output::list(format, tenants, &columns)?;
    output::line("")?;
    let mut summary = plan.clone();
    if let Some(summary) = summary.as_object_mut() {
        summary.remove("tenants");
    }
    output::object(format, &summary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_run_under_way_is_one_line() {
        let run = json!({
            "state": "running", "total": 1000, "done": 490, "gone": 5, "failed": 5, "wave": 2, "last_wave": 3,
            "rate": 24.6, "eta_s": 21.0,
            "servers": { "pg-1": { "slots": 0, "why": "the server does not answer" }, "pg-2": { "slots": 2, "why": null } },
        });
        assert_eq!(
            line(&run, true),
            "[############............] migration running: 495 of 1000 done, 5 failed, wave 2 of 3, 24.6/s, 21 s to go; \
             pg-1 pauses: the server does not answer"
        );
        let ended = json!({ "state": "done", "total": 3, "done": 3, "gone": 0, "failed": 0, "wave": null });
        assert_eq!(line(&ended, false), "migration done: 3 of 3 done, 0 failed");
    }
}
