//! The migrations of a run: checked as a whole before anything runs, and kept with the run, so that a resumed run and
//! a new tenant get the very same text.

use refinery::Migration;
use serde::{Deserialize, Serialize};
use shard_map::Selector;

use super::script::{Fault, Script, TIMEOUT_MS_MAX};
use crate::error::{Error, Result};

/// One file, as uploaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// `V<number>__<name>.sql`.
    pub(crate) name: String,
    pub(crate) sql: String,
}

/// What a run was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Input {
    pub(crate) files: Vec<File>,
    #[serde(default)]
    pub(crate) selector: Selector,
    /// Tenants of the first wave.
    #[serde(default)]
    pub(crate) canary: u32,
    /// Shares of all tenants, in percent, that are done after each further wave.
    #[serde(default = "Input::default_waves")]
    pub(crate) waves: Vec<u32>,
    /// Tenants of one server that are migrated at once.
    #[serde(default = "Input::default_per_server")]
    pub(crate) per_server: usize,
    /// Failures after which no further tenant is begun.
    #[serde(default)]
    pub(crate) max_failures: usize,
    /// How long a migration may wait for a lock, before it gives way and tries again.
    #[serde(default = "Input::default_lock_timeout_ms")]
    pub(crate) lock_timeout_ms: u64,
    /// How long one statement may take.
    #[serde(default = "Input::default_statement_timeout_ms")]
    pub(crate) statement_timeout_ms: u64,
}

/// How long statements of a run may wait and take, where their file says nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) lock_timeout_ms: u64,
    pub(crate) statement_timeout_ms: u64,
}

impl Input {
    fn default_waves() -> Vec<u32> {
        vec![100]
    }

    fn default_per_server() -> usize {
        2
    }

    fn default_lock_timeout_ms() -> u64 {
        2_000
    }

    fn default_statement_timeout_ms() -> u64 {
        600_000
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits { lock_timeout_ms: self.lock_timeout_ms, statement_timeout_ms: self.statement_timeout_ms }
    }

    /// Checks what a type can't say.
    pub(crate) fn check(&self) -> Result<Migrations> {
        let waves_grow = self.waves.windows(2).all(|pair| pair[0] < pair[1]);
        if !waves_grow || self.waves.first() == Some(&0) || self.waves.last() != Some(&100) {
            return Err(Error::Usage(
                "waves: give growing shares that end with 100%, such as 1%,10%,100%".into(),
            ));
        }
        if self.per_server == 0 {
            return Err(Error::Usage("per_server: 0 is not allowed, use 1 or more".into()));
        }
        let limits =
            [("lock_timeout", self.lock_timeout_ms), ("statement_timeout", self.statement_timeout_ms)];
        if let Some((name, _)) = limits.iter().find(|(_, ms)| !(1..=TIMEOUT_MS_MAX).contains(ms)) {
            return Err(Error::Usage(format!(
                "{name}: use 1ms to 24d; without a limit it would wait for ever"
            )));
        }
        Migrations::check(&self.files)
    }
}

/// A file, understood.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// As it was uploaded.
    pub(crate) name: String,
    pub(crate) migration: Migration,
    pub(crate) script: Script,
    /// Why a new run must not begin with it.
    fault: Option<Fault>,
}

impl Step {
    pub(crate) fn version(&self) -> i32 {
        self.migration.version()
    }

    pub(crate) fn sql(&self) -> &str {
        self.migration.sql().unwrap_or_default()
    }

    /// A place in it, as compilers write it.
    pub(crate) fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.name)
    }
}

/// Migrations in the order of their versions.
#[derive(Debug, Clone)]
pub(crate) struct Migrations {
    pub(crate) steps: Vec<Step>,
    /// The same, as refinery takes them.
    pub(crate) list: Vec<Migration>,
}

impl Migrations {
    /// Reads files that a run was begun with.
    pub(crate) fn read(files: &[File]) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::Usage(
                "no migration files: name them V1__first.sql, V2__second.sql, …".into(),
            ));
        }
        let mut steps = files.iter().map(read_file).collect::<Result<Vec<_>>>()?;
        steps.sort_by_key(Step::version);
        if let Some(pair) = steps.windows(2).find(|pair| pair[0].version() == pair[1].version()) {
            let what = format!("has the same version as {}", pair[0].name);
            return Err(Error::Usage(pair[1].at(1, &what)));
        }
        let list = steps.iter().map(|step| step.migration.clone()).collect();
        Ok(Self { steps, list })
    }

    /// Reads files for a new run, and finds what contradicts itself.
    pub(crate) fn check(files: &[File]) -> Result<Self> {
        let read = Self::read(files)?;
        if let Some((step, fault)) = read.steps.iter().find_map(|step| Some((step, step.fault.as_ref()?))) {
            return Err(Error::Usage(step.at(fault.line, &fault.what)));
        }
        if let Some(pair) = read.steps.windows(2).find(|pair| pair[1].version() - pair[0].version() > 1) {
            let missing = format!("version {} is missing before it", pair[0].version() + 1);
            return Err(Error::Usage(pair[1].at(1, &missing)));
        }
        Ok(read)
    }

    /// The newest version.
    pub(crate) fn version(&self) -> i32 {
        self.steps.last().map_or(0, Step::version)
    }

    /// The file of a version.
    pub(crate) fn step(&self, version: i32) -> Option<&Step> {
        self.steps.iter().find(|step| step.version() == version)
    }
}

fn read_file(file: &File) -> Result<Step> {
    let wrong = |line: usize, what: &str| Error::Usage(format!("{}:{line}: {what}", file.name));
    let stem = file.name.strip_suffix(".sql").unwrap_or(&file.name);
    let migration = Migration::unapplied(stem, &file.sql)
        .map_err(|_| wrong(1, "not a migration's name, use V<number>__<name>.sql"))?;
    if stem.starts_with('U') {
        return Err(wrong(1, "only versioned (V…) migrations are run"));
    }
    if let Some(at) = file.sql.find('\0') {
        let line = super::script::line_of(&file.sql, at);
        return Err(wrong(line, "has a zero byte, which Postgres does not allow in SQL"));
    }
    let (script, fault) = match Script::read(&file.sql) {
        Ok(script) => (script, None),
        Err(fault) => (Script::default(), Some(fault)),
    };
    Ok(Step { name: file.name.clone(), migration, script, fault })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> File {
        File { name: name.to_owned(), sql: "SELECT 1".to_owned() }
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let migrations = Migrations::check(&[file("V10__b.sql"), file("V9__a.sql")]).unwrap();
        assert_eq!(migrations.version(), 10);
        assert_eq!(migrations.list[0].name(), "a");
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_file_and_line() {
        let refused = |files: &[File]| Migrations::check(files).unwrap_err().to_string();
        assert!(refused(&[]).contains("no migration files"));
        for (files, place) in [
            (vec![file("first.sql")], "first.sql:1: "),
            (vec![file("V1__a.sql"), file("V01__b.sql")], "V01__b.sql:1: has the same version as V1__a.sql"),
            (vec![file("V1__a.sql"), file("V3__c.sql")], "V3__c.sql:1: version 2 is missing"),
            (vec![file("U1__a.sql")], "U1__a.sql:1: "),
            (vec![File { name: "V1__a.sql".into(), sql: "SELECT 1;\nCOMMIT".into() }], "V1__a.sql:2: COMMIT"),
        ] {
            let why = refused(&files);
            assert!(why.starts_with(place), "{why}");
        }
    }

    #[test]
    fn what_a_run_was_begun_with_is_read_whatever_newer_rules_say() {
        assert!(Migrations::read(&[file("V1__a.sql"), file("V3__c.sql")]).is_ok());
    }
}
