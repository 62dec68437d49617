//! The side that checks a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq as _;

use super::{Key, ScramError, Verifier, attribute, hash, hmac, printable, xor};

/// An exchange whose first two messages have passed.
pub struct ServerExchange {
    verifier: Verifier,
    /// The header that the client's last message must repeat.
    gs2: String,
    nonce: String,
    /// client-first-message-bare,server-first-message
    so_far: String,
}

impl ServerExchange {
    /// Takes the client's first message; gives the answer. `nonce` is fresh and random.
    ///
    /// # Errors
    /// [`ScramError::Malformed`], [`ScramError::Unsupported`].
    pub fn start(verifier: Verifier, first: &[u8], nonce: &str) -> Result<(Self, String), ScramError> {
        let first = std::str::from_utf8(first).map_err(|_| ScramError::Malformed)?;
        let mut header = first.splitn(3, ',');
        let (flag, identity, bare) = (header.next(), header.next(), header.next());
        let bare = bare.ok_or(ScramError::Malformed)?;
        // "n": the client binds no channel; "y": it could, and believes that we can't, which is so.
        match flag {
            Some("n" | "y") => {}
            Some(flag) if flag.starts_with("p=") => return Err(ScramError::Unsupported),
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
        let gs2 = first[..first.len() - bare.len()].to_owned();
        let so_far = format!("{bare},{answer}");
        Ok((Self { verifier, gs2, nonce, so_far }, answer))
    }

    /// Takes the client's last message; gives the answer that proves that this side knows the verifier.
    ///
    /// # Errors
    /// [`ScramError::Proof`] when the password is wrong; [`ScramError::Malformed`].
    pub fn finish(&self, last: &[u8]) -> Result<String, ScramError> {
        let last = std::str::from_utf8(last).map_err(|_| ScramError::Malformed)?;
        let (without_proof, proof) = last.rsplit_once(",p=").ok_or(ScramError::Malformed)?;
        let mut parts = without_proof.split(',');
        let binding = attribute(&mut parts, "c")?;
        if STANDARD.decode(binding).map_err(|_| ScramError::Malformed)? != self.gs2.as_bytes() {
            return Err(ScramError::Malformed);
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
