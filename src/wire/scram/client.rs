//! The side that has a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{
    BOUND_HEADER, Key, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, attribute, hash, hmac, printable, xor,
};

/// Most rounds that a server may ask for: more would let it keep us busy.
const ITERATIONS_MAX: u32 = 1_000_000;
/// No channel to bind to.
const UNBOUND_HEADER: &str = "n,,";
/// A channel, and a server that does not offer to bind to it.
const NOT_OFFERED_HEADER: &str = "y,,";

/// Keys for one password, salt and round count: worth keeping, for they cost thousands of hashes.
#[derive(Clone, PartialEq, Eq)]
pub struct SaltedKeys {
    salt: Vec<u8>,
    iterations: u32,
    client_key: Key,
    server_key: Key,
}

impl std::fmt::Debug for SaltedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SaltedKeys(secret)")
    }
}

impl SaltedKeys {
    fn derive(password: &str, salt: Vec<u8>, iterations: u32) -> Self {
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password.as_bytes(), &salt, iterations, &mut salted);
        Self {
            salt,
            iterations,
            client_key: hmac(&salted, &[b"Client Key"]),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }
}

/// An exchange with a server.
pub struct ClientExchange {
    nonce: String,
    mechanism: &'static str,
    header: &'static str,
    end_point: Vec<u8>,
    expected: Option<Key>,
}

impl ClientExchange {
    /// Begins with the best of the mechanisms offered; `nonce` is fresh, random and printable without commas, and
    /// `end_point` the hash of the server's certificate. Gives the first message.
    ///
    /// # Errors
    /// [`ScramError::Unsupported`] when no mechanism offered is spoken.
    pub fn start(
        nonce: &str,
        offered: &[&[u8]],
        end_point: Option<&[u8]>,
    ) -> Result<(Self, String), ScramError> {
        let is_offered = |mechanism: &str| offered.contains(&mechanism.as_bytes());
        let (mechanism, header, bound) = match end_point {
            Some(end_point) if is_offered(SCRAM_SHA_256_PLUS) => {
                (SCRAM_SHA_256_PLUS, BOUND_HEADER, end_point)
            }
            Some(_) if is_offered(SCRAM_SHA_256) => (SCRAM_SHA_256, NOT_OFFERED_HEADER, &[][..]),
            None if is_offered(SCRAM_SHA_256) => (SCRAM_SHA_256, UNBOUND_HEADER, &[][..]),
            _ => return Err(ScramError::Unsupported),
        };
        let exchange =
            Self { nonce: nonce.to_owned(), mechanism, header, end_point: bound.to_vec(), expected: None };
        let first = format!("{header}n=,r={nonce}");
        Ok((exchange, first))
    }

    /// The mechanism that was chosen.
    #[must_use]
    pub fn mechanism(&self) -> &'static str {
        self.mechanism
    }

    /// Takes the server's first message; gives the answer and the keys to pass as `cached` next time.
    ///
    /// # Errors
    /// [`ScramError::Malformed`], [`ScramError::Unsupported`].
    pub fn respond(
        &mut self,
        first: &[u8],
        password: &str,
        cached: Option<&SaltedKeys>,
    ) -> Result<(String, SaltedKeys), ScramError> {
        let first = std::str::from_utf8(first).map_err(|_| ScramError::Malformed)?;
        let mut parts = first.split(',');
        let nonce = attribute(&mut parts, "r")?;
        let salt = STANDARD.decode(attribute(&mut parts, "s")?).map_err(|_| ScramError::Malformed)?;
        let iterations: u32 = attribute(&mut parts, "i")?.parse().map_err(|_| ScramError::Malformed)?;
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) || !printable(nonce) {
            return Err(ScramError::Malformed);
        }
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(ScramError::Unsupported);
        }
        let keys = match cached {
            Some(keys) if keys.salt == salt && keys.iterations == iterations => keys.clone(),
            _ => SaltedKeys::derive(password, salt, iterations),
        };
        let binding = [self.header.as_bytes(), &self.end_point].concat();
        let without_proof = format!("c={},r={nonce}", STANDARD.encode(binding));
        let message = format!("n=,r={},{first},{without_proof}", self.nonce);
        let signature = hmac(&hash(&keys.client_key), &[message.as_bytes()]);
        self.expected = Some(hmac(&keys.server_key, &[message.as_bytes()]));
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        Ok((format!("{without_proof},p={proof}"), keys))
    }

    /// Checks the server's last message.
    ///
    /// # Errors
    /// [`ScramError::Proof`] when the server does not know the password; [`ScramError::Malformed`].
    pub fn verify(&self, last: &[u8]) -> Result<(), ScramError> {
        let last = std::str::from_utf8(last).map_err(|_| ScramError::Malformed)?;
        let given = attribute(&mut last.split(','), "v")?;
        let given = STANDARD.decode(given).map_err(|_| ScramError::Malformed)?;
        let expected = self.expected.ok_or(ScramError::Malformed)?;
        if bool::from(expected.as_slice().ct_eq(&given)) { Ok(()) } else { Err(ScramError::Proof) }
    }
}
