//! What the log says when a session ends: who it was, where, and why. Never a statement, nor what a server said of one.

use std::net::IpAddr;

use crate::error::ClientError;
use crate::session::{Over, Session};

impl Session {
    /// Logs the end of a session, if it was not the client's own wish. An operator has to see by itself what a limit or a
    /// server did; that everybody goes when the router stops is said once for all.
    pub(super) fn log_end(&self, over: &Over, address: IpAddr) {
        let (user, tenant) = (self.me.user.as_str(), &self.me.tenant);
        let server = self.connection.as_ref().map(|connection| connection.place.server.name.as_str());
        match over {
            Over::Refused(ClientError::ShuttingDown) | Over::Goodbye | Over::Vanished => {
                tracing::debug!(user, %tenant, client = %address, server, ?over, "session ended");
            }
            // Its message is the server's, and may tell a value.
            Over::Refused(error @ ClientError::Setting { .. }) => {
                let sqlstate = error.sqlstate();
                tracing::info!(user, %tenant, client = %address, server, sqlstate, "session ended: a setting was refused");
            }
            Over::Refused(error) => {
                let sqlstate = error.sqlstate();
                tracing::info!(user, %tenant, client = %address, server, sqlstate, %error, "session ended");
            }
            Over::ServerSaidSo => {
                tracing::info!(user, %tenant, client = %address, server, "session ended by the server");
            }
        }
    }
}
