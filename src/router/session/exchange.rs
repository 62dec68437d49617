//! Moves bytes between the sockets and the session's buffers until there is something to look at.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::ClientError;
use crate::relay::OUTPUT_BYTES_MAX;
use crate::session::{Over, Session};
use crate::stats::Figure;
use crate::worker::Worker;

/// Input of a client that is kept before the server has taken what came earlier.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// How long a client of a router that drains must be silent between two transactions, so that it loses no request by
/// being sent away: more than it takes from one answer to the next request of a busy one.
const SILENCE: Duration = Duration::from_millis(100);

impl Session {
    /// Waits for progress on either side.
    pub(super) async fn exchange(&mut self) -> Result<(), Over> {
        self.side.rest(&self.tenant.worker.buffers);
        poll_fn(|cx| self.poll_exchange(cx)).await
    }

    /// The same for a client that is to leave as soon as it is silent.
    pub(super) async fn last_exchange(&mut self) -> Result<(), Over> {
        let silent = tokio::time::timeout(SILENCE, self.exchange()).await;
        silent.unwrap_or(Err(ClientError::ShuttingDown.into()))
    }

    pub(super) fn poll_exchange(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Over>> {
        let mut progress = self.me.was_woken();
        if progress {
            self.tenant.worker.clock.look();
        }
        progress |= self.poll_server(cx);
        if progress && self.side.output.is_empty() {
            // What came is to be looked at first: there may be something to write then.
            return Poll::Ready(Ok(()));
        }
        let Worker { buffers, metrics, clock, .. } = &*self.tenant.worker;
        if !self.side.output.is_empty() {
            match self.side.poll_write(buffers, cx) {
                Poll::Ready(Ok(count)) => {
                    metrics.bytes_out.inc_by(count as u64);
                    self.tenant.counters.add(Figure::BytesOut, count as u64);
                    let last_word = self.side.output.is_empty() && (self.said_goodbye || self.server_said_so);
                    progress |= last_word || count >= OUTPUT_BYTES_MAX;
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Over::Vanished)),
                Poll::Pending => {}
            }
        }
        let server_takes =
            self.connection.as_ref().is_none_or(|connection| connection.side.output.len() < OUTPUT_BYTES_MAX);
        let wanted = self.wanted.max(INPUT_BYTES_MAX);
        // Answers that are made here pile up, too, for a client that does not read.
        let client_takes = self.side.output.len() < OUTPUT_BYTES_MAX;
        let may_read = server_takes && client_takes && !self.said_goodbye;
        if may_read && self.side.input.len() < wanted {
            match self.side.poll_read(buffers, cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Over::Vanished)),
                Poll::Ready(Ok(count)) => {
                    clock.look();
                    metrics.bytes_in.inc_by(count as u64);
                    self.tenant.counters.add(Figure::BytesIn, count as u64);
                    progress = true;
                }
                Poll::Pending => {}
            }
        }
        if progress { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_server(&mut self, cx: &mut Context<'_>) -> bool {
        let is_left_behind =
            self.connection.as_ref().is_some_and(|connection| self.is_left_behind(connection));
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let Worker { buffers, clock, .. } = &*self.tenant.worker;
        let mut progress = false;
        if is_left_behind && !self.server_gone {
            connection.side.output.clear();
            self.server_gone = true;
            return true;
        }
        if !connection.side.output.is_empty() {
            self.stretch.leaves();
            match connection.side.poll_write(buffers, cx) {
                // Who waits for room goes on.
                Poll::Ready(Ok(_)) => {
                    progress = connection.side.output.is_empty() && !self.side.input.is_empty();
                }
                // What it said before it closed is still to be read.
                Poll::Ready(Err(_)) => connection.side.output.clear(),
                Poll::Pending => {}
            }
        }
        let may_read = self.side.output.len() < OUTPUT_BYTES_MAX && !self.server_gone;
        if may_read {
            match connection.side.poll_read(buffers, cx) {
                Poll::Ready(Ok(0) | Err(_)) => {
                    self.server_gone = true;
                    progress = true;
                }
                Poll::Ready(Ok(_)) => {
                    clock.look();
                    progress = true;
                }
                Poll::Pending => {}
            }
        }
        progress
    }
}
