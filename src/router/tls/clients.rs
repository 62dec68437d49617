//! TLS as the router offers it to clients.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};

use super::{ALPN, Channel, TlsError, TlsMode, certificate};
use crate::config::RouterConfig;

/// What a client's handshake is made with.
pub(crate) struct Clients {
    config: Arc<ServerConfig>,
    /// For channel binding, when the certificate allows it.
    pub(crate) end_point: Option<Box<[u8]>>,
    /// When the certificate ends.
    pub(super) end: Option<SystemTime>,
}

impl Clients {
    /// As the configuration says; none when it says no TLS.
    pub(super) fn build(config: &RouterConfig) -> Result<Option<Self>, TlsError> {
        let (Some(cert_file), Some(key_file)) = (&config.tls_cert_file, &config.tls_key_file) else {
            return Ok(None);
        };
        if config.tls_mode == TlsMode::Disable {
            return Ok(None);
        }
        let chain = certificate::read_certificates("tls_cert_file", cert_file)?;
        let private = certificate::read_key("tls_key_file", key_file)?;
        let (end_point, end) = (certificate::end_point(&chain[0]), certificate::first_end(&chain));
        let failed = |key, file: &std::path::Path, why: String| TlsError { key, file: file.to_owned(), why };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed("tls_mode", cert_file, error.to_string()))?;
        let asks = config.tls_mode >= TlsMode::VerifyCa || config.tls_certificate_login;
        let builder = match config.tls_ca_file.as_ref().filter(|_| asks) {
            None => builder.with_no_client_auth(),
            Some(ca_file) => {
                let (roots, _) = certificate::read_roots("tls_ca_file", ca_file)?;
                let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
                if config.tls_mode < TlsMode::VerifyCa {
                    verifier = verifier.allow_unauthenticated();
                }
                let verifier =
                    verifier.build().map_err(|error| failed("tls_ca_file", ca_file, error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, private)
            .map_err(|error| failed("tls_key_file", key_file, error.to_string()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // No driver resumes sessions with a server of Postgres, which does not offer it: nothing to keep or to send.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Some(Self { config: Arc::new(config), end_point, end }))
    }

    /// A session for one client.
    pub(crate) fn channel(&self) -> io::Result<Channel> {
        Channel::accepting(self.config.clone())
    }
}
