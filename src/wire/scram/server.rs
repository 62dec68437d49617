//! The side that checks a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{
    Key, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, Verifier, attribute, hash, hmac, printable, xor,
};

/// What a client chose, and its first message.
#[derive(Debug, Clone, Copy)]
pub struct Opening<'a> {
    /// The mechanism's name.
    pub mechanism: &'a [u8],
    /// The message.
    pub first: &'a [u8],
}

/// An exchange whose first two messages have passed.
pub struct ServerExchange {
    verifier: Verifier,
    /// The header that the client's last message must repeat, and what it binds to.
    binding: Vec<u8>,
    nonce: String,
    /// client-first-message-bare,server-first-message
    so_far: String,
}

impl ServerExchange {
    /// Takes the client's first message; gives the answer. `nonce` is fresh and random; `end_point` is the hash of the
    /// certificate that the client was shown, if channel binding was offered.
    ///
    /// # Errors
    /// [`ScramError::Malformed`], [`ScramError::Unsupported`], [`ScramError::Downgrade`].
    pub fn start(
        verifier: Verifier,
        opening: Opening<'_>,
        nonce: &str,
        end_point: Option<&[u8]>,
    ) -> Result<(Self, String), ScramError> {
        let bound = opening.mechanism == SCRAM_SHA_256_PLUS.as_bytes() && end_point.is_some();
        if !bound && opening.mechanism != SCRAM_SHA_256.as_bytes() {
            return Err(ScramError::Unsupported);
        }
        let first = std::str::from_utf8(opening.first).map_err(|_| ScramError::Malformed)?;
        let mut header = first.splitn(3, ',');
        let (flag, identity, bare) = (header.next(), header.next(), header.next());
        let bare = bare.ok_or(ScramError::Malformed)?;
        match (flag, bound) {
            // It binds no channel.
            (Some("n"), false) => {}
            // It could, and believes that we can't.
            (Some("y"), false) if end_point.is_none() => {}
            (Some("y"), false) => return Err(ScramError::Downgrade),
            (Some("p=tls-server-end-point"), true) => {}
            (Some(flag), _) if flag.starts_with("p=") => return Err(ScramError::Unsupported),
            _ => return Err(ScramError::Malformed),
        }
        if identity != Some("") {
            return Err(ScramError::Unsupported);
        }
        let mut parts = bare.split(',');
        // The name in it is ignored, as Postgres does: the startup packet has the one that counts.
        attribute(&mut parts, "n")?;
        let client_nonce = attribute(&mut parts, "r")?;
        if !printable(client_nonce) {
            return Err(ScramError::Malformed);
        }
        let nonce = format!("{client_nonce}{nonce}");
        let answer = format!("r={nonce},s={},i={}", STANDARD.encode(&verifier.salt), verifier.iterations);
        let mut binding = first.as_bytes()[..first.len() - bare.len()].to_vec();
        if bound {
            binding.extend_from_slice(end_point.unwrap_or_default());
        }
        let so_far = format!("{bare},{answer}");
        Ok((Self { verifier, binding, nonce, so_far }, answer))
    }

    /// Takes the client's last message; gives the answer that proves that this side knows the verifier.
    ///
    /// # Errors
    /// [`ScramError::Proof`] when the password is wrong; [`ScramError::Binding`], [`ScramError::Malformed`].
    pub fn finish(&self, last: &[u8]) -> Result<String, ScramError> {
        let last = std::str::from_utf8(last).map_err(|_| ScramError::Malformed)?;
        let (without_proof, proof) = last.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut parts = without_proof.split(',');
        let binding = STANDARD.decode(attribute(&mut parts, "c")?).map_err(|_| ScramError::Malformed)?;
        if binding != self.binding {
            let bound = self.binding.starts_with(b"p=");
            return Err(if bound { ScramError::Binding } else { ScramError::Malformed });
        }
        if attribute(&mut parts, "r")? != self.nonce {
            return Err(ScramError::Malformed);
        }
        let proof: Key = STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| proof.try_into().ok())
            .ok_or(ScramError::Malformed)?;
        let message: [&[u8]; 3] = [self.so_far.as_bytes(), b",", without_proof.as_bytes()];
        let signature = hmac(&self.verifier.stored_key, &message);
        let client_key = xor(&proof, &signature);
        if !bool::from(hash(&client_key).ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::Proof);
        }
        Ok(format!("v={}", STANDARD.encode(hmac(&self.verifier.server_key, &message))))
    }
}
