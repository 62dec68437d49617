//! A move in words: one line while it is waited for, and all of it.

use serde_json::{Value, json};

use super::words;
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
        if text(answer, "step") == "compare"
            && let Some(compared) = answer.get("compared").filter(|compared| compared.is_object())
        {
            let (done, total) = (number(compared, "tables_done"), number(compared, "tables_total"));
            line.push_str(&format!(", {done} of {total} tables"));
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

/// A move, in words.
pub(super) fn print(format: Format, answer: &Value) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(output::json(answer)?);
    }
    output::line(&head(answer).join("\n"))?;
    let steps = answer.get("steps").and_then(Value::as_array).filter(|steps| !steps.is_empty());
    if let Some(steps) = steps {
        output::line("")?;
        let rows: Value = steps.iter().map(|step| row(answer, step)).collect();
        let columns =
            [("STEP", "step"), ("BEGUN", "begun"), ("TOOK", "took"), ("WHAT", "what"), ("ENDED", "result")];
        output::list(format, &rows, &columns)?;
    }
    if let Some(receipt) = answer.get("receipt").filter(|receipt| receipt.is_object()) {
        output::line("")?;
        super::receipt::print(receipt)?;
    }
    Ok(())
}

/// What an operator wants to know first.
fn head(answer: &Value) -> Vec<String> {
    let (id, tenant, state) = (number(answer, "id"), text(answer, "tenant"), text(answer, "state"));
    let (from, to) = (text(answer, "from"), text(answer, "to"));
    let mut lines = vec![format!("move {id}: tenant {tenant} from {from} to {to} is {state}")];
    let mut tell = |what: &str, key: &str| {
        let told = text(answer, key);
        if !told.is_empty() {
            lines.push(format!("{what}{}", output::printable(told)));
        }
    };
    tell("waits for ", "waiting_for");
    tell("error: ", "error");
    tell("warning: ", "warning");
    tell("", "failed_over");
    tell("can be turned round until ", "reversible_until");
    tell("asked for by ", "asked_by");
    if let Some(trying) = answer.get("trying").filter(|trying| trying.is_object()) {
        let (tries, error) = (number(trying, "tries"), output::printable(text(trying, "error")));
        lines.push(format!("failed {tries} times in a row, and is tried again: {error}"));
    }
    if let Some(paused) = answer.get("paused").filter(|paused| paused.is_object()) {
        let (since, by) = (text(paused, "since"), output::printable(text(paused, "by")));
        lines.push(format!("paused by {by} since {since}; it goes on with: tenantry move resume {id}"));
    }
    if let Some(turned) = answer.get("reverse_of").and_then(Value::as_u64) {
        lines.push(format!("turns move {turned} round"));
    }
    if let Some(closed) = answer.get("window_closed").filter(|closed| closed.is_object()) {
        let (at, why) = (text(closed, "at"), output::printable(text(closed, "why")));
        lines.push(format!("can't be turned round since {at}: {why}"));
    }
    if answer.get("abort_requested") == Some(&Value::Bool(true)) && state == "running" {
        lines.push("is to be given up, as an operator asked".to_owned());
    }
    for (key, what) in [("differences", "differs"), ("not_compared", "not compared after the switch")] {
        for found in answer.get(key).and_then(Value::as_array).into_iter().flatten() {
            lines.push(format!("{what}: {}", output::printable(found.as_str().unwrap_or_default())));
        }
    }
    lines
}

/// A step of the journal, for people. What it came to is known of the last of its name only.
fn row(answer: &Value, step: &Value) -> Value {
    let name = text(step, "step");
    let took = step.get("took_ms").and_then(Value::as_f64).map(words::duration);
    // The end of a move's journal is a state, not something that takes its time.
    let is_state = ["switched", "completed", "undone"].contains(&name);
    let result = match text(step, "result") {
        "" if is_state => "",
        "" => "goes on",
        "done" => "well",
        "takenback" => "taken back",
        "snapshotlost" => "its snapshot was lost",
        "stop" => "given up",
        other => other,
    };
    json!({
        "step": name, "begun": second(text(step, "started_at")), "took": if is_state { None } else { took },
        "what": words::step(answer, name), "result": result,
    })
}

/// A time without its fraction and zone, which is UTC.
pub(super) fn second(time: &str) -> String {
    time.get(..19).unwrap_or(time).replace('T', " ")
}

#[cfg(test)]
mod tests {
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
