//! Passwords that are stored nowhere: derived from one master key, by HKDF-SHA-256 (RFC 5869).
//!
//! The catalog holds no password, so a stolen catalog opens no database; a role's password is the same wherever its
//! tenant lives, so a move changes none.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use sha2::Sha256;

use crate::ids::{ServerName, TenantId};
use crate::user::Access;

/// Fewest bytes of a master key.
pub const MASTER_KEY_BYTES_MIN: usize = 32;

/// The key from which all server-side passwords are derived.
#[derive(Clone)]
pub struct MasterKey(Vec<u8>);

/// A master key that is too short or not base64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a master key is at least {MASTER_KEY_BYTES_MIN} random bytes in base64; make one with: openssl rand -base64 32"
)]
pub struct InvalidMasterKey;

impl MasterKey {
    /// Reads a key from its base64 text; white space around it is ignored.
    ///
    /// # Errors
    /// [`InvalidMasterKey`] when it is not base64 or shorter than [`MASTER_KEY_BYTES_MIN`].
    pub fn from_base64(text: &str) -> Result<Self, InvalidMasterKey> {
        let bytes =
            base64::engine::general_purpose::STANDARD.decode(text.trim()).map_err(|_| InvalidMasterKey)?;
        if bytes.len() < MASTER_KEY_BYTES_MIN { Err(InvalidMasterKey) } else { Ok(Self(bytes)) }
    }

    fn derive(&self, parts: &[&str]) -> String {
        let hkdf = Hkdf::<Sha256>::new(Some(b"tenantry passwords"), &self.0);
        // NUL can't stand in any part, so no two lists of parts give the same info.
        let info = parts.join("\0");
        let mut password = [0_u8; 32];
        // 32 bytes is one HKDF block; expand fails only beyond 255 of them.
        if hkdf.expand(info.as_bytes(), &mut password).is_err() {
            unreachable!("one block of HKDF output is always available");
        }
        URL_SAFE_NO_PAD.encode(password)
    }

    /// Password of a tenant's role.
    #[must_use]
    pub fn tenant_password(&self, tenant: &TenantId, access: Access, key_version: i32) -> String {
        self.derive(&["tenant", tenant.as_str(), access.as_str(), &key_version.to_string()])
    }

    /// Password of the control plane's own role on a server.
    #[must_use]
    pub fn control_password(&self, server: &ServerName) -> String {
        self.derive(&["control", server.as_str()])
    }

    /// Password of the role with which routers read a server's registry.
    #[must_use]
    pub fn registry_reader_password(&self, server: &ServerName) -> String {
        self.derive(&["registry reader", server.as_str()])
    }

    /// What routers make of a user that does not exist: the same at all of them, and known to nobody else.
    #[must_use]
    pub fn unknown_users_secret(&self) -> String {
        self.derive(&["unknown users"])
    }

    /// Password of the role with which a move's target follows its source.
    #[must_use]
    pub fn move_password(&self, operation: i64) -> String {
        self.derive(&["move", &operation.to_string()])
    }

    /// With what requests to the API are told from each other: a plain hash of one that has a password would give it away to whoever
    /// reads the catalog and guesses.
    #[must_use]
    pub fn requests_secret(&self) -> String {
        self.derive(&["requests"])
    }

    /// Password of the role with which a move or a clone reads a tenant's rows.
    #[must_use]
    pub fn read_password(&self, operation: i64) -> String {
        self.derive(&["read", &operation.to_string()])
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_server_and_version_has_its_own_password() {
        let key = MasterKey::from_base64(&base64::engine::general_purpose::STANDARD.encode([7; 32])).unwrap();
        let (a, b) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let s = ServerName::new("a").unwrap();
        let all = [
            key.tenant_password(&a, Access::App, 1),
            key.tenant_password(&a, Access::App, 2),
            key.tenant_password(&a, Access::Owner, 1),
            key.tenant_password(&b, Access::App, 1),
            key.control_password(&s),
            key.registry_reader_password(&s),
            key.move_password(7),
            key.read_password(7),
        ];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_eq!(all[0], key.tenant_password(&a, Access::App, 1), "the same everywhere, for ever");
    }

    #[test]
    fn a_short_key_is_refused_and_none_is_printed() {
        assert!(MasterKey::from_base64("c2hvcnQ=").is_err());
        let key = MasterKey::from_base64(&base64::engine::general_purpose::STANDARD.encode([7; 32])).unwrap();
        assert_eq!(format!("{key:?}"), "MasterKey(secret)");
    }
}
