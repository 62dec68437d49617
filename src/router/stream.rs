//! A socket as the relay sees it, in the clear or with TLS: read into a buffer, write from a slice, nothing else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncWrite as _, Interest};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::io::poll_read_buf;

use crate::tls::Channel;

/// What a small read asks for before it is decrypted.
const CIPHER_BYTES: usize = 4096;

/// A connection to a client or a server.
pub(crate) struct Stream {
    socket: TcpStream,
    channel: Option<Box<Channel>>,
}

/// A connection on its way from one runtime to another.
pub(crate) struct Detached {
    socket: std::net::TcpStream,
    channel: Option<Box<Channel>>,
}

impl Stream {
    /// A connection in the clear.
    pub(crate) fn plain(socket: TcpStream) -> Self {
        Self { socket, channel: None }
    }

    /// Goes on with TLS, whose handshake begins with what `input` holds. What the peer sent right behind the handshake
    /// is there afterwards.
    pub(crate) async fn begin_tls(
        &mut self,
        mut channel: Channel,
        input: &mut BytesMut,
        turns: Option<&Semaphore>,
    ) -> io::Result<()> {
        channel.handshake(&mut self.socket, input, turns).await?;
        self.channel = Some(Box::new(channel));
        Ok(())
    }

    /// Its TLS session, if it has one.
    pub(crate) fn channel(&self) -> Option<&Channel> {
        self.channel.as_deref()
    }

    /// Whether reading may give something. The socket knows that for nothing, so that who waits needs no buffer.
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.channel.as_ref().is_some_and(|channel| channel.has_ended()) {
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read_ready(cx)
    }

    /// Whether something may have arrived. Asks nobody, and wakes nobody when it does.
    pub(crate) fn may_have_arrived(&self) -> bool {
        let has_ended = self.channel.as_ref().is_some_and(|channel| channel.has_ended());
        has_ended || self.socket.try_io(Interest::READABLE, || Ok(())).is_ok()
    }

    /// Reads what has arrived into the room that `buffer` has, with TLS into the room that `cipher` has; 0 is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
        cipher: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        match &mut self.channel {
            None => self.poll_read_plain(cx, buffer),
            Some(channel) => channel.poll_read(&mut self.socket, cx, buffer, cipher),
        }
    }

    /// The same for one in the clear.
    pub(crate) fn poll_read_plain(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        // Unlike `try_read`, this takes a read that did not fill the buffer for a sign that there is no more, and so saves
        // the system call that would only say so.
        poll_read_buf(Pin::new(&mut self.socket), cx, buffer)
    }

    /// Writes some of `bytes`. After `Pending`, the next call must bring the same bytes again, with or without more.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.channel {
            None => Pin::new(&mut self.socket).poll_write(cx, bytes),
            Some(channel) => channel.poll_write(&mut self.socket, cx, bytes),
        }
    }

    /// Reads at least a byte, and at most so many, into `input`, for a conversation of small messages; 0 is the end. There
    /// is no buffer before something comes.
    pub(crate) async fn read_more(&mut self, input: &mut BytesMut, most: usize) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_read_ready(cx)).await?;
        input.reserve(most);
        let room = if self.channel.is_some() { CIPHER_BYTES } else { 0 };
        let mut cipher = BytesMut::with_capacity(room);
        std::future::poll_fn(|cx| self.poll_read(cx, input, &mut cipher)).await
    }

    /// Writes all of `bytes`.
    pub(crate) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = std::future::poll_fn(|cx| self.poll_write(cx, bytes)).await?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Says that this is the end: TLS has a word for it.
    pub(crate) fn close(&mut self) {
        if let Some(channel) = &mut self.channel {
            channel.close(&mut self.socket);
        }
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close();
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    /// The other end's address.
    pub(crate) fn peer(&self) -> io::Result<SocketAddr> {
        self.socket.peer_addr()
    }

    /// Takes it off this runtime.
    pub(crate) fn detach(self) -> io::Result<Detached> {
        Ok(Detached { socket: self.socket.into_std()?, channel: self.channel })
    }
}

impl Detached {
    /// Puts it on this runtime.
    pub(crate) fn attach(self) -> io::Result<Stream> {
        Ok(Stream { socket: TcpStream::from_std(self.socket)?, channel: self.channel })
    }
}
