//! What is stored of a password: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, as in `pg_authid`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{Key, hash, hmac};

const ITERATIONS_DEFAULT: u32 = 4096;
const ITERATIONS_MAX: u32 = 10_000_000;

/// A stored verifier. Lets a password be checked; opens nothing by itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Key,
    pub(crate) server_key: Key,
}

/// Not a verifier in Postgres's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SCRAM-SHA-256 verifier in Postgres's form")]
pub struct InvalidVerifier;

impl Verifier {
    /// Reads a verifier.
    ///
    /// # Errors
    /// [`InvalidVerifier`].
    pub fn parse(text: &str) -> Result<Self, InvalidVerifier> {
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| InvalidVerifier);
        let key = |text: &str| Key::try_from(decode(text)?).map_err(|_| InvalidVerifier);
        let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or(InvalidVerifier)?;
        let (parameters, keys) = rest.split_once('$').ok_or(InvalidVerifier)?;
        let (iterations, salt) = parameters.split_once(':').ok_or(InvalidVerifier)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(InvalidVerifier)?;
        let iterations = iterations.parse().map_err(|_| InvalidVerifier)?;
        if !(1..=ITERATIONS_MAX).contains(&iterations) {
            return Err(InvalidVerifier);
        }
        Ok(Self {
            iterations,
            salt: decode(salt)?,
            stored_key: key(stored_key)?,
            server_key: key(server_key)?,
        })
    }

    /// A verifier for a user that does not exist: no password fits it, and the same user always gets the same salt, so
    /// that an exchange with it looks like one with a user that does.
    #[must_use]
    pub fn mock(secret: &[u8], user: &str) -> Self {
        let derive = |part: &[u8]| hmac(secret, &[part, b"\0", user.as_bytes()]);
        Self {
            iterations: ITERATIONS_DEFAULT,
            salt: derive(b"salt")[..16].to_vec(),
            stored_key: derive(b"stored key"),
            server_key: derive(b"server key"),
        }
    }

    /// Whether it is the verifier of a password; `false`, too, when finding out took more than so many iterations.
    #[must_use]
    pub fn is_of(&self, password: &str, iterations_max: u32) -> bool {
        self.iterations <= iterations_max
            && *self == Self::from_password(password, &self.salt, self.iterations)
    }

    /// The verifier of a password.
    #[must_use]
    pub fn from_password(password: &str, salt: &[u8], iterations: u32) -> Self {
        let mut salted = Key::default();
        pbkdf2::pbkdf2_hmac::<sha2::Sha256>(password.as_bytes(), salt, iterations, &mut salted);
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: hash(&hmac(&salted, &[b"Client Key"])),
            server_key: hmac(&salted, &[b"Server Key"]),
        }
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        write!(
            f,
            "SCRAM-SHA-256${}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key),
            encode(&self.server_key)
        )
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(secret)")
    }
}
