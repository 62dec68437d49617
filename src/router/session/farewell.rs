//! What the log says when a session ends: who it was, where, and why. Never a statement, nor what a server said of one.

use std::net::IpAddr;
use std::time::Duration;

use wire::Severity;

use crate::error::ClientError;
use crate::relay::limited;
use crate::session::{NewClient, Over, Session};

/// How long a client that is not taken may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends a client away that has logged in, and for which there is no session.
pub(crate) async fn refuse(new: Box<NewClient>, error: ClientError) {
    let NewClient { mut stream, mut greeting, place, .. } = *new;
    error.write(&mut greeting, Severity::Fatal);
    drop(limited(REFUSAL_TIMEOUT, "a refusal", stream.write_all(&greeting)).await);
    stream.close();
    drop(place);
}

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
