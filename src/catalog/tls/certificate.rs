//! What is read of certificates beyond what rustls does: the hash for channel binding, and the names in them.

use std::path::Path;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::Digest as _;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::TlsError;

/// Signature algorithms by the hash that they use (RFC 4055, 5754, 5758).
const SHA256: [&str; 3] = ["1.2.840.113549.1.1.11", "1.2.840.10045.4.3.2", "2.16.840.1.101.3.4.3.2"];
const SHA384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
const SHA512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
/// MD5 and SHA-1, for which RFC 5929 takes SHA-256 instead.
const WEAK: [&str; 3] = ["1.2.840.113549.1.1.4", "1.2.840.113549.1.1.5", "1.2.840.10045.4.1"];

/// The data of the channel binding `tls-server-end-point` (RFC 5929): the certificate's hash, by the function that its
/// signature uses. None when the signature has no such function (Ed25519) or one with parameters (RSA-PSS).
#[must_use]
pub fn end_point(certificate: &[u8]) -> Option<Box<[u8]>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = parsed.signature_algorithm().oid;
    let is_in = |known: &[&str]| known.iter().any(|oid| ObjectIdentifier::new(oid) == Ok(algorithm));
    if is_in(&SHA256) || is_in(&WEAK) {
        Some(sha2::Sha256::digest(certificate).as_slice().into())
    } else if is_in(&SHA384) {
        Some(sha2::Sha384::digest(certificate).as_slice().into())
    } else if is_in(&SHA512) {
        Some(sha2::Sha512::digest(certificate).as_slice().into())
    } else {
        None
    }
}

/// Whether a certificate is for this name: its common name, or a DNS name or mail address among its alternative names.
#[must_use]
pub fn is_for(certificate: &[u8], name: &str) -> bool {
    let Ok(parsed) = Certificate::from_der(certificate) else { return false };
    let certificate = parsed.tbs_certificate();
    if let Ok(Some(common)) = certificate.subject().common_name()
        && common.value() == name
    {
        return true;
    }
    let Ok(Some((_, alternatives))) = certificate.get_extension::<SubjectAltName>() else { return false };
    alternatives.0.iter().any(|alternative| match alternative {
        GeneralName::DnsName(text) | GeneralName::Rfc822Name(text) => text.as_str() == name,
        _ => false,
    })
}

/// Whether a certificate is valid at this moment.
#[must_use]
pub fn is_valid_now(certificate: &[u8]) -> bool {
    Certificate::from_der(certificate).is_ok_and(|parsed| {
        let validity = parsed.tbs_certificate().validity();
        let now = SystemTime::now();
        validity.not_before.to_system_time() <= now && now <= validity.not_after.to_system_time()
    })
}

/// When the first of a chain's certificates ends: from then on nobody believes any of it.
#[must_use]
pub fn first_end(chain: &[CertificateDer<'_>]) -> Option<SystemTime> {
    let parsed = chain.iter().filter_map(|certificate| Certificate::from_der(certificate).ok());
    parsed.map(|parsed| parsed.tbs_certificate().validity().not_after.to_system_time()).min()
}

/// Reads a file of certificates.
///
/// # Errors
/// When there is none in it.
pub fn read_certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |why: String| TlsError { key, file: file.to_owned(), why };
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| failed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(failed("there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

/// Reads a private key.
///
/// # Errors
/// When there is none in the file.
pub fn read_key(key: &'static str, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| TlsError {
        key,
        file: file.to_owned(),
        why: error.to_string(),
    })
}

/// Reads the certificates of authorities.
///
/// # Errors
/// When there is none in the file, or one of another kind.
pub fn read_roots(
    key: &'static str,
    file: &Path,
) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), TlsError> {
    let certificates = read_certificates(key, file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| TlsError {
            key,
            file: file.to_owned(),
            why: error.to_string(),
        })?;
    }
    Ok((roots, certificates))
}
