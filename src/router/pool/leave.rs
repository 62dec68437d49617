//! Leaves a server: its permit is given back when the server has let go of the connection, not when the router has.
//!
//! Postgres frees a connection's place before it closes the socket. Whoever connects in its stead after that finds room.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use wire::frontend;

use crate::pool::budget::Permit;
use crate::relay::{Buffers, Side, limited};
use crate::worker::Worker;

/// How long a server may take to let go. One that takes longer is stuck; what is counted then is a guess.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Says goodbye on a connection and waits for its end, in a task of its own.
pub(crate) fn leave(worker: &Rc<Worker>, mut side: Side, permit: Permit) {
    let mut goodbye = bytes::BytesMut::new();
    frontend::write_terminate(&mut goodbye);
    side.last_word(&goodbye);
    if worker.closing.get() {
        return;
    }
    let of_worker = worker.clone();
    worker.spawn(async move {
        let ended = limited(LEAVE_TIMEOUT, "leaving a server", end(&mut side, &of_worker.buffers));
        // Too late or with an error: the connection is at its end either way.
        drop(ended.await);
        drop(side);
        drop(permit);
    });
}

async fn end(side: &mut Side, buffers: &Buffers) -> io::Result<()> {
    while std::future::poll_fn(|cx| side.poll_read(buffers, cx)).await? > 0 {
        side.input.clear();
    }
    Ok(())
}

/// A connection that logs in. Given up at any point, it is left in order.
pub(crate) struct Entering {
    worker: Rc<Worker>,
    held: Option<(Side, Permit)>,
}

impl Entering {
    pub(crate) fn new(worker: &Rc<Worker>, side: Side, permit: Permit) -> Self {
        Self { worker: worker.clone(), held: Some((side, permit)) }
    }

    /// The connection, as long as it was not taken.
    pub(crate) fn side(&mut self) -> io::Result<&mut Side> {
        self.held.as_mut().map(|(side, _)| side).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Ends the guard: the login has succeeded.
    pub(crate) fn take(mut self) -> io::Result<(Side, Permit)> {
        self.held.take().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Entering {
    fn drop(&mut self) {
        if let Some((side, permit)) = self.held.take() {
            leave(&self.worker, side, permit);
        }
    }
}
