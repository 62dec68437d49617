//! The conversation before anybody is known: small messages, on a connection that may turn to TLS.
//!
//! A connection that says nothing costs no buffer: there is one from its first byte on.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use wire::frontend::tag;
use wire::{HEADER_BYTES, WireError};

use super::Unfinished;
use crate::stream::Stream;
use crate::tls::Clients;

/// Room for what is read at a time.
const READ_BYTES: usize = 1024;
/// Longest message of a password exchange.
const PASSWORD_BYTES_MAX: usize = 4096;

/// A connection that logs in.
pub(crate) struct Talk {
    pub(crate) stream: Stream,
    /// Who is there: a proxy may have said so.
    pub(crate) address: IpAddr,
    /// Read, and not yet dealt with.
    pub(crate) input: BytesMut,
    /// User and tenant that were asked for, as given: for the log.
    pub(crate) names: (String, String),
    /// What TLS was begun with.
    pub(super) tls: Option<Arc<Clients>>,
    /// Turns in which handshakes of TLS are computed.
    handshakes: Rc<Semaphore>,
}

impl Talk {
    pub(crate) fn new(socket: TcpStream, address: IpAddr, handshakes: Rc<Semaphore>) -> Self {
        let stream = Stream::plain(socket);
        Self { stream, address, input: BytesMut::new(), names: Default::default(), tls: None, handshakes }
    }

    /// Begins TLS. What `input` holds belongs to the handshake.
    pub(super) async fn begin_tls(&mut self, clients: Arc<Clients>) -> Result<(), Unfinished> {
        let channel = clients.channel().map_err(Unfinished::Tls)?;
        self.stream
            .begin_tls(channel, &mut self.input, Some(&self.handshakes))
            .await
            .map_err(Unfinished::Tls)?;
        self.tls = Some(clients);
        Ok(())
    }

    /// What a password exchange can be bound to.
    pub(super) fn end_point(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.end_point.as_deref()
    }

    /// Reads at least a byte.
    pub(super) async fn read_more(&mut self) -> Result<(), Unfinished> {
        match self.stream.read_more(&mut self.input, READ_BYTES).await {
            Ok(0) | Err(_) => Err(Unfinished::Gone),
            Ok(_) => Ok(()),
        }
    }

    /// Reads a message of a password exchange.
    pub(super) async fn password_message(&mut self) -> Result<BytesMut, Unfinished> {
        loop {
            match wire::header(&self.input, PASSWORD_BYTES_MAX)? {
                Some(header) if header.tag != tag::PASSWORD => return Err(WireError::Tag(header.tag).into()),
                Some(header) if self.input.len() >= header.total() => {
                    let mut message = self.input.split_to(header.total());
                    message.advance(HEADER_BYTES);
                    return Ok(message);
                }
                _ => self.read_more().await?,
            }
        }
    }

    /// Writes all of `out`, and empties it.
    pub(crate) async fn send(&mut self, out: &mut BytesMut) -> io::Result<()> {
        self.stream.write_all(out).await?;
        out.clear();
        Ok(())
    }
}
