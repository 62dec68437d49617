//! TLS for the library that asks registries: the same connections as the pool's.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::{Channel, end_point};
use crate::stream::Stream;

/// Room for what is read before it is decrypted.
const READ_BYTES: usize = 4096;

/// Makes the handshake on a connection.
pub(crate) struct Connector {
    pub(super) config: Arc<ClientConfig>,
    pub(super) name: ServerName<'static>,
}

impl TlsConnect<TcpStream> for Connector {
    type Stream = Secured;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured>> + Send>>;

    fn connect(self, socket: TcpStream) -> Self::Future {
        Box::pin(async move {
            let mut stream = Stream::plain(socket);
            let mut plain = BytesMut::new();
            stream.begin_tls(Channel::connecting(self.config, self.name)?, &mut plain, None).await?;
            Ok(Secured { stream, plain, cipher: BytesMut::new() })
        })
    }
}

/// A connection with TLS, as the library wants it.
pub(crate) struct Secured {
    stream: Stream,
    /// Decrypted, and not yet read.
    plain: BytesMut,
    cipher: BytesMut,
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, plain, cipher } = &mut *self;
        if plain.is_empty() {
            cipher.reserve(READ_BYTES);
            ready!(stream.poll_read(cx, plain, cipher))?;
        }
        let count = plain.len().min(buffer.remaining());
        buffer.put_slice(&plain[..count]);
        plain.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.close();
        Poll::Ready(Ok(()))
    }
}

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.stream.channel().and_then(Channel::peer_certificate);
        match certificate.and_then(|certificate| end_point(certificate)) {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.into_vec()),
            None => ChannelBinding::none(),
        }
    }
}
