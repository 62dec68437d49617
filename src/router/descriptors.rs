//! File descriptors: every client and every server connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::RouterConfig;

/// Descriptors beside those of clients: server connections, files, the runtimes' own.
const OTHERS: u64 = 1000;

/// Takes as many as the system allows, and says so when these are not enough for what is configured.
pub(crate) fn raise(config: &RouterConfig) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed =
        if current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok() {
            maximum
        } else {
            current
        };
    let needed = config.clients_max as u64 + OTHERS;
    if let Some(allowed) = allowed.filter(|allowed| *allowed < needed) {
        tracing::warn!(
            allowed,
            needed,
            "too few file descriptors for clients_max: raise the limit (ulimit -n, LimitNOFILE=) or lower clients_max"
        );
    }
}
