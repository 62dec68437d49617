//! A move's receipt, for people.

use serde_json::Value;

use super::show::second;
use super::words;
use crate::cli::output::{self, Format};
use crate::cli::wait::{number, text};

/// Tables and sequences that are listed; JSON has more.
const LISTED_MAX: usize = 20;

pub(super) fn print(receipt: &Value) -> anyhow::Result<()> {
    for line in lines(receipt) {
        output::line(&output::printable(&line))?;
    }
    let none = Vec::new();
    let tables = receipt.get("tables").and_then(Value::as_array).unwrap_or(&none);
    if tables.is_empty() {
        return Ok(());
    }
    output::line("")?;
    let listed = Value::from(tables.iter().take(LISTED_MAX).cloned().collect::<Vec<_>>());
    output::list(Format::Table, &listed, &[("TABLE", "table"), ("ROWS", "rows"), ("HASH", "hash")])?;
    let more = number(receipt, "tables_more") + tables.len().saturating_sub(LISTED_MAX) as u64;
    if more > 0 {
        output::line(&format!("and {more} tables more"))?;
    }
    Ok(())
}

fn lines(receipt: &Value) -> Vec<String> {
    let mut lines = vec![format!("RECEIPT of {} UTC", second(text(receipt, "made_at")))];
    if let Some(ms) = receipt.get("hold_ms").and_then(Value::as_f64) {
        let parts = receipt.get("hold_parts_ms").and_then(Value::as_object);
        let parts =
            parts.into_iter().flatten().filter_map(|(part, ms)| Some(format!("{part} {}", ms.as_f64()?)));
        let parts = parts.collect::<Vec<_>>().join(", ");
        let parts = if parts.is_empty() { parts } else { format!(" (ms: {parts})") };
        lines.push(format!("hold: {}{parts}", words::duration(ms)));
    }
    if let Some(fence) = receipt.get("fence").filter(|fence| fence.is_object()) {
        let lsn = |key: &str| fence.get(key).and_then(Value::as_str).unwrap_or("not known").to_owned();
        let at = second(text(fence, "written_at"));
        let (source, target) = (lsn("source_lsn"), lsn("target_lsn"));
        lines.push(format!("fence: {at} UTC, source at {source}, which is {target} on the target"));
    }
    lines.extend(before(receipt));
    lines.extend(after(receipt));
    let sequences = receipt.get("sequences").filter(|sequences| sequences.is_object());
    lines.extend(sequences.map(|sequences| format!("sequences set: {}", number(sequences, "count"))));
    lines
}

fn before(receipt: &Value) -> Option<String> {
    let before = receipt.get("before").filter(|before| before.is_object())?;
    let mut line = format!(
        "compared before the cutover ({}): equal, {} tables, {} rows, until {} UTC",
        text(before, "how"),
        number(before, "tables_done"),
        number(before, "rows"),
        second(text(before, "ended_at"))
    );
    let left_out = number(before, "left_out");
    if left_out > 0 {
        line.push_str(&format!(
            "; {left_out} large tables without a key were left for the comparison after it"
        ));
    }
    Some(line)
}

fn after(receipt: &Value) -> Option<String> {
    let after = receipt.get("after").filter(|after| after.is_object())?;
    let how = match after.get("verified").and_then(Value::as_bool) {
        None => return Some(format!("compared after the switch: no; {}", text(after, "why"))),
        Some(true) => "equal",
        Some(false) => "they DIFFER",
    };
    Some(format!(
        "compared after the switch ({}): {how}, {} tables, {} rows, digest {}",
        text(receipt, "verify"),
        number(after, "tables"),
        number(after, "rows"),
        text(after, "digest")
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_receipt_says_what_was_compared_and_when() {
        let receipt = json!({
            "made_at": "2026-11-22T01:02:03.5+00:00", "verify": "full", "hold_ms": 98.2, "hold_parts_ms": { "drain": 1.5 },
            "before": { "how": "full", "tables_done": 3, "rows": 70, "left_out": 0, "ended_at": "2026-11-22T01:00:00+00:00" },
            "after": { "verified": null, "why": "the snapshot was lost" }, "sequences": { "count": 2 },
        });
        assert_eq!(
            lines(&receipt),
            [
                "RECEIPT of 2026-11-22 01:02:03 UTC",
                "hold: 98 ms (ms: drain 1.5)",
                "compared before the cutover (full): equal, 3 tables, 70 rows, until 2026-11-22 01:00:00 UTC",
                "compared after the switch: no; the snapshot was lost",
                "sequences set: 2",
            ]
        );
    }
}
