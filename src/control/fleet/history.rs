//! What ran in a tenant's database, by refinery's own table, and how that differs from a directory.

use serde::Serialize;

use super::files::Migrations;
use crate::error::Result;
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

/// Locks the table, so that it stays what it is, and tells whether reading it runs nothing but Postgres's own code. A view, or
/// a column of a type with a cast of its own, would run its owner's functions, and the reader may be a superuser.
const LOOK: &str = "
    LOCK TABLE ONLY public.refinery_schema_history IN ACCESS SHARE MODE;
    DO $$ BEGIN
        IF EXISTS (SELECT FROM pg_catalog.pg_class c
            WHERE c.oid = 'public.refinery_schema_history'::pg_catalog.regclass AND (c.relkind <> 'r' OR EXISTS (
                SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
                    AND (a.atttypid >= 16384 OR a.attgenerated <> '')))) THEN
            RAISE EXCEPTION 'refinery_schema_history is no plain table of plain columns: make it one again, with what ran in its rows'
                USING ERRCODE = '42809';
        END IF;
    END $$";

/// Reads the history; none when nothing ever ran. In a transaction of its own.
pub(crate) async fn read(connection: &Connection) -> Result<Vec<Applied>> {
    // As text, whatever somebody made of the columns.
    const THERE: &str = "SELECT pg_catalog.to_regclass('public.refinery_schema_history') IS NOT NULL";
    const SQL: &str = "
        SELECT version::int, coalesce(name::text, ''), coalesce(applied_on::text, ''), coalesce(checksum::text, '')
        FROM ONLY public.refinery_schema_history ORDER BY 1";
    if !connection.value::<bool>(THERE, &[]).await? {
        return Ok(Vec::new());
    }
    let locked = async {
        connection.run(&format!("BEGIN; {LOOK}")).await?;
        connection.rows(SQL, &[]).await
    };
    let rows = locked.await;
    let rolled_back = connection.run("ROLLBACK").await;
    // What went wrong first says why, also when it took the session with it.
    let rows = rows?;
    rolled_back?;
    let applied = |row: &tokio_postgres::Row| Applied {
        version: row.get(0),
        name: row.get(1),
        applied_on: row.get(2),
        checksum: row.get(3),
    };
    Ok(rows.iter().map(applied).collect())
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
