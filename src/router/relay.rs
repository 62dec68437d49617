//! One side of a relay: a socket, what has been read and not yet looked at, and what is to be written.
//!
//! Buffers are lent by the worker, and only while there is something in them: a waiting client has none. A side is read
//! only while the other takes what comes, so a large result passes through in pieces.

use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use wire::HEADER_BYTES;

use crate::stream::Stream;

/// What a read asks for.
const READ_BYTES: usize = 16 * 1024;
/// What a read asks for when the last one was full.
const READ_BYTES_BULK: usize = 64 * 1024;
/// With more than this to be written to one side, the other is not read.
pub(crate) const OUTPUT_BYTES_MAX: usize = 128 * 1024;
/// A buffer that grew beyond this is not kept.
const KEPT_BYTES_MAX: usize = 96 * 1024;
/// Buffers that a worker keeps.
const KEPT_MAX: usize = 64;

/// A worker's spare buffers.
#[derive(Default)]
pub(crate) struct Buffers {
    spare: RefCell<Vec<BytesMut>>,
    /// For what is read before it is decrypted; empty in between.
    cipher: RefCell<BytesMut>,
}

impl Buffers {
    fn take(&self) -> BytesMut {
        self.spare.borrow_mut().pop().unwrap_or_else(|| BytesMut::with_capacity(READ_BYTES))
    }

    /// Takes back a buffer whose contents are of no use any more.
    pub(crate) fn give(&self, mut buffer: BytesMut) {
        if buffer.capacity() == 0 {
            return;
        }
        buffer.clear();
        let mut kept = self.spare.borrow_mut();
        // What was split off an advanced buffer comes back with the next reserve.
        buffer.reserve(READ_BYTES);
        if kept.len() < KEPT_MAX && buffer.capacity() <= KEPT_BYTES_MAX {
            kept.push(buffer);
        }
    }
}

/// A socket with its buffers.
pub(crate) struct Side {
    stream: Stream,
    /// Read, and not yet dealt with.
    pub(crate) input: BytesMut,
    /// To be written.
    pub(crate) output: BytesMut,
    /// Bytes of the message being read that are forwarded as they come.
    pub(crate) pass: usize,
    /// Bytes of the message being read that are dropped as they come.
    pub(crate) skip: usize,
    /// The last message written is not whole: nothing of another may follow.
    pub(crate) is_open_ended: bool,
    /// The task that the socket wakes when there is more to read, by the address that its waker has; 0 when there is none.
    /// The socket keeps that waker until then, so no other task has the address meanwhile.
    awaiter: usize,
    bulk: bool,
}

impl Side {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            pass: 0,
            skip: 0,
            is_open_ended: false,
            awaiter: 0,
            bulk: false,
        }
    }

    /// Reads once into `input`; 0 is the end.
    #[inline]
    pub(crate) fn poll_read(&mut self, buffers: &Buffers, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // Most sockets have nothing, which they tell for less than a read that finds nothing costs. To have been told that
        // once is enough until there is something.
        if !self.stream.may_have_arrived() {
            if self.awaiter == cx.waker().data().addr() {
                return Poll::Pending;
            }
            ready!(self.poll_arrival(cx))?;
        }
        self.poll_read_arrived(buffers, cx)
    }

    fn poll_read_arrived(&mut self, buffers: &Buffers, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.awaiter = 0;
        if self.input.capacity() == 0 {
            self.input = buffers.take();
        }
        let wanted = if self.bulk { READ_BYTES_BULK } else { READ_BYTES };
        if self.input.capacity() - self.input.len() < wanted {
            self.input.reserve(wanted);
        }
        let room = self.input.capacity() - self.input.len();
        let outcome = if self.stream.channel().is_none() {
            self.stream.poll_read_plain(cx, &mut self.input)
        } else {
            let mut cipher = buffers.cipher.borrow_mut();
            cipher.reserve(READ_BYTES_BULK);
            self.stream.poll_read(cx, &mut self.input, &mut cipher)
        };
        if let Poll::Ready(Ok(count)) = outcome {
            // Through TLS, the room is no limit.
            self.bulk = count >= room;
        } else if self.input.is_empty() {
            buffers.give(std::mem::take(&mut self.input));
        }
        outcome
    }

    /// Has this task woken when there is something to read.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A task that has used up its budget is called again, and its waker is not kept.
        let is_kept = tokio::task::coop::has_budget_remaining();
        let outcome = self.stream.poll_read_ready(cx);
        if outcome.is_pending() && is_kept {
            self.awaiter = cx.waker().data().addr();
        }
        outcome
    }

    /// Writes as much of `output` as the socket takes; gives the number of bytes.
    pub(crate) fn poll_write(&mut self, buffers: &Buffers, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut written = 0;
        while !self.output.is_empty() {
            match self.stream.poll_write(cx, &self.output) {
                Poll::Ready(Ok(count)) => {
                    if count == self.output.len() {
                        // Unlike advancing, this leaves the buffer all its room.
                        self.output.clear();
                    } else {
                        self.output.advance(count);
                    }
                    written += count;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.output.capacity() > 0 {
            buffers.give(std::mem::take(&mut self.output));
        }
        Poll::Ready(Ok(written))
    }

    /// A buffer for output that is about to be written.
    pub(crate) fn out(&mut self, buffers: &Buffers) -> &mut BytesMut {
        if self.output.capacity() == 0 {
            self.output = buffers.take();
        }
        &mut self.output
    }

    /// Gives back empty buffers.
    pub(crate) fn rest(&mut self, buffers: &Buffers) {
        for buffer in [&mut self.input, &mut self.output] {
            if buffer.is_empty() && buffer.capacity() > 0 {
                buffers.give(std::mem::take(buffer));
            }
        }
    }

    /// Takes what has arrived without waiting, for a connection that nobody watches; `Ok(0)` when nothing has.
    pub(crate) fn take_arrived(&mut self, buffers: &Buffers) -> io::Result<usize> {
        if !self.stream.may_have_arrived() {
            return Ok(0);
        }
        match self.poll_read(buffers, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Ok(0),
        }
    }

    /// Writes a few bytes if the socket takes them at once, and nothing any more.
    pub(crate) fn last_word(&mut self, bytes: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        // If it does not, the peer finds out by the end of the connection.
        if self.output.is_empty() && !self.is_open_ended {
            let _ = self.stream.poll_write(&mut cx, bytes);
        }
        let _ = self.stream.poll_shutdown(&mut cx);
    }

    /// Whether it is a connection with TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.stream.channel().is_some()
    }

    /// What a password exchange can be bound to, when the other end showed a certificate that allows it.
    pub(crate) fn end_point(&self) -> Option<Box<[u8]>> {
        crate::tls::end_point(self.stream.channel()?.peer_certificate()?)
    }

    /// Says that this is the end, if the socket takes it at once.
    pub(crate) fn close(&mut self) {
        self.stream.close();
    }

    pub(crate) fn peer(&self) -> io::Result<std::net::SocketAddr> {
        self.stream.peer()
    }

    /// Writes all of `output`.
    pub(crate) async fn flush(&mut self, buffers: &Buffers) -> io::Result<()> {
        while !self.output.is_empty() {
            std::future::poll_fn(|cx| self.poll_write(buffers, cx)).await?;
        }
        Ok(())
    }

    /// Reads a whole message of at most `max` bytes: for a conversation that the router itself has.
    pub(crate) async fn message(&mut self, buffers: &Buffers, max: usize) -> io::Result<(u8, Bytes)> {
        loop {
            let header = wire::header(&self.input, max).map_err(io::Error::other)?;
            if let Some(header) = header.filter(|header| self.input.len() >= header.total()) {
                let mut message = self.input.split_to(header.total());
                message.advance(HEADER_BYTES);
                return Ok((header.tag, message.freeze()));
            }
            if std::future::poll_fn(|cx| self.poll_read(buffers, cx)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Moves the first `count` bytes of `input` to the end of `output`; without a copy, if it is all there is.
pub(crate) fn forward(input: &mut BytesMut, count: usize, to: &mut Side, buffers: &Buffers) {
    if count == 0 {
        return;
    }
    if to.output.is_empty() && count == input.len() {
        std::mem::swap(input, &mut to.output);
        input.clear();
    } else {
        to.out(buffers).extend_from_slice(&input[..count]);
        input.advance(count);
    }
}

/// Runs a future for at most this time.
pub(crate) async fn limited<T>(
    time: Duration,
    what: &'static str,
    future: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let future = pin!(future);
    tokio::time::timeout(time, future).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} took longer than {time:?}")))
    })
}
