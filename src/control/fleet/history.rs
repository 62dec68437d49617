//! What ran in a tenant's database, by refinery's own table, and how that differs from a directory.

use futures_util::TryStreamExt as _;
use serde::Serialize;

use super::files::Migrations;
use crate::error::{Error, Result};
use crate::server::Connection;

/// A row of refinery's table. The tenant's owner may write there, so nothing is taken for granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) version: i32,
    pub(crate) name: String,
    pub(crate) applied_on: String,
    pub(crate) checksum: String,
}

/// How a tenant's history differs from the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(crate) enum Drift {
    /// A file is not the one that ran.
    Changed { file: String },
    /// A migration ran that is not in the directory.
    Unknown { migration: String },
    /// A file did not run, although newer ones did.
    Missing { file: String },
    /// The table says what refinery would never write.
    Unreadable { what: String },
}

impl std::fmt::Display for Drift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Changed { file } => write!(f, "{file} is different from the one that ran here"),
            Self::Unknown { migration } => write!(f, "{migration} ran here and is not in the directory"),
            Self::Missing { file } => write!(f, "{file} did not run here, although newer ones did"),
            Self::Unreadable { what } => write!(f, "refinery_schema_history can't be read: {what}"),
        }
    }
}

/// Not a plain table, or without the columns that refinery gives it.
const UNUSUAL: [&str; 3] = ["42809", "42703", "42P10"];

/// Reads the history; none when nothing ever ran. By a COPY of the table, for which nothing is planned and which refuses a view:
/// the reader may be a superuser, and no function of the table's owner must run.
pub(crate) async fn read(connection: &Connection) -> Result<Vec<Applied>> {
    const THERE: &str = "SELECT pg_catalog.to_regclass('public.refinery_schema_history') IS NOT NULL";
    const COPY: &str = "COPY public.refinery_schema_history (version, name, applied_on, checksum) TO STDOUT";
    if !connection.value::<bool>(THERE, &[]).await? {
        return Ok(Vec::new());
    }
    let copied = async {
        let rows = connection.client().copy_out(COPY).await.map_err(|e| connection.error(&e))?;
        rows.try_collect::<Vec<_>>().await.map_err(|e| connection.error(&e))
    };
    let rows = copied.await.map_err(|error| match error.sqlstate() {
        Some(state) if UNUSUAL.contains(&state) => connection.refused(
            "refinery_schema_history is no plain table of plain columns: make it one again, with what ran in its rows",
            state,
        ),
        _ => error,
    })?;
    let mut applied =
        rows.iter().map(|row| applied(&String::from_utf8_lossy(row))).collect::<Result<Vec<_>>>()?;
    applied.sort_by_key(|row| row.version);
    Ok(applied)
}

/// A row as COPY writes it.
fn applied(line: &str) -> Result<Applied> {
    let mut values = line.trim_end_matches('\n').split('\t').map(unescaped);
    let mut next = || values.next().unwrap_or_default();
    let (version, name, applied_on, checksum) = (next(), next(), next(), next());
    let version = version
        .parse()
        .map_err(|_| Error::Failed(format!("refinery_schema_history has {version:?} for a version")))?;
    Ok(Applied { version, name, applied_on, checksum })
}

/// A value as COPY writes it; nothing for NULL.
fn unescaped(value: &str) -> String {
    if value == "\\N" {
        return String::new();
    }
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        let written = if character == '\\' { characters.next() } else { None };
        text.push(match written {
            None => character,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\u{b}',
            Some(other) => other,
        });
    }
    text
}

/// The newest version that ran.
pub(crate) fn version(applied: &[Applied]) -> Option<i32> {
    applied.iter().map(|row| row.version).max()
}

/// Compares a history with the files.
pub(crate) fn drift(applied: &[Applied], files: &Migrations) -> Vec<Drift> {
    let newest = version(applied);
    let mut found = Vec::new();
    for row in applied {
        let migration = format!("V{}__{}", row.version, row.name);
        if row.checksum.parse::<u64>().is_err() {
            found.push(Drift::Unreadable { what: migration });
            continue;
        }
        match files.step(row.version) {
            None => found.push(Drift::Unknown { migration }),
            Some(step) => {
                let same = step.migration.name() == row.name
                    && step.migration.checksum().to_string() == row.checksum;
                if !same {
                    found.push(Drift::Changed { file: step.name.clone() });
                }
            }
        }
    }
    let ran = |version| applied.iter().any(|row| row.version == version);
    let skipped = files.steps.iter().filter(|step| Some(step.version()) < newest && !ran(step.version()));
    found.extend(skipped.map(|step| Drift::Missing { file: step.name.clone() }));
    found
}

#[cfg(test)]
mod tests {
    use super::super::files::File;
    use super::*;

    fn files(names: &[&str]) -> Migrations {
        let file = |name: &&str| File { name: format!("{name}.sql"), sql: "SELECT 1".to_owned() };
        Migrations::read(&names.iter().map(file).collect::<Vec<_>>()).unwrap()
    }

    fn ran(files: &Migrations) -> Vec<Applied> {
        let row = |step: &super::super::files::Step| Applied {
            version: step.version(),
            name: step.migration.name().to_owned(),
            applied_on: "2026-11-21T10:00:00.123456Z".to_owned(),
            checksum: step.migration.checksum().to_string(),
        };
        files.steps.iter().map(row).collect()
    }

    #[test]
    fn a_row_is_what_was_written() {
        let row = applied("7\tit\\ts \\\\ \\n\t2026-11-21T10:00:00Z\t\\N\n").unwrap();
        assert_eq!((row.version, row.name.as_str(), row.checksum.as_str()), (7, "it\ts \\ \n", ""));
        assert!(applied("\\N\tx\ty\tz\n").is_err());
    }

    #[test]
    fn a_history_that_fits_has_no_drift() {
        let directory = files(&["V1__a", "V2__b", "V3__c"]);
        assert_eq!(drift(&[], &directory), []);
        assert_eq!(drift(&ran(&files(&["V1__a", "V2__b"])), &directory), []);
    }

    #[test]
    fn each_difference_is_told() {
        let directory = files(&["V1__a", "V2__b", "V3__c"]);
        let mut history = ran(&files(&["V1__a", "V3__c", "V4__d"]));
        history[0].checksum = "17".to_owned();
        let found = drift(&history, &directory);
        assert_eq!(
            found,
            [
                Drift::Changed { file: "V1__a.sql".into() },
                Drift::Unknown { migration: "V4__d".into() },
                Drift::Missing { file: "V2__b.sql".into() },
            ]
        );
        history[0].checksum = "x".to_owned();
        let unreadable = drift(&history, &directory);
        assert_eq!(unreadable.iter().filter(|d| matches!(d, Drift::Unreadable { .. })).count(), 1);
    }
}
