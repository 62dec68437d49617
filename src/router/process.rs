//! What a router needs of the process that it runs in, beside its configuration.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::config::RouterConfig;

/// Changes what is logged, or says why it can't.
type SetLogFilter = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What the process does for the router that runs in it.
pub struct Process {
    /// The port for clients, if somebody else opened it and keeps it open.
    pub listener: Option<std::net::TcpListener>,
    /// Told when the configuration is to be read again.
    pub reload: Arc<Notify>,
    /// Reads the configuration again, or says what is wrong with it.
    pub read_config: Box<dyn Fn() -> Result<RouterConfig, String> + Send + Sync>,
    /// Changes what is logged, or says why it can't.
    pub set_log_filter: SetLogFilter,
}
