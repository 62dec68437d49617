//! The files of a directory, read and checked before anything is sent: a fleet must not learn of a bad name half-way.

use std::collections::BTreeMap;
use std::path::Path;

use crate::cli::failure::Failure;

/// Largest migration file.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Reads the migrations of a directory, by version. Files that are not `.sql` (a README) are none of ours.
pub(super) fn read_dir(dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let unreadable =
        |path: &Path, why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", path.display()));
    // As all that is wrong with a file: with a line, so that editors find it.
    let unusable = |path: &Path, why: &str| Failure::usage(format!("{}:1: {why}", path.display()));
    let mut files = BTreeMap::new();
    for entry in
        std::fs::read_dir(dir).map_err(|error| Failure::usage(format!("{}: {error}", dir.display())))?
    {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let version = version_of(&name).ok_or_else(|| {
            unusable(
                &path,
                "is not a migration's name: write V<number>__<name>.sql, such as V3__add_index.sql",
            )
        })?;
        let size = path.metadata().map_err(|error| unreadable(&path, &error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(unusable(&path, "is over 16 MiB: load data apart from schema changes").into());
        }
        let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
        let sql = String::from_utf8(bytes).map_err(|error| {
            let valid = error.utf8_error().valid_up_to();
            let line = error.as_bytes().iter().take(valid).filter(|byte| **byte == b'\n').count() + 1;
            Failure::usage(format!("{}:{line}: is not UTF-8", path.display()))
        })?;
        if let Some((other, _)) = files.insert(version, (name.clone(), sql)) {
            return Err(unusable(&path, &format!("has the same version as {other}")).into());
        }
    }
    if files.is_empty() {
        let why = format!("{} has no files V<number>__<name>.sql", dir.display());
        return Err(Failure::usage(why).into());
    }
    Ok(files.into_values().collect())
}

/// The version in `V<number>__<name>.sql`.
fn version_of(name: &str) -> Option<u32> {
    let (number, rest) = name.strip_prefix('V')?.strip_suffix(".sql")?.split_once("__")?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let named = !rest.is_empty() && rest.chars().all(|c| c.is_alphanumeric() || "_-. ".contains(c));
    number.parse().ok().filter(|version| digits && named && *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::failure::Exit;

    #[test]
    fn names_carry_the_version() {
        assert_eq!(version_of("V12__add_index.sql"), Some(12));
        assert_eq!(version_of("V007__x.sql"), Some(7));
        for name in ["V__x.sql", "V1_x.sql", "V1__.sql", "v1__x.sql", "V0__x.sql", "V-1__x.sql", "1__x.sql"] {
            assert_eq!(version_of(name), None, "{name}");
        }
    }

    #[test]
    fn the_repositorys_own_migrations_are_read_in_order() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
        let names: Vec<_> = read_dir(&dir).unwrap().into_iter().map(|(name, _)| name).collect();
        let versions: Vec<_> = names.iter().map(|name| version_of(name).unwrap()).collect();
        assert!(versions.is_sorted() && versions[0] == 1, "{names:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_used_says_which_file_and_why() {
        let dir = std::env::temp_dir().join(format!("tenantry-migrate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let error = || {
            let error = read_dir(&dir).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Usage);
            error.to_string()
        };
        assert!(error().contains("has no files"));
        std::fs::write(dir.join("V1__a.sql"), "select 1").unwrap();
        std::fs::write(dir.join("README.md"), "notes").unwrap();
        assert_eq!(read_dir(&dir).unwrap().len(), 1);
        std::fs::write(dir.join("V01__b.sql"), "select 1").unwrap();
        assert!(error().contains("same version"));
        std::fs::remove_file(dir.join("V01__b.sql")).unwrap();
        std::fs::write(dir.join("V2__latin.sql"), b"select 1;\nselect '\xe9'").unwrap();
        assert!(error().contains("V2__latin.sql:2: is not UTF-8"));
        std::fs::write(dir.join("add.sql"), "select 1").unwrap();
        std::fs::remove_file(dir.join("V2__latin.sql")).unwrap();
        assert!(error().contains("add.sql:1: is not a migration's name"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
