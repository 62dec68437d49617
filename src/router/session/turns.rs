//! The circle in which a session turns, and where it leaves it.

use std::future::poll_fn;
use std::task::{Poll, ready};

use shard_map::PoolMode;
use wire::backend::TransactionStatus;

use crate::pool::ServerConnection;
use crate::session::{Need, Over, Session};

/// What a session waits for, other than bytes.
pub(super) enum Wait {
    /// A server connection, or this one made ready.
    Server,
    /// The end of a pause.
    Pause,
    /// The client's silence, after which it is sent away.
    Silence,
}

impl Session {
    /// Takes turns, until there is something else to wait for than bytes. Nothing of this is a future of its own, since
    /// each transaction comes by here.
    pub(super) async fn turns(&mut self) -> Result<Wait, Over> {
        let mut has_begun = false;
        poll_fn(|cx| {
            loop {
                if !has_begun && let Some(wait) = self.begin_turn()? {
                    return Poll::Ready(Ok(wait));
                }
                has_begun = true;
                ready!(self.poll_exchange(cx))?;
                self.replies()?;
                has_begun = false;
            }
        })
        .await
    }

    pub(super) async fn outlast(&mut self, wait: Wait) -> Result<(), Over> {
        match wait {
            Wait::Server => match self.attach().await {
                Err(Over::Refused(error)) if error.leaves_session() => self.refuse_request(&error),
                other => other,
            },
            Wait::Pause => self.outlast_pause().await,
            Wait::Silence => {
                self.last_exchange().await?;
                self.replies()
            }
        }
    }

    /// Does what can be done before there are more bytes; gives what else must be waited for.
    fn begin_turn(&mut self) -> Result<Option<Wait>, Over> {
        let need = self.requests()?;
        self.me.set_busy(!self.expected.is_empty(), &self.tenant.worker.clock);
        if need == Need::Server {
            return Ok(Some(Wait::Server));
        }
        if self.is_at_rest() {
            self.rest()?;
        }
        // A server that waits for the rest of a stretch, or of a COPY, will have no answer.
        let is_answered = self.expected.is_empty() && self.side.output.is_empty();
        if self.said_goodbye && (is_answered || self.unsynced || self.copying_in) {
            return Err(Over::Goodbye);
        }
        if need == Need::Answers && self.tenant.is_paused() && self.is_quiet() {
            return Ok(Some(Wait::Pause));
        }
        self.me.waiting.set(None);
        // What has come of a request already is a request on its way.
        if self.me.is_draining() && self.is_at_rest() && self.side.input.is_empty() {
            return Ok(Some(Wait::Silence));
        }
        self.side.rest(&self.tenant.worker.buffers);
        Ok(None)
    }

    /// Whether the client can go on with another connection: no state that it may rely on is on the one it has.
    pub(super) fn can_change_connection(&self) -> bool {
        self.mode == PoolMode::Transaction && self.is_quiet() && !self.state.is_pinned()
    }

    /// Whether the next transaction is to have another connection. One that this client waited for while the role that it
    /// gets became another is of the old role.
    pub(super) fn is_stale(&self, connection: &ServerConnection) -> bool {
        connection.generation != self.tenant.generation.get()
            || connection.access != self.tenant.granted(self.access)
    }

    /// Whether the server is at another address than the connection is to: a standby of it was promoted, and what is done at
    /// the old one would be lost.
    pub(super) fn is_left_behind(&self, connection: &ServerConnection) -> bool {
        connection.generation != self.tenant.generation.get()
            && self.tenant.place().is_some_and(|place| place.has_left(&connection.place))
    }

    /// Whether nothing is under way on the connection, if there is one.
    pub(super) fn is_at_rest(&self) -> bool {
        let connection_at_rest = self.connection.as_ref().is_none_or(|connection| {
            let side = &connection.side;
            side.pass == 0 && side.input.is_empty() && side.output.is_empty()
        });
        self.is_quiet() && connection_at_rest && self.side.pass == 0 && !self.skipping
    }

    /// Whether the next request begins a transaction.
    pub(super) fn is_quiet(&self) -> bool {
        self.expected.is_empty()
            && self.status == TransactionStatus::Idle
            && !self.unsynced
            && !self.copying_in
    }

    /// Between two transactions: gives the connection back, unless the client must keep it, and ends if it must.
    fn rest(&mut self) -> Result<(), Over> {
        if let Some(connection) = self.connection.take() {
            self.count_transaction(&connection);
            let pinned = self.state.is_pinned();
            let may_keep = !self.is_stale(&connection) && !self.tenant.is_held();
            if pinned || (self.mode == PoolMode::Session && may_keep) {
                self.connection = Some(connection);
                if !self.me.parked.replace(true) && self.tenant.is_held() {
                    self.tenant.settle();
                }
            } else {
                self.detach(connection);
            }
        }
        if let Some(error) = self.me.ending().or_else(|| self.tenant.refusal()) {
            return Err(error.into());
        }
        Ok(())
    }
}
