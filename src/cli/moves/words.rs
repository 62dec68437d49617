//! What a move's steps are and how they went, in words.

use serde_json::Value;

use super::show::size;
use crate::cli::wait::{number, text};

/// What a step does, and how far it is or what came out of it.
pub(super) fn step(answer: &Value, step: &str) -> String {
    let what = match step {
        "begin" => "about to begin",
        "arm" => "the source is made ready: stream of changes, snapshot, guard against schema changes",
        "turn_round" => "the sealed copy becomes the target; nothing is copied",
        "schema" => "roles, database and tables on the target",
        "copy" => "rows",
        "build" => "indexes, constraints and statistics on the target; then it follows the source",
        "compare" => "both sides are compared while clients work",
        "catch_up" => "the target catches up, and a quiet moment is waited for",
        "cutover" => "new transactions are held while the tenant changes servers",
        "release" => "routers go on at the target",
        "verify" => "both sides are compared as they were at the switch",
        "switched" => "the tenant is served by the target; the old copy is kept",
        "complete" => "the old copy is removed",
        "completed" => "nothing of the move is left but this record",
        "restart" => "the copy is thrown away, to be begun anew",
        "undo" => "what the move made is removed; the tenant stays where it is",
        "undone" => "the tenant is where it was",
        other => other,
    };
    let figures = match step {
        "copy" => copied(answer),
        "compare" => compared(answer),
        "catch_up" => following(answer),
        "cutover" => held(answer),
        "verify" => verified(answer),
        _ => Vec::new(),
    };
    if figures.is_empty() { what.to_owned() } else { format!("{what}: {}", figures.join(", ")) }
}

/// Seconds that a step in the middle of its work is expected to go on, by what it has done since it began.
fn left_s(done: f64, total: f64, took_s: f64) -> Option<f64> {
    // At the very beginning nothing can be said.
    (done > 0.0 && done < total && took_s >= 2.0).then(|| took_s * (total - done) / done)
}

/// How long the step that goes on has gone on, in seconds; none for one that has ended.
fn going_on_s(answer: &Value, step: &str) -> Option<f64> {
    let last = answer.get("steps")?.as_array()?.last()?;
    let goes_on = text(last, "step") == step && last.get("ended_at").is_none_or(Value::is_null);
    last.get("took_ms").and_then(Value::as_f64).filter(|_| goes_on).map(|ms| ms / 1000.0)
}

fn remaining(done: u64, total: u64, took_s: Option<f64>) -> Option<String> {
    // Of figures for people, more digits than they have are no loss.
    #[allow(clippy::cast_precision_loss)]
    let left = left_s(done as f64, total as f64, took_s?)?;
    Some(format!("about {} left", duration(left * 1000.0)))
}

fn copied(answer: &Value) -> Vec<String> {
    let (tables, rows) = (number(answer, "tables_copied"), number(answer, "rows_copied"));
    let (tables_total, rows_total) = (number(answer, "tables_total"), number(answer, "rows_total"));
    let (bytes, bytes_total) = (number(answer, "bytes_copied"), number(answer, "bytes_total"));
    let goes_on = going_on_s(answer, "copy");
    let mut figures = Vec::new();
    if tables_total > 0 {
        figures.push(of(tables.to_string(), &tables_total.to_string(), goes_on) + " tables");
    }
    if rows_total.max(rows) > 0 {
        figures.push(of(rows.to_string(), &rows_total.max(rows).to_string(), goes_on) + " rows");
        figures.push(of(size(bytes), &size(bytes_total.max(bytes)), goes_on));
    }
    let rate = number(answer, "bytes_per_second");
    if goes_on.is_some() && rate > 0 {
        figures.push(format!("{}/s", size(rate)));
    }
    figures.extend(remaining(rows, rows_total, goes_on));
    figures
}

/// So many of so many, while it goes on; afterwards, so many.
fn of(done: String, total: &str, goes_on: Option<f64>) -> String {
    if goes_on.is_some() { format!("{done} of {total}") } else { done }
}

fn compared(answer: &Value) -> Vec<String> {
    let Some(compared) = answer.get("compared").filter(|compared| compared.is_object()) else {
        let asked = text(answer, "verify") != "none";
        return if asked { Vec::new() } else { vec!["not asked for".to_owned()] };
    };
    let goes_on = going_on_s(answer, "compare");
    let total = number(compared, "tables_total").to_string();
    let mut figures = vec![
        of(number(compared, "tables_done").to_string(), &total, goes_on) + " tables",
        format!("{} rows", number(compared, "rows")),
    ];
    let left_out = number(compared, "left_out");
    if left_out > 0 {
        figures.push(format!("{left_out} large tables without a key only after the switch"));
    }
    if text(answer, "verify") == "count" {
        figures.push("by counts".to_owned());
    }
    figures
}

fn following(answer: &Value) -> Vec<String> {
    let mut figures = Vec::new();
    if going_on_s(answer, "catch_up").is_some() {
        figures.extend(
            answer.get("lag_bytes").and_then(Value::as_u64).map(|lag| format!("{} behind", size(lag))),
        );
    }
    let waited = number(answer, "waited_ms");
    if waited > 0 {
        #[allow(clippy::cast_precision_loss)]
        figures.push(format!("{} spent waiting for who was in the way", duration(waited as f64)));
    }
    figures
}

fn held(answer: &Value) -> Vec<String> {
    let mut figures = Vec::new();
    figures
        .extend(answer.get("hold_ms").and_then(Value::as_f64).map(|ms| format!("held for {}", duration(ms))));
    let taken_back = number(answer, "taken_back");
    if taken_back > 0 {
        let last = text(answer, "last_cutover");
        figures.push(format!("{taken_back} tries were taken back, the last because: {last}"));
    }
    figures
}

fn verified(answer: &Value) -> Vec<String> {
    let rows = number(answer, "rows_checked");
    match answer.get("verified").and_then(Value::as_bool) {
        Some(true) => vec![format!("equal, {} tables, {rows} rows", number(answer, "tables_checked"))],
        Some(false) => vec!["they DIFFER".to_owned()],
        None => answer
            .pointer("/receipt/after/why")
            .and_then(Value::as_str)
            .map(str::to_owned)
            .into_iter()
            .collect(),
    }
}

/// A time for people, of two units at most.
pub(super) fn duration(ms: f64) -> String {
    if ms < 1000.0 {
        return format!("{ms:.0} ms");
    }
    if ms < 60_000.0 {
        return format!("{:.1} s", ms / 1000.0);
    }
    // Bounded by what a record can tell.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = (ms / 1000.0) as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_copy_that_goes_on_says_how_far_it_is_and_how_long_it_takes() {
        let mut answer = json!({
            "tables_copied": 12, "tables_total": 40, "rows_copied": 300, "rows_total": 900, "bytes_copied": 3_100_000_000_u64,
            "bytes_total": 10_200_000_000_u64, "bytes_per_second": 85_000_000,
            "steps": [{ "step": "copy", "ended_at": null, "took_ms": 40_000 }],
        });
        let going_on =
            "rows: 12 of 40 tables, 300 of 900 rows, 3.1 GB of 10.2 GB, 85.0 MB/s, about 1 min 20 s left";
        assert_eq!(step(&answer, "copy"), going_on);
        answer["steps"][0]["ended_at"] = "2026-11-22T01:00:00Z".into();
        assert_eq!(step(&answer, "copy"), "rows: 12 tables, 300 rows, 3.1 GB");
    }

    #[test]
    fn what_was_not_compared_after_the_switch_says_why() {
        let answer = json!({ "verified": null, "receipt": { "after": { "why": "the snapshot was lost" } } });
        assert!(step(&answer, "verify").ends_with(": the snapshot was lost"));
        assert!(step(&json!({ "verified": false }), "verify").ends_with("they DIFFER"));
    }

    #[test]
    fn times_have_two_units_at_most() {
        let told = [3.4, 1500.0, 80_000.0, 7_500_000.0].map(duration);
        assert_eq!(told, ["3 ms", "1.5 s", "1 min 20 s", "2 h 5 min"]);
    }
}
