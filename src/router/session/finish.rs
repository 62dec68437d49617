//! The end of a session: its last word, and what becomes of the connection that it has.

use std::time::Duration;

use shard_map::PoolMode;
use wire::Severity;
use wire::backend::TransactionStatus;
use wire::sql::Pins;

use crate::cancel::cancel;
use crate::pool::{ServerConnection, reset};
use crate::relay::limited;
use crate::session::{Over, Session};

/// How long a client may take to read why its session ends, and a server to take the last requests.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

impl Session {
    /// Says the last word and leaves the connection as it can be left.
    pub(super) async fn finish(&mut self, over: Over) {
        let worker = self.tenant.worker.clone();
        worker.clock.look();
        if let Over::Refused(error) = &over {
            self.tenant.count_refusal(error);
            // Not into the middle of a message, of which the client has a part.
            let is_within = self.connection.as_ref().is_some_and(|connection| connection.side.pass > 0);
            if !is_within && !self.is_cut {
                error.write(self.side.out(&worker.buffers), Severity::Fatal);
            }
        }
        if let Some(mut connection) = self.connection.take() {
            self.me.set_target(None);
            self.count_transaction(&connection);
            // A goodbye would be taken for the rest of a message that the client has not sent whole.
            connection.side.is_open_ended = self.side.pass > 0;
            if self.is_left_behind(&connection) {
                self.tenant.discard(connection);
            } else if matches!(over, Over::Goodbye) && (!self.expected.is_empty() || self.unsynced) {
                // Whatever is complete is to be done, and nothing else: the goodbye goes on, behind it.
                let flushed = connection.side.flush(&worker.buffers);
                drop(limited(LAST_WORD_TIMEOUT, "the last requests", flushed).await);
                self.tenant.discard(connection);
            } else if !self.expected.is_empty() {
                worker
                    .spawn_to_end(cancel(connection.cancel.clone(), worker.shared.config().connect_timeout));
                self.tenant.discard(connection);
            } else if self.can_clean(&connection) {
                let in_transaction = self.status != TransactionStatus::Idle;
                // In session mode, functions may have left state that no text shows.
                let discard = self.state.is_pinned() || self.mode == PoolMode::Session;
                if reset::clean(&mut connection, &worker.buffers, in_transaction, discard).await {
                    worker.clock.look();
                    self.tenant.release(connection);
                } else {
                    self.tenant.discard(connection);
                }
            } else {
                self.tenant.discard(connection);
            }
        }
        if !matches!(over, Over::Vanished) {
            // A client that does not take it finds the connection closed.
            drop(limited(LAST_WORD_TIMEOUT, "the last word", self.side.flush(&worker.buffers)).await);
        }
        self.side.close();
        self.side.input.clear();
        self.side.output.clear();
        self.side.rest(&worker.buffers);
    }

    /// Whether the connection of a client that leaves can be cleaned for another.
    fn can_clean(&self, connection: &ServerConnection) -> bool {
        let mut lasting = self.state.pins;
        lasting.subtract(Pins::DISCARDED);
        let side = &connection.side;
        lasting.is_empty()
            && !self.server_gone
            && !self.server_said_so
            && !self.copying_in
            && !self.skipping
            && !self.unsynced
            && self.side.pass == 0
            && side.pass == 0
            && side.input.is_empty()
            && side.output.is_empty()
    }
}
