//! What can go wrong with the catalog, and whose fault it is.

/// Result of a catalog call.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the catalog.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It does not answer, or not in time. Try again.
    #[error("the catalog can't be reached: {0}")]
    Unreachable(String),
    /// What was asked for contradicts what is there. The message says what.
    #[error("{0}")]
    Conflict(String),
    /// No such thing.
    #[error("{0}")]
    NotFound(String),
    /// The caller's lease is over: another controller leads.
    #[error("another control-plane instance leads now")]
    LeaseLost,
    /// The operation is not open any more: something else than its driver has ended it.
    #[error("operation {0} was ended by somebody else")]
    Ended(i64),
    /// The catalog's map is older than the one that the caller has: it was lost, or restored from a backup.
    #[error("the catalog's map is at version {version}, behind {known}: tenantry map rebuild sets it right")]
    Behind {
        /// The catalog's version.
        version: i64,
        /// The caller's.
        known: i64,
    },
    /// The URL can't be read.
    #[error("catalog_url: {0}")]
    Url(String),
    /// A query failed at the server; a defect, or a catalog that was tampered with.
    #[error("catalog query {name}: {message}")]
    Query {
        /// The query's name.
        name: &'static str,
        /// What Postgres said.
        message: String,
        /// Its SQLSTATE, when it came from the server.
        sqlstate: Option<String>,
    },
    /// A migration of the catalog failed.
    #[error("catalog migration: {0}")]
    Migration(String),
}

impl Error {
    pub(crate) fn from_query(name: &'static str, error: &tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Class 57 and 53: shut down, starting, out of connections; 25006: a standby, by now or still; 40: given up
            // for another transaction's sake (a deadlock).
            Some(db)
                if matches!(db.code().code().get(..2), Some("57" | "53" | "40"))
                    || db.code().code() == "25006" =>
            {
                Self::Unreachable(db.message().to_owned())
            }
            Some(db) => Self::Query {
                name,
                message: db.message().to_owned(),
                sqlstate: Some(db.code().code().to_owned()),
            },
            None if error.is_closed() || error.to_string().contains("communicating") => {
                Self::Unreachable(error.to_string())
            }
            None => Self::Query { name, message: with_source(error), sqlstate: None },
        }
    }

    /// Whether it broke a unique index.
    pub(crate) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Query { sqlstate: Some(state), .. } if state == "23505")
    }
}

/// tokio-postgres prints only its own half of an error; the other half is its source.
fn with_source(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
