//! The receipt of a move: where its stream ended, what was compared before and after, what was counted, how long clients were
//! held. Made once, at the end of the comparison, from what is there then; kept with the move's record for as long as that.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::compare::sealed::Found;
use super::driver::{Move, Verify};
use crate::error::Result;
use crate::server::{Connection, literal, tables};

/// Tables that it names, the largest first; of all there are their number and a digest.
const TABLES_MAX: usize = 100;
/// Sequences that it names.
const SEQUENCES_MAX: usize = 100;

/// What became of the comparison after the switch.
#[derive(Debug)]
pub(super) enum After {
    /// It was not asked for.
    NotAsked,
    /// It could not be made, and why.
    NotMade(String),
    /// It was made, and when it began (RFC 3339).
    Made { began_at: String, found: Found },
}

impl After {
    /// `verified`, as the move shows it.
    pub(super) fn verified(&self) -> Value {
        match self {
            Self::NotAsked | Self::NotMade(_) => Value::Null,
            Self::Made { found, .. } => json!(found.differences.is_empty()),
        }
    }

    fn told(&self, ended_at: &str) -> Value {
        match self {
            Self::NotAsked => Value::Null,
            Self::NotMade(why) => json!({ "verified": null, "why": why }),
            Self::Made { began_at, found } => json!({
                "verified": self.verified(), "why": null, "began_at": began_at, "ended_at": ended_at, "tables": found.tables_compared,
                "rows": found.rows, "digest": digest(found), "differences": found.differences,
                "not_compared": found.not_compared,
            }),
        }
    }
}

/// A digest of all that was found equal: SHA-256 of a line `NAME ROWS HASH` for each table, in the order of their names.
fn digest(found: &Found) -> String {
    let mut lines: Vec<_> = found.lines.iter().collect();
    lines.sort_by(|a, b| a.0.cmp(&b.0));
    let mut sum = Sha256::new();
    for (table, summary) in lines {
        sum.update(format!("{table} {} {}\n", summary.rows, summary.hash));
    }
    sum.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Notes where the stream ended, before it is removed: up to which position of the source the target has everything, and
/// where that is in the target's own log.
pub(super) async fn note_fence(the_move: &Move<'_>, target: &Connection) -> Result<()> {
    const STREAM: &str = "
        SELECT nullif(s.remote_lsn, '0/0')::text, nullif(s.local_lsn, '0/0')::text
        FROM pg_catalog.pg_subscription p JOIN pg_catalog.pg_replication_origin o ON o.roname = 'pg_' || p.oid
        JOIN pg_catalog.pg_replication_origin_status s ON s.local_id = o.roident WHERE p.subname = $1";
    const ROW: &str = "
        SELECT id, to_jsonb(written_at)#>>'{}' FROM tenantry.fence WHERE id > 0 ORDER BY id DESC LIMIT 1";
    // Gone with the subscription, if this was tried before.
    let Some(stream) = target.row(STREAM, &[&the_move.names.forward]).await? else { return Ok(()) };
    let row = target.row(ROW, &[]).await?;
    let lsn = |at| stream.get::<_, Option<&str>>(at);
    let fence = json!({
        "source_lsn": lsn(0), "target_lsn": lsn(1), "row": row.as_ref().map(|row| row.get::<_, i64>(0)),
        "written_at": row.as_ref().map(|row| row.get::<_, String>(1)),
    });
    the_move.work.remember(&json!({ "fence": fence })).await
}

/// Makes the receipt, unless it was made by an earlier try.
pub(super) async fn make(the_move: &Move<'_>, after: &After) -> Result<()> {
    let work = the_move.work;
    let operation = work.context.catalog.operation(work.operation.id).await?;
    let data = |key: &str| operation.data.get(key).cloned().unwrap_or_default();
    if !data("receipt").is_null() {
        return Ok(());
    }
    let sequences = match sequences(the_move).await {
        Ok(sequences) => sequences,
        Err(error) if error.must_stop() => return Err(error),
        Err(error) => {
            tracing::warn!(operation = operation.id, %error, "the receipt does not tell the sequences");
            Value::Null
        }
    };
    let now = work.context.catalog.timestamp(None).await?;
    let (named, more) = named(after, &data("compared"));
    let receipt = json!({
        "made_at": now, "asked_by": the_move.input.asked_by, "asked_at": operation.created_at, "verify": the_move.input.verify,
        "fence": data("fence"), "before": before(data("compared")), "after": after.told(&now),
        "tables": named, "tables_more": more, "sequences": sequences,
        "hold_ms": data("hold_ms"), "hold_parts_ms": data("hold_parts_ms"),
        "cutovers_taken_back": operation.data.get("taken_back").cloned().unwrap_or_else(|| json!(0)),
    });
    work.remember(&json!({ "receipt": receipt })).await
}

/// The record of the comparison before the cutover, without what only another controller needs.
fn before(mut compared: Value) -> Value {
    if let Some(compared) = compared.as_object_mut() {
        compared.remove("done");
    }
    compared
}

/// Tables by name, and how many there are beside them: as they were at the switch, or else as they were before.
fn named(after: &After, compared: &Value) -> (Vec<Value>, usize) {
    match after {
        After::Made { found, .. } => {
            let lines = found.lines.iter().take(TABLES_MAX);
            let table = |(table, summary): &(String, _)| {
                let super::compare::Summary { rows, hash } = summary;
                json!({ "table": table, "rows": rows, "hash": (!hash.is_empty()).then_some(hash) })
            };
            (lines.map(table).collect(), found.lines.len().saturating_sub(TABLES_MAX))
        }
        After::NotAsked | After::NotMade(_) => {
            let done = compared.get("done").and_then(Value::as_object);
            let table =
                |(table, rows): (&String, &Value)| json!({ "table": table, "rows": rows, "hash": null });
            let named: Vec<Value> = done.into_iter().flatten().map(table).collect();
            let all = compared.get("tables_done").and_then(Value::as_u64).unwrap_or(0);
            let more = usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(named.len());
            (named, more)
        }
    }
}

/// The sequences as they were sealed, which is how they were set on the target.
async fn sequences(the_move: &Move<'_>) -> Result<Value> {
    let connector = &the_move.work.context.connector;
    let sealed = connector.database(&the_move.source, &the_move.id.sealed_database()).await?;
    let names = tables::sequences(&sealed).await?;
    let named = names.iter().take(SEQUENCES_MAX);
    let reads: Vec<String> = named
        .map(|name| format!("SELECT {} AS name, last_value, is_called FROM {name}", literal(name)))
        .collect();
    let mut values = Vec::new();
    if !reads.is_empty() {
        for row in sealed.rows(&reads.join(" UNION ALL "), &[]).await? {
            let (name, last_value, is_called): (&str, i64, bool) = (row.get(0), row.get(1), row.get(2));
            values.push(json!({ "sequence": name, "last_value": last_value, "is_called": is_called }));
        }
    }
    sealed.close().await;
    Ok(json!({ "count": names.len(), "values": values }))
}

/// Why there is nothing of a comparison after the switch, whose snapshot is not there.
pub(super) fn without_snapshot(verify: Verify) -> After {
    match verify {
        Verify::None => After::NotAsked,
        Verify::Full | Verify::Count => After::NotMade(
            "the snapshot of the switch was lost: the control plane ended, or was disturbed, between the switch and the \
             comparison. What was compared before the cutover stands"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::compare::Summary;
    use super::*;

    #[test]
    fn a_digest_does_not_depend_on_the_order_of_tables() {
        let line = |table: &str, rows| (table.to_owned(), Summary { rows, hash: "7".into() });
        let of = |lines| digest(&Found { lines, ..Found::default() });
        let one = of(vec![line("public.a", 1), line("public.b", 2)]);
        assert_eq!(one, of(vec![line("public.b", 2), line("public.a", 1)]));
        assert_ne!(one, of(vec![line("public.a", 2), line("public.b", 1)]));
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn without_a_comparison_after_the_switch_the_tables_of_the_one_before_are_named() {
        let compared = json!({ "tables_done": 3, "done": { "public.a": 5 }, "rows": 5 });
        let (named, more) = named(&without_snapshot(Verify::Full), &compared);
        assert_eq!((named, more), (vec![json!({ "table": "public.a", "rows": 5, "hash": null })], 2));
        assert_eq!(before(compared), json!({ "tables_done": 3, "rows": 5 }));
    }
}
