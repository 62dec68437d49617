//! SCRAM-SHA-256 (RFC 5802, RFC 7677), both sides, as messages in and out.
//!
//! Nonces are passed in; what is secret is compared in constant time. On TLS the exchange is bound to the channel
//! (`tls-server-end-point`, RFC 5929) by the hash of the server's certificate, which is passed in, too. A password is
//! taken as it is, without SASLprep: those that the router itself sends are derived and ASCII.

mod client;
mod server;
mod verifier;

pub use client::{ClientExchange, SaltedKeys};
pub use server::{Opening, ServerExchange};
pub use verifier::{InvalidVerifier, Verifier};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// The mechanism's name.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// The mechanism's name with channel binding.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

/// The header of an exchange that is bound to its channel.
pub(crate) const BOUND_HEADER: &str = "p=tls-server-end-point,,";

/// What to offer: channel binding first, if there is a channel to bind to.
#[must_use]
pub fn mechanisms(end_point: Option<&[u8]>) -> &'static [&'static str] {
    if end_point.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
}

pub(crate) type Key = [u8; 32];

/// Why an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message that does not have the form of the RFC.
    #[error("malformed SCRAM message")]
    Malformed,
    /// A mechanism that was not offered, an authorization identity, or an extension that is not spoken.
    #[error("unsupported SCRAM feature")]
    Unsupported,
    /// The peer was told that there is no channel binding, though there is: somebody stands between.
    #[error("SCRAM channel binding was offered, and the client did not see it")]
    Downgrade,
    /// The two sides see different certificates: somebody stands between.
    #[error("SCRAM channel binding check failed")]
    Binding,
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
