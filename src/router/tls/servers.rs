//! TLS from the router to servers, by libpq's rules.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use catalog::tls::TlsOptions;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, ToSocketAddrs};

use super::postgres::Connector;
use super::{Channel, TlsError, TlsMode};
use crate::config::RouterConfig;
use crate::stream::Stream;

/// What a server answers to a request for TLS.
const YES: u8 = b'S';
const NO: u8 = b'N';

/// How connections to servers are secured.
pub(crate) struct Servers {
    mode: TlsMode,
    config: Option<Arc<ClientConfig>>,
    /// When the certificate ends that servers are shown.
    pub(super) end: Option<SystemTime>,
}

impl Servers {
    /// As the configuration says.
    pub(super) fn build(config: &RouterConfig) -> Result<Self, TlsError> {
        let options = TlsOptions {
            mode: config.server_tls_mode,
            ca_file: config.server_tls_ca_file.clone(),
            cert_file: config.server_tls_cert_file.clone(),
            key_file: config.server_tls_key_file.clone(),
            keys: TlsOptions::CONFIG_KEYS,
        };
        Ok(Self { mode: options.mode, config: options.client_config()?, end: options.certificate_end() })
    }

    /// Whether a connection is tried with TLS, in the order of the attempts.
    pub(crate) fn attempts(&self) -> &'static [bool] {
        match self.mode {
            TlsMode::Disable => &[false],
            TlsMode::Allow => &[false, true],
            TlsMode::Prefer => &[true, false],
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[true],
        }
    }

    /// Whether a server must do TLS.
    pub(crate) fn insists(&self) -> bool {
        self.mode >= TlsMode::Require
    }

    /// TLS for the library that asks registries.
    pub(crate) fn connector(&self, host: &str) -> io::Result<Option<Connector>> {
        let Some(config) = &self.config else { return Ok(None) };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        Ok(Some(Connector { config: config.clone(), name }))
    }

    /// Connects to a server, in the clear or with TLS; `host` is its name, for which its certificate must be.
    pub(crate) async fn connect(
        &self,
        address: impl ToSocketAddrs,
        host: &str,
        with_tls: bool,
    ) -> io::Result<Stream> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let mut stream = Stream::plain(socket);
        if with_tls {
            self.secure(&mut stream, host).await.map_err(|error| {
                io::Error::new(io::ErrorKind::PermissionDenied, format!("TLS with the server: {error}"))
            })?;
        }
        Ok(stream)
    }

    /// Asks a server for TLS, and goes on with it. With a mode that does not insist, a server may decline.
    async fn secure(&self, stream: &mut Stream, host: &str) -> io::Result<()> {
        let Some(config) = &self.config else { return Ok(()) };
        let mut request = BytesMut::new();
        wire::startup::write_ssl_request(&mut request);
        stream.write_all(&request).await?;
        let mut answer = BytesMut::with_capacity(1);
        let mut unused = BytesMut::new();
        // One byte and no more: what comes behind it must not be taken for something that was encrypted.
        while answer.is_empty() {
            if std::future::poll_fn(|cx| stream.poll_read(cx, &mut answer, &mut unused)).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        match answer[..] {
            [YES] => {}
            [NO] if !self.insists() => return Ok(()),
            [NO] => {
                return Err(io::Error::other("the server does not do TLS, and server_tls_mode asks for it"));
            }
            _ => return Err(io::Error::other("the server's answer to the request for TLS is none")),
        }
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let channel = Channel::connecting(config.clone(), name)?;
        let mut early = BytesMut::new();
        stream.begin_tls(channel, &mut early, None).await?;
        if early.is_empty() { Ok(()) } else { Err(io::Error::other("the server spoke before it was asked")) }
    }
}
