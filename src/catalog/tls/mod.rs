//! TLS to Postgres servers, for tokio-postgres, by libpq's rules and in its words.
//!
//! Files are read for each connection that is made: a certificate that was replaced counts from then on. With
//! [`TlsMode::Prefer`] a server that does TLS, and whose handshake fails, is not spoken to in the clear instead.

pub mod certificate;
mod ends;
mod mode;
mod url;
mod verifier;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};

pub use ends::CertificateEnds;
pub use mode::TlsMode;
pub use url::without_tls;
use verifier::Verifier;

/// The name of the protocol in ALPN, as Postgres 17 has it.
pub const ALPN: &[u8] = b"postgresql";

/// A file that TLS can't be made with.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {}: {why}", file.display())]
pub struct TlsError {
    /// The key in the configuration, or in the URL.
    pub key: &'static str,
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What TLS is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// How far it is insisted on.
    pub mode: TlsMode,
    /// Certificates of authorities. Below [`TlsMode::VerifyCa`], a server's certificate is only checked if there is this.
    pub ca_file: Option<PathBuf>,
    /// A certificate of one's own.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// How these four are called where they were given.
    pub keys: [&'static str; 4],
}

impl TlsOptions {
    /// How a configuration calls them.
    pub const CONFIG_KEYS: [&'static str; 4] =
        ["server_tls_mode", "server_tls_ca_file", "server_tls_cert_file", "server_tls_key_file"];

    /// How the library is told.
    #[must_use]
    pub fn ssl_mode(&self) -> tokio_postgres::config::SslMode {
        match self.mode {
            TlsMode::Disable => tokio_postgres::config::SslMode::Disable,
            TlsMode::Allow | TlsMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            _ => tokio_postgres::config::SslMode::Require,
        }
    }

    /// What a connection by [`TlsOptions::connector`] can't be made with.
    ///
    /// # Errors
    /// One line that names the key, and says what is missing or what else to use.
    pub fn validate(&self) -> Result<(), String> {
        let [mode, ca, cert, key] = self.keys;
        if self.mode == TlsMode::Allow {
            return Err(format!("{mode}: use disable, prefer, require, verify-ca or verify-full"));
        }
        if self.mode >= TlsMode::VerifyCa && self.ca_file.is_none() {
            return Err(format!("{ca}: {} needs a file of authorities, PEM", self.mode.as_str()));
        }
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => Err(format!("{key}: is missing; certificate and key go together")),
            (None, Some(_)) => Err(format!("{cert}: is missing; certificate and key go together")),
            _ => Ok(()),
        }
    }

    /// When the certificate of one's own ends, by what is in its file now; none without one.
    #[must_use]
    pub fn certificate_end(&self) -> Option<SystemTime> {
        let file = self.cert_file.as_ref().filter(|_| self.mode != TlsMode::Disable)?;
        certificate::first_end(&certificate::read_certificates(self.keys[2], file).ok()?)
    }

    /// What makes connections secure.
    #[must_use]
    pub fn connector(&self) -> MakeTls {
        MakeTls(self.client_config().map_err(|error| error.to_string()))
    }

    /// What a handshake with a server is made with; none without TLS.
    ///
    /// # Errors
    /// When a file can't be read, or not be used.
    pub fn client_config(&self) -> Result<Option<Arc<ClientConfig>>, TlsError> {
        if self.mode == TlsMode::Disable {
            return Ok(None);
        }
        let [mode, ca, cert, key] = self.keys;
        let failed = |key, file: &Path, why: rustls::Error| TlsError {
            key,
            file: file.to_owned(),
            why: why.to_string(),
        };
        let trust = match &self.ca_file {
            None => None,
            Some(file) => Some(certificate::read_roots(ca, file)?),
        };
        let provider = Arc::new(ring::default_provider());
        let verifier = Verifier::new(trust, self.mode == TlsMode::VerifyFull, provider.clone());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(mode, Path::new(""), error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match (&self.cert_file, &self.key_file) {
            (Some(cert_file), Some(key_file)) => builder
                .with_client_auth_cert(
                    certificate::read_certificates(cert, cert_file)?,
                    certificate::read_key(key, key_file)?,
                )
                .map_err(|error| failed(key, key_file, error))?,
            _ => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Servers of Postgres do not resume sessions.
        config.resumption = Resumption::disabled();
        Ok(Some(Arc::new(config)))
    }
}

/// Makes connections secure; or says, when one is to be, why it can't.
#[derive(Clone)]
pub struct MakeTls(Result<Option<Arc<ClientConfig>>, String>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for MakeTls {
    type Stream = Secured<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(self.handshake(host))
    }
}

impl From<Arc<ClientConfig>> for MakeTls {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self(Ok(Some(config)))
    }
}

impl MakeTls {
    /// A handshake with this host.
    #[must_use]
    pub fn handshake(&self, host: &str) -> Handshake {
        Handshake { config: self.0.clone(), host: host.to_owned() }
    }
}

/// A handshake that is to be made.
pub struct Handshake {
    config: Result<Option<Arc<ClientConfig>>, String>,
    host: String,
}

impl Handshake {
    async fn make<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) -> io::Result<Secured<S>> {
        let config = self.config.map_err(io::Error::other)?;
        let config = config.ok_or_else(|| io::Error::other("no TLS was asked for"))?;
        let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
        let connected = tokio_rustls::TlsConnector::from(config).connect(name, stream).await;
        connected.map(Secured).map_err(|error| io::Error::new(error.kind(), format!("TLS: {error}")))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Secured<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Secured<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(self.make(stream))
    }
}

/// A connection with TLS.
pub struct Secured<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Secured<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let shown = self.0.get_ref().1.peer_certificates().and_then(<[_]>::first);
        match shown.and_then(|shown| certificate::end_point(shown)) {
            Some(end_point) => ChannelBinding::tls_server_end_point(end_point.into_vec()),
            None => ChannelBinding::none(),
        }
    }
}
