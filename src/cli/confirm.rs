//! Asking before something is destroyed.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::cli::failure::{Exit, Failure};

/// Goes on when `--yes` was given, or a person at a terminal says so; fails otherwise.
pub(crate) fn confirm(yes: bool, what: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::usage(format!("{what} needs --yes when nobody can be asked"))
            .hint("add --yes to say that you mean it")
            .into());
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{what}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, "not confirmed: nothing was done").into())
}
