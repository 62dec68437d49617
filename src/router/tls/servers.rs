//! TLS from the router to servers, by libpq's rules.

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use catalog::tls::Verifier;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error};

use tokio::net::{TcpStream, ToSocketAddrs};

use super::postgres::Connector;
use super::{Channel, TlsError, TlsMode, certificate};
use crate::config::RouterConfig;
use crate::stream::Stream;

/// What a server answers to a request for TLS.
const YES: u8 = b'S';
const NO: u8 = b'N';

/// How connections to servers are secured.
pub(crate) struct Servers {
    mode: TlsMode,
    config: Option<Arc<ClientConfig>>,
}

impl Servers {
    /// As the configuration says.
    pub(super) fn build(config: &RouterConfig) -> Result<Self, TlsError> {
        let mode = config.server_tls_mode;
        if mode == TlsMode::Disable {
            return Ok(Self { mode, config: None });
        }
        let failed =
            |key, file: &Path, why: Error| TlsError { key, file: file.to_owned(), why: why.to_string() };
        let provider = Arc::new(ring::default_provider());
        let trust = match &config.server_tls_ca_file {
            None => None,
            Some(file) => Some(certificate::read_roots("server_tls_ca_file", file)?),
        };
        let verifier = Verifier::new(trust, mode == TlsMode::VerifyFull, provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("server_tls_mode", Path::new(""), error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&config.server_tls_cert_file, &config.server_tls_key_file) {
            (Some(cert_file), Some(key_file)) => builder
                .with_client_auth_cert(
                    certificate::read_certificates("server_tls_cert_file", cert_file)?,
                    certificate::read_key("server_tls_key_file", key_file)?,
                )
                .map_err(|error| failed("server_tls_key_file", key_file, error))?,
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![super::ALPN.to_vec()];
        // Servers of Postgres do not resume sessions.
        config.resumption = Resumption::disabled();
        Ok(Self { mode, config: Some(Arc::new(config)) })
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
