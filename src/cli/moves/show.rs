//! A move in words: one line while it is waited for, and all of it.

use serde_json::Value;

use crate::cli::output::{self, Format};
use crate::cli::wait::{number, text};

/// Moves, a line each.
pub(super) fn list(format: Format, moves: &Value) -> anyhow::Result<()> {
    let columns = [
        ("ID", "id"),
        ("TENANT", "tenant"),
        ("FROM", "from"),
        ("TO", "to"),
        ("STATE", "state"),
        ("STEP", "step"),
        ("HOLD MS", "hold_ms"),
        ("VERIFIED", "verified"),
        ("ERROR", "error"),
    ];
    Ok(output::list(format, moves, &columns)?)
}

/// One line about where a move stands.
pub(super) fn progress(answer: &Value) -> String {
    let mut line = format!("{} to {}: {}", text(answer, "tenant"), text(answer, "to"), text(answer, "state"));
    if text(answer, "state") == "running" {
        line = format!("{} to {}: {}", text(answer, "tenant"), text(answer, "to"), text(answer, "step"));
        let (rows, total) = (number(answer, "rows_copied"), number(answer, "rows_total"));
        if rows > 0 {
            let of = if total > 0 { format!(" of {total}") } else { String::new() };
            line.push_str(&format!(", {rows}{of} rows, {}", size(number(answer, "bytes_copied"))));
        }
        if number(answer, "bytes_per_second") > 0 {
            line.push_str(&format!(", {}/s", size(number(answer, "bytes_per_second"))));
        }
        if let Some(lag) = answer.get("lag_bytes").and_then(Value::as_u64) {
            line.push_str(&format!(", lag {}", size(lag)));
        }
        if answer.get("paused").is_some_and(Value::is_object) {
            line.push_str(", paused");
        }
        if let Some(what) = answer.get("waiting_for").and_then(Value::as_str) {
            line.push_str(&format!(", waits for {what}"));
        }
    } else if let Some(hold) = answer.get("hold_ms").and_then(Value::as_f64) {
        line.push_str(&format!(", held new transactions for {hold} ms"));
    }
    line
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

pub(super) fn print(format: Format, answer: &Value) -> anyhow::Result<()> {
    let steps = answer.get("steps").filter(|steps| steps.as_array().is_some_and(|steps| !steps.is_empty()));
    let (Format::Table, Some(steps)) = (format, steps) else { return Ok(output::object(format, answer)?) };
    let mut summary = answer.clone();
    if let Some(summary) = summary.as_object_mut() {
        summary.remove("steps");
    }
    output::object(format, &summary)?;
    output::line("")?;
    let columns = [("STEP", "step"), ("STARTED", "started_at"), ("ENDED", "ended_at"), ("RESULT", "result")];
    Ok(output::list(format, steps, &columns)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_says_phase_rows_bytes_rate_and_lag() {
        let answer = json!({
            "tenant": "acme", "to": "pg-3", "state": "running", "step": "copy", "rows_copied": 10, "rows_total": 40,
            "bytes_copied": 1_500_000, "bytes_per_second": 999, "lag_bytes": 0,
        });
        assert_eq!(progress(&answer), "acme to pg-3: copy, 10 of 40 rows, 1.5 MB, 999 B/s, lag 0 B");
        let switched = json!({ "tenant": "acme", "to": "pg-3", "state": "switched", "hold_ms": 41 });
        assert_eq!(progress(&switched), "acme to pg-3: switched, held new transactions for 41 ms");
    }

    #[test]
    fn sizes_are_rounded_to_the_unit_they_fit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999_960), "1.0 MB");
        assert_eq!(size(12_345_678_901), "12.3 GB");
    }
}
