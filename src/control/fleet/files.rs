//! The migrations of a run: checked as a whole before anything runs, and kept with the run, so that a resumed run and
//! a new tenant get the very same text.

use refinery::Migration;
use serde::{Deserialize, Serialize};
use shard_map::Selector;

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
        if self.lock_timeout_ms == 0 {
            return Err(Error::Usage(
                "lock_timeout: 0 would wait for ever in front of the application, use 1ms or more".into(),
            ));
        }
        Migrations::check(&self.files)
    }
}

/// Migrations in the order of their versions.
#[derive(Debug, Clone)]
pub(crate) struct Migrations {
    pub(crate) list: Vec<Migration>,
}

impl Migrations {
    /// Reads all names and finds what contradicts itself.
    pub(crate) fn check(files: &[File]) -> Result<Self> {
        if files.is_empty() {
            return Err(Error::Usage(
                "no migration files: name them V1__first.sql, V2__second.sql, …".into(),
            ));
        }
        let mut list = Vec::with_capacity(files.len());
        for file in files {
            let stem = file.name.strip_suffix(".sql").unwrap_or(&file.name);
            let migration = Migration::unapplied(stem, &file.sql).map_err(|_| {
                Error::Usage(format!("{}: not a migration's name, use V<number>__<name>.sql", file.name))
            })?;
            if stem.starts_with('U') {
                return Err(Error::Usage(format!("{}: only versioned (V…) migrations are run", file.name)));
            }
            list.push(migration);
        }
        list.sort_by_key(Migration::version);
        if let Some(pair) = list.windows(2).find(|pair| pair[0].version() == pair[1].version()) {
            return Err(Error::Usage(format!("{} and {} have the same version", pair[0], pair[1])));
        }
        Ok(Self { list })
    }

    /// The newest version.
    pub(crate) fn version(&self) -> i32 {
        self.list.last().map_or(0, Migration::version)
    }
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
    fn what_contradicts_itself_is_refused() {
        assert!(Migrations::check(&[]).is_err());
        assert!(Migrations::check(&[file("first.sql")]).is_err());
        assert!(Migrations::check(&[file("V1__a.sql"), file("V1__b.sql")]).is_err());
        assert!(Migrations::check(&[file("U1__a.sql")]).is_err());
    }
}
