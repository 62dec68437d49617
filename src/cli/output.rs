//! What commands print on stdout: a table for people, or JSON for programs, and nothing else.
//!
//! Cells come from other people's labels and error messages, so control characters are shown, not obeyed.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use clap::ValueEnum;
use serde_json::Value;

/// What to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Columns of a table: heading, and key of the JSON objects.
pub(crate) type Columns<'a> = &'a [(&'a str, &'a str)];

/// Prints a list of objects.
pub(crate) fn list(format: Format, rows: &Value, columns: Columns<'_>) -> io::Result<()> {
    match format {
        Format::Json => json(rows),
        Format::Table => line(&table(rows.as_array().map_or(&[], Vec::as_slice), columns)),
    }
}

/// Prints one object.
pub(crate) fn object(format: Format, value: &Value) -> io::Result<()> {
    match format {
        Format::Json => json(value),
        Format::Table => line(&fields(value)),
    }
}

/// Prints JSON.
pub(crate) fn json(value: &Value) -> io::Result<()> {
    line(&format!("{value:#}"))
}

/// Prints text. A reader that went away (`| head`) is no error of ours.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// Rows under their headings, as text.
pub(crate) fn table(rows: &[Value], columns: Columns<'_>) -> String {
    let mut cells: Vec<Vec<String>> =
        vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    cells.extend(rows.iter().map(|row| columns.iter().map(|(_, key)| cell(row.get(key))).collect()));
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &cells {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String can't fail.
            let _ = write!(text, "{cell:width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// Keys that say what an object is, which come first.
const LEADING: [&str; 4] = ["id", "name", "tenant", "state"];

fn fields(value: &Value) -> String {
    let Some(object) = value.as_object() else { return cell(Some(value)) };
    let width = object.keys().map(|key| key.chars().count()).max().unwrap_or(0);
    let rank = |key: &str| LEADING.iter().position(|leading| *leading == key).unwrap_or(LEADING.len());
    let mut pairs: Vec<_> = object.iter().collect();
    pairs.sort_by_key(|(key, _)| rank(key)); // stable: the others stay in the order of their names
    let mut text = String::new();
    for (key, value) in pairs {
        let _ = writeln!(text, "{:width$}  {}", key, cell(Some(value)));
    }
    text
}

/// One value in a table.
fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(Value::Array(items)) if items.is_empty() => "-".to_owned(),
        Some(Value::Array(items)) if items.iter().all(|item| !item.is_object()) => {
            items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(",")
        }
        Some(Value::Object(pairs)) if pairs.is_empty() => "-".to_owned(),
        Some(Value::Object(pairs)) if pairs.values().all(Value::is_string) => {
            let pair = |(k, v): (&String, &Value)| format!("{}={}", printable(k), cell(Some(v)));
            pairs.iter().map(pair).collect::<Vec<_>>().join(",")
        }
        Some(other) => printable(&other.to_string()),
    }
}

/// Text of others, control characters shown.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_aligned_and_missing_values_shown() {
        let rows = [
            json!({"id": "acme", "epoch": 3, "labels": {"plan": "gold", "region": "eu"}}),
            json!({"id": "a-longer-one", "epoch": null, "labels": {}}),
        ];
        let text = table(&rows, &[("ID", "id"), ("EPOCH", "epoch"), ("LABELS", "labels")]);
        assert_eq!(
            text,
            "ID            EPOCH  LABELS\n\
             acme          3      plan=gold,region=eu\n\
             a-longer-one  -      -\n"
        );
    }

    #[test]
    fn an_object_is_one_line_a_key() {
        let text = fields(&json!({"id": "acme", "error": "a\n\u{1b}[31mb", "steps": ["x", "y"]}));
        assert_eq!(text, "id     acme\nerror  a\\n\\u{1b}[31mb\nsteps  x,y\n");
    }
}
