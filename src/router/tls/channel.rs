//! A TLS session on a socket, without a buffer of its own for what it hands on.
//!
//! What is read is decrypted into the reader's buffer at once, so nothing stays inside: a socket that is not readable
//! has nothing for the reader. What is written counts as written when the socket has it: until then it stays in the
//! writer's buffer, which is the one that is bounded.

use std::io::{self, BufRead as _, IoSlice, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::BytesMut;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::io::poll_read_buf;

/// Room for what is read during a handshake.
const HANDSHAKE_READ_BYTES: usize = 4096;

/// One end of a TLS session.
pub(crate) struct Channel {
    session: Connection,
    /// How much at the head of what is to be written has been encrypted, and is not all with the socket yet.
    taken: usize,
    /// The peer will send no more.
    ended: bool,
}

impl Channel {
    /// The end that is connected to.
    pub(super) fn accepting(config: Arc<ServerConfig>) -> io::Result<Self> {
        ServerConnection::new(config).map(|session| Self::new(session.into())).map_err(io::Error::other)
    }

    /// The end that connects.
    pub(super) fn connecting(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        ClientConnection::new(config, name).map(|session| Self::new(session.into())).map_err(io::Error::other)
    }

    fn new(session: Connection) -> Self {
        Self { session, taken: 0, ended: false }
    }

    /// Makes the handshake, beginning with what `input` holds. What the peer sent right behind it is there afterwards.
    /// A step of it may take a millisecond of computing: with `turns`, one at a time, and others of the thread's tasks in
    /// between.
    pub(crate) async fn handshake(
        &mut self,
        socket: &mut TcpStream,
        input: &mut BytesMut,
        turns: Option<&Semaphore>,
    ) -> io::Result<()> {
        let mut received = input.split();
        loop {
            let turn = match turns {
                Some(turns) => Some(turns.acquire().await.map_err(io::Error::other)?),
                None => None,
            };
            let taken = self.decrypt(&received, input);
            if turn.is_some() {
                // The next turn is for after the runtime's look at the sockets.
                tokio::task::yield_now().await;
            }
            drop(turn);
            // After an error, this is an alert.
            std::future::poll_fn(|cx| self.poll_flush(socket, cx)).await?;
            if taken.is_err() || !self.session.is_handshaking() {
                return taken;
            }
            socket.readable().await?;
            received = BytesMut::with_capacity(HANDSHAKE_READ_BYTES);
            let read = std::future::poll_fn(|cx| poll_read_buf(Pin::new(&mut *socket), cx, &mut received));
            if self.ended || read.await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Whether the end was told already, which no socket will tell again.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Reads what has arrived to the end of `buffer`; 0 is the end. `cipher` is scratch space, empty, with room.
    pub(crate) fn poll_read(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        cipher: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        while !self.ended {
            let count = ready!(self.poll_decrypt(socket, cx, buffer, cipher))?;
            if count > 0 {
                return Poll::Ready(Ok(count));
            }
        }
        Poll::Ready(Ok(0))
    }

    /// Reads once; gives what came of it, which may be nothing.
    fn poll_decrypt(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        cipher: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        cipher.clear();
        if ready!(poll_read_buf(Pin::new(&mut *socket), cx, cipher))? == 0 {
            self.ended = true;
        }
        let before = buffer.len();
        let decrypted = self.decrypt(cipher, buffer);
        cipher.clear();
        if decrypted.is_err() {
            // An alert for the peer, if the socket takes it.
            let _ = self.poll_flush(socket, cx);
        }
        Poll::Ready(decrypted.map(|()| buffer.len() - before))
    }

    fn decrypt(&mut self, mut cipher: &[u8], buffer: &mut BytesMut) -> io::Result<()> {
        while !cipher.is_empty() && !self.ended {
            self.session.read_tls(&mut cipher)?;
            let state = self
                .session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let mut reader = self.session.reader();
            while let Ok(chunk) = reader.fill_buf() {
                let count = chunk.len();
                if count == 0 {
                    break;
                }
                buffer.extend_from_slice(chunk);
                reader.consume(count);
            }
            self.ended = state.peer_has_closed();
        }
        Ok(())
    }

    /// Writes some of `bytes`. After `Pending`, the next call must bring the same bytes again, with or without more
    /// behind them: some of them are encrypted already.
    pub(crate) fn poll_write(
        &mut self,
        socket: &mut TcpStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.taken == 0 {
            self.taken = self.session.writer().write(bytes)?;
        }
        ready!(self.poll_flush(socket, cx))?;
        Poll::Ready(Ok(std::mem::take(&mut self.taken)))
    }

    fn poll_flush(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut Out { socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that this is the end, if the socket takes it at once.
    pub(crate) fn close(&mut self, socket: &mut TcpStream) {
        self.session.send_close_notify();
        let _ = self.poll_flush(socket, &mut Context::from_waker(Waker::noop()));
    }

    /// The protocol agreed on by ALPN.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.session.alpn_protocol()
    }

    /// The name that a client asked for (SNI).
    pub(crate) fn server_name(&self) -> Option<&str> {
        match &self.session {
            Connection::Server(session) => session.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// The peer's own certificate, if it showed one.
    pub(crate) fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        self.session.peer_certificates()?.first()
    }
}

/// A socket for a library that writes and does not wait.
struct Out<'a, 'b> {
    socket: &'a mut TcpStream,
    cx: &'a mut Context<'b>,
}

fn or_would_block(outcome: Poll<io::Result<usize>>) -> io::Result<usize> {
    match outcome {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl io::Write for Out<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
