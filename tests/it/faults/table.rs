//! The table of points and faults in the docs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::{Cell, FAULTS, POINTS, all};

static TABLE: Mutex<Option<BTreeMap<Cell, String>>> = Mutex::new(None);

pub(super) fn document() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/docs/move-faults.md").into()
}

/// Puts a cell into the table in the docs.
pub(super) fn note(cell: Cell, told: String) {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let table = table.get_or_insert_with(table_in_the_docs);
    table.insert(cell, told);
    let document_before = std::fs::read_to_string(document()).unwrap();
    let (before, rest) = document_before.split_once(BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    let text = format!("{before}{BEGIN}\n{}{END}{after}", rendered(table));
    std::fs::write(document(), text).unwrap();
}

pub(super) const BEGIN: &str = "<!-- written by make faults -->";
pub(super) const END: &str = "<!-- end -->";

pub(super) fn rendered(table: &BTreeMap<Cell, String>) -> String {
    let mut text = format!("\n{} of {} cells have run.\n\n| point |", table.len(), all().len());
    FAULTS.iter().for_each(|(_, words)| write!(text, " {words} |").unwrap());
    write!(text, "\n| --- |{}\n", " --- |".repeat(FAULTS.len())).unwrap();
    for (_, points) in POINTS {
        for point in points {
            write!(text, "| `{point}` |").unwrap();
            for (fault, _) in FAULTS {
                write!(text, " {} |", table.get(&(*point, fault)).map_or("–", String::as_str)).unwrap();
            }
            text.push('\n');
        }
    }
    text.push('\n');
    text
}

/// The cells that have run, as the docs have them.
pub(super) fn table_in_the_docs() -> BTreeMap<Cell, String> {
    let text = std::fs::read_to_string(document()).unwrap();
    let mut table = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some((point, _)) = all().into_iter().find(|(point, _)| cells[0] == format!("`{point}`")) else {
            continue;
        };
        for ((fault, _), cell) in FAULTS.into_iter().zip(&cells[1..]) {
            if *cell != "–" {
                table.insert((point, fault), (*cell).to_owned());
            }
        }
    }
    table
}
