//! How a command fails: one line, a hint where there is one, and an exit status that scripts can rely on.
//!
//! Commands return `anyhow::Error`; those that know more than "it failed" put a [`Failure`] into it, which `main` finds
//! again under whatever context was added on the way.

use std::fmt;

/// The exit status, a contract with callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was tried and failed.
    Failed = 1,
    /// The command line or a file it names is wrong; nothing was tried.
    Usage = 2,
    /// No such thing.
    NotFound = 3,
    /// A guard refused, or it contradicts what is there.
    Refused = 4,
    /// The control plane or its catalog can't be reached.
    Unreachable = 5,
}

/// A failure with its exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None }
    }

    /// It was tried and failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// What the caller asked for is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit status of an error, and what is printed about it.
pub(crate) fn describe(error: &anyhow::Error) -> (u8, String) {
    let failure = error.downcast_ref::<Failure>();
    let mut text = format!("error: {}", one_line(&format!("{error:#}")));
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_deref()) {
        text.push_str("\nhint: ");
        text.push_str(&one_line(hint));
    }
    (failure.map_or(Exit::Failed, |failure| failure.exit) as u8, text)
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_failure_keeps_its_status_and_hint_under_context() {
        let error: anyhow::Result<()> =
            Err(Failure::new(Exit::Refused, "it moves").hint("wait\nor abort").into());
        let error = error.context("tenant acme").unwrap_err();
        assert_eq!(describe(&error), (4, "error: tenant acme: it moves\nhint: wait; or abort".to_owned()));
    }

    #[test]
    fn any_other_error_is_one_line_and_status_1() {
        let error = anyhow::anyhow!("first\n  second\n");
        assert_eq!(describe(&error), (1, "error: first; second".to_owned()));
    }
}
