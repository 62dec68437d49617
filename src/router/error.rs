//! What a client may be told, and whose fault it is. Nothing else of an error reaches a client.

use std::time::Duration;

use bytes::BytesMut;
use shard_map::Refusal;
use wire::scram::ScramError;
use wire::{ErrorFields, Severity, WireError};

/// Why a client is refused, or its session or transaction ends, when the reason is the router's to tell.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// The client's fault.
    #[error("{0}")]
    Protocol(#[from] WireError),
    #[error("{0}")]
    ProtocolOrder(&'static str),
    #[error("no user name in the startup packet")]
    NoUser,
    #[error("password authentication failed for user \"{0}\"")]
    Password(String),
    #[error("certificate authentication failed for user \"{0}\"")]
    Certificate(String),
    #[error("{0}")]
    ChannelBinding(ScramError),
    #[error("the router takes connections with TLS only (tls_mode)")]
    TlsRequired,
    #[error("database \"{0}\" does not exist")]
    NoTenant(String),
    #[error("replication through a router is not supported")]
    Replication,
    #[error("startup option {0} is not supported by the router")]
    Option(String),
    #[error("startup option {0} requires a value")]
    OptionValue(String),
    /// A limit that an operator set.
    #[error("too many clients{whose} already ({key} = {max})")]
    TooManyClients { key: &'static str, whose: &'static str, max: usize },
    #[error("too many failed logins from this address (login_failures_per_address_max = {max} a minute)")]
    TooManyFailures { max: u32 },
    #[error("too many clients of this tenant and those beside it on its worker already: {0} at most")]
    WorkerFull(u32),
    #[error("the console has {0} sessions already")]
    ConsoleFull(usize),
    #[error("a message of {length} bytes is too long (message_bytes_max = {max})")]
    MessageTooLong { length: usize, max: usize },
    #[error("too many prepared statements (prepared_per_client_max = {0})")]
    TooManyStatements(usize),
    #[error(
        "the prepared statements of this database are too long together (prepared_bytes_per_tenant_max = {0})"
    )]
    StatementsTooLong(usize),
    #[error("a role that all users of this access share can't be changed through the router")]
    SharedRole,
    #[error("the router has no file descriptor left for a server connection (ulimit -n)")]
    NoDescriptor,
    #[error("no server connection became free within {0:?}")]
    QueueTimeout(Duration),
    #[error("too many transactions of this database wait already")]
    QueueFull,
    #[error("login took longer than login_timeout = {0:?}")]
    LoginTimeout(Duration),
    #[error("canceling statement because it took longer than query_timeout = {0:?}")]
    QueryTimeout(Duration),
    #[error("terminating connection because its transaction took longer than transaction_timeout = {0:?}")]
    TransactionTimeout(Duration),
    #[error(
        "terminating connection because it was idle in a transaction for longer than idle_transaction_timeout = {0:?}"
    )]
    IdleTransaction(Duration),
    #[error("database \"{0}\" is larger than its quota allows and can only be read")]
    OverSize(String),
    /// The operator's doing.
    #[error("database \"{0}\" is suspended")]
    Suspended(String),
    #[error("database \"{0}\" is being created")]
    Creating(String),
    #[error("terminating connection: the router is shutting down")]
    ShuttingDown,
    #[error("terminating connection: user \"{0}\" was dropped")]
    UserDropped(String),
    #[error("terminating connection due to administrator command")]
    Killed,
    /// A failure behind the router.
    #[error("the database is not in the router's shard map, and the catalog can't be reached")]
    NoMap,
    #[error("the server of database \"{0}\" is not known to the router")]
    NoServer(String),
    #[error("the server of database \"{0}\" can't be reached")]
    ServerDown(String),
    #[error("the server of database \"{0}\" is starting up")]
    ServerStarting(String),
    #[error("the server of database \"{0}\" refused the router's login")]
    ServerLogin(String),
    #[error("the connection to the server was lost")]
    ServerLost,
    #[error("the connection to the server was lost while a transaction was being committed")]
    CommitUnknown,
    /// A setting of the client that a server refused: what it said.
    #[error("{message}")]
    Setting { code: String, message: String },
}

impl ClientError {
    pub(crate) fn sqlstate(&self) -> &str {
        match self {
            Self::Protocol(error) => error.sqlstate(),
            Self::ProtocolOrder(_) => "08P01",
            Self::NoUser | Self::Certificate(_) | Self::ChannelBinding(_) | Self::TlsRequired => "28000",
            Self::Password(_) => "28P01",
            Self::NoTenant(_) => "3D000",
            Self::OptionValue(_) => "42601",
            Self::Replication | Self::Option(_) => "0A000",
            Self::TooManyClients { .. }
            | Self::WorkerFull(_)
            | Self::ConsoleFull(_)
            | Self::QueueTimeout(_)
            | Self::QueueFull => "53300",
            Self::TooManyFailures { .. } => "53400",
            Self::MessageTooLong { .. } | Self::TooManyStatements(_) | Self::StatementsTooLong(_) => "54000",
            Self::LoginTimeout(_) => "57P05",
            Self::QueryTimeout(_) => "57014",
            Self::TransactionTimeout(_) => "25P04",
            Self::IdleTransaction(_) => "25P03",
            Self::ShuttingDown | Self::UserDropped(_) | Self::Killed => "57P01",
            Self::Suspended(_)
            | Self::Creating(_)
            | Self::NoMap
            | Self::NoServer(_)
            | Self::ServerDown(_)
            | Self::ServerStarting(_)
            | Self::ServerLogin(_) => "57P03",
            Self::SharedRole => "42501",
            Self::NoDescriptor => "53000",
            Self::OverSize(_) => "53100",
            Self::ServerLost => "08006",
            Self::CommitUnknown => "08007",
            Self::Setting { code, .. } => code,
        }
    }

    /// The key in the configuration of the limit that was hit, if one was.
    pub(crate) fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::TooManyClients { key, .. } => key,
            Self::TooManyFailures { .. } => "login_failures_per_address_max",
            Self::MessageTooLong { .. } => "message_bytes_max",
            Self::TooManyStatements(_) => "prepared_per_client_max",
            Self::StatementsTooLong(_) => "prepared_bytes_per_tenant_max",
            Self::QueueTimeout(_) => "queue_timeout",
            Self::QueueFull => "queue_max",
            Self::LoginTimeout(_) => "login_timeout",
            Self::QueryTimeout(_) => "query_timeout",
            Self::OverSize(_) => "size",
            Self::TransactionTimeout(_) => "transaction_timeout",
            Self::IdleTransaction(_) => "idle_transaction_timeout",
            _ => return None,
        })
    }

    pub(crate) fn refusal(refusal: Refusal, tenant: &str) -> Self {
        let tenant = tenant.to_owned();
        match refusal {
            Refusal::UnknownTenant | Refusal::Deleted => Self::NoTenant(tenant),
            Refusal::Creating => Self::Creating(tenant),
            Refusal::Suspended => Self::Suspended(tenant),
            Refusal::UnknownServer => Self::NoServer(tenant),
        }
    }

    /// Whether the session may go on after it, its transaction refused.
    pub(crate) fn leaves_session(&self) -> bool {
        matches!(
            self,
            Self::QueueTimeout(_)
                | Self::QueueFull
                | Self::NoDescriptor
                | Self::ServerDown(_)
                | Self::ServerStarting(_)
                | Self::NoServer(_)
        )
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::TooManyFailures { .. } => {
                Some("Wait a minute, and look for a client with a wrong password.")
            }
            Self::ServerDown(_) | Self::ServerStarting(_) | Self::NoMap => Some("Try again later."),
            Self::TooManyStatements(_) | Self::StatementsTooLong(_) => {
                Some("Close statements that are not used.")
            }
            Self::SharedRole => Some(
                "A user's password is set by `tenantry user passwd`, a setting with SET in the session; DROP SCHEMA drops what is in one.",
            ),
            Self::WorkerFull(_) => Some("A router with fewer workers takes more clients on each."),
            Self::OverSize(_) => {
                Some("Ask the operator for more room, or for time to delete what is not needed.")
            }
            Self::CommitUnknown => Some("Whether the transaction was committed is not known."),
            _ => None,
        }
    }

    pub(crate) fn write(&self, out: &mut BytesMut, severity: Severity) {
        let message = self.to_string();
        let fields = ErrorFields {
            severity: severity.as_str(),
            code: self.sqlstate(),
            message: &message,
            detail: None,
            hint: self.hint(),
            routine: None,
        };
        fields.write_error(out);
    }
}

/// Why the router itself can't start or go on. The operator's to read.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// A value in the configuration.
    #[error(transparent)]
    Config(#[from] crate::config::InvalidConfig),
    /// An address that can't be listened on.
    #[error("{key} {address}: {source}")]
    Listen {
        /// The configuration's key.
        key: &'static str,
        /// The address.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// A thread or runtime that can't be made.
    #[error("can't start a worker: {0}")]
    Worker(std::io::Error),
    /// The metrics of two routers in one registry.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A file that TLS is to be made with.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The catalog's URL.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_the_sqlstate_that_the_map_gives_them() {
        for refusal in [
            Refusal::UnknownTenant,
            Refusal::Creating,
            Refusal::Suspended,
            Refusal::Deleted,
            Refusal::UnknownServer,
        ] {
            assert_eq!(ClientError::refusal(refusal, "x").sqlstate(), refusal.sqlstate());
        }
    }
}
