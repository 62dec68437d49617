//! A server's certificate, by libpq's rules.
//!
//! A certificate that stands in the file of authorities itself is believed as it is, as OpenSSL does and so libpq: a server
//! that signed its own certificate is common among servers of Postgres.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate;

/// Looks at a server's certificate as far as the mode asks for it.
#[derive(Debug)]
pub(super) struct Verifier {
    /// Authorities, and their certificates as they stand in the file. Without, any certificate will do.
    trust: Option<(RootCertStore, Vec<CertificateDer<'static>>)>,
    /// Whether the certificate must be for the host.
    names: bool,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    /// Believes these authorities and certificates, or any certificate without them; for the host's name, if `names`.
    pub(super) fn new(
        trust: Option<(RootCertStore, Vec<CertificateDer<'static>>)>,
        names: bool,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { trust, names, provider }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some((roots, certificates)) = &self.trust else {
            return Ok(ServerCertVerified::assertion());
        };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if certificates.contains(end_entity) {
            if !certificate::is_valid_now(end_entity) {
                return Err(CertificateError::Expired.into());
            }
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        }
        if self.names {
            verify_server_name(&parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
