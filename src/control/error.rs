//! What can go wrong in the control plane: whose fault it is, and whether trying again may help.

/// Result of control-plane work.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller asked for something that can't be meant.
    #[error("{0}")]
    Usage(String),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// A guard refuses. `hint` says what to do.
    #[error("{message}")]
    Refused {
        /// What is refused, and why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Another instance leads, or none does yet. Ask that one, or try again.
    #[error("this control-plane instance does not lead now")]
    NotLeading,
    /// A managed server does not answer. Try again.
    #[error("server {server} can't be reached: {message}")]
    ServerUnreachable {
        /// The server's name.
        server: String,
        /// What the driver said.
        message: String,
    },
    /// A statement failed on a managed server.
    #[error("server {server}: {message} (SQLSTATE {sqlstate})")]
    Statement {
        /// The server's name.
        server: String,
        /// What Postgres said.
        message: String,
        /// Its code.
        sqlstate: String,
    },
    /// Another process that does a part of the work failed or is missing.
    #[error("{0}")]
    Program(String),
    /// A wait took longer than it may. The text names the wait.
    #[error("{0}")]
    Timeout(String),
    /// The work can't go on, and trying again would not help.
    #[error("{0}")]
    Failed(String),
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// A file or socket of this process.
    #[error("{what}: {source}")]
    Io {
        /// Which one.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// A refusal with a remedy.
    pub(crate) fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Refused { message: message.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn on_server(server: &str, error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => Self::Statement {
                server: server.to_owned(),
                message: match db.detail() {
                    Some(detail) => format!("{} ({detail})", db.message()),
                    None => db.message().to_owned(),
                },
                sqlstate: db.code().code().to_owned(),
            },
            None => Self::ServerUnreachable {
                server: server.to_owned(),
                message: std::error::Error::source(error)
                    .map_or_else(|| error.to_string(), ToString::to_string),
            },
        }
    }

    /// Whether the catalog does not answer.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Catalog(catalog::Error::Unreachable(_)))
    }

    /// Whether a guard refused, or it contradicts what is there.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Catalog(catalog::Error::Conflict(_)))
    }

    /// The SQLSTATE, if a server gave one.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Statement { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }

    /// Whether the same work may succeed later without anybody doing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            // A program's complaint is text: a server that was away for a moment can't be told from worse.
            Self::ServerUnreachable { .. } | Self::Timeout(_) | Self::Program(_) => true,
            Self::Catalog(error) => matches!(error, catalog::Error::Unreachable(_)),
            // Lock not available, deadlock, serialization failure, object in use, too many connections, shutting
            // down or starting, cancelled by a time limit. And two that change one row of a system catalog at once: that is
            // an internal error, told apart by its text.
            Self::Statement { sqlstate, message, .. } => {
                matches!(sqlstate.as_str(), "55P03" | "40P01" | "40001" | "55006" | "53300" | "57014")
                    || sqlstate.starts_with("57P")
                    || (sqlstate == "XX000" && message.starts_with("tuple concurrently "))
            }
            _ => false,
        }
    }

    /// Whether the work is this instance's no more, which must stop it without touching anything: another one leads now, or
    /// something else has ended the operation.
    pub(crate) fn must_stop(&self) -> bool {
        matches!(self, Self::Catalog(catalog::Error::LeaseLost | catalog::Error::Ended(_)))
            || self.sqlstate() == Some("TT001")
    }
}
