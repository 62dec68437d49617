//! Connections to registries that are kept for the next who needs one: a login costs a server process and a proof of the
//! password, which is longer than to claim a prepared database takes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use shard_map::{Server, ServerName};

use super::Connection;

/// Kept for each server.
const PER_SERVER_MAX: usize = 4;

/// Idle connections, by server and address.
#[derive(Default)]
pub(super) struct Warm(Mutex<HashMap<(ServerName, String), Vec<Connection>>>);

impl Warm {
    /// One that is not known to be broken.
    pub(super) fn take(&self, server: &Server) -> Option<Connection> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(&(server.name.clone(), server.address()))?;
        kept.retain(Connection::is_open);
        kept.pop()
    }

    /// Keeps one; others of the server at another address are closed.
    pub(super) fn put(&self, server: &Server, connection: Connection) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (server.name.clone(), server.address());
        idle.retain(|(name, address), _| *name != key.0 || *address == key.1);
        let kept = idle.entry(key).or_default();
        kept.retain(Connection::is_open);
        if kept.len() < PER_SERVER_MAX {
            kept.push(connection);
        }
    }
}
