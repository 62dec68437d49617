//! Which sessions under a tenant's roles are this control plane's own: by the process that serves each at its server, which
//! nobody else can claim. A session's `application_name` says whatever its client likes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use shard_map::ServerName;

/// Processes that serve own sessions, by server.
#[derive(Default)]
pub(super) struct OwnSessions(Mutex<HashSet<(ServerName, i32)>>);

/// Marks a session as own for as long as it is kept.
pub(super) struct Mark {
    sessions: Arc<OwnSessions>,
    session: (ServerName, i32),
}

impl OwnSessions {
    pub(super) fn mark(self: &Arc<Self>, server: &ServerName, process: i32) -> Mark {
        let session = (server.clone(), process);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session.clone());
        Mark { sessions: self.clone(), session }
    }

    pub(super) fn has(&self, server: &ServerName, process: i32) -> bool {
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.contains(&(server.clone(), process))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut sessions = self.sessions.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.remove(&self.session);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_own_while_it_is_kept() {
        let sessions = Arc::new(OwnSessions::default());
        let [here, there] = ["here", "there"].map(|name| ServerName::new(name).unwrap());
        let mark = sessions.mark(&here, 7);
        assert!(sessions.has(&here, 7) && !sessions.has(&here, 8) && !sessions.has(&there, 7));
        drop(mark);
        assert!(!sessions.has(&here, 7));
    }
}
