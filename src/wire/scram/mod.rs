//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, as messages in and out.
//!
//! Nonces are passed in; what is secret is compared in constant time. Channel binding comes with TLS. A password is
//! taken as it is, without SASLprep: those that the router itself sends are derived and ASCII.

mod client;
mod server;
mod verifier;

pub use client::{ClientExchange, SaltedKeys};
pub use server::ServerExchange;
pub use verifier::{InvalidVerifier, Verifier};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// The mechanism's name.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";

pub(crate) type Key = [u8; 32];

/// Why an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message that does not have the form of the RFC.
    #[error("malformed SCRAM message")]
    Malformed,
    /// Channel binding, an authorization identity or an extension that is not spoken.
    #[error("unsupported SCRAM feature")]
    Unsupported,
    /// Wrong password, or a peer that does not know it.
    #[error("SCRAM proof does not match")]
    Proof,
}

pub(crate) fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        unreachable!("HMAC takes a key of any length");
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

pub(crate) fn hash(bytes: &[u8]) -> Key {
    Sha256::digest(bytes).into()
}

pub(crate) fn xor(a: &Key, b: &Key) -> Key {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// The next attribute of a message: `name` must be its name.
pub(crate) fn attribute<'a>(
    parts: &mut impl Iterator<Item = &'a str>,
    name: &str,
) -> Result<&'a str, ScramError> {
    parts
        .next()
        .and_then(|part| part.strip_prefix(name))
        .and_then(|part| part.strip_prefix('='))
        .ok_or(ScramError::Malformed)
}

/// A nonce or other value: printable ASCII without a comma.
pub(crate) fn printable(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| (0x21..=0x7e).contains(&b) && b != b',')
}

#[cfg(test)]
mod tests;
