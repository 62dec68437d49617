//! `DIR/env`: what a shell needs to use the fleet, as `export` lines to be sourced.

use std::path::Path;

use anyhow::Context as _;

use super::layout::write_private;

/// Names and values, in the order in which they are written.
pub(crate) type Variables = Vec<(String, String)>;

/// Writes the file; it holds passwords, so only its owner may read it.
pub(crate) fn write(path: &Path, variables: &Variables) -> anyhow::Result<()> {
    let lines = variables.iter().map(|(name, value)| format!("export {name}={}\n", quote(value)));
    write_private(path, &lines.collect::<String>())
}

/// Reads a file that [`write()`] wrote.
pub(crate) fn read(path: &Path) -> anyhow::Result<Variables> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(name, value)| (name.to_owned(), unquote(value)))
        .collect())
}

/// Quotes for any POSIX shell: between single quotes nothing is special but the quote itself.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

fn unquote(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\'')).unwrap_or(value);
    inner.replace(r"'\''", "'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_written() {
        let values = ["plain", "", "a b", "it's", "$(id) `id` \\ \"x\" !", "''", "*"];
        for value in values {
            assert_eq!(unquote(&quote(value)), value);
            let script = format!("V={}; printf %s \"$V\"", quote(value));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
        }
    }
}
