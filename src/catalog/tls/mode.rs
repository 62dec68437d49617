//! What is asked of TLS, in libpq's words.

use serde::{Deserialize, Serialize};

/// How far a side insists on TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// No TLS.
    #[default]
    Disable,
    /// If the other side wants it. Only routers know how to.
    Allow,
    /// If the other side can.
    Prefer,
    /// Always.
    Require,
    /// Always, and the other side shows a certificate of a known authority.
    VerifyCa,
    /// Always, and the other side's certificate is for who it says it is.
    VerifyFull,
}

impl TlsMode {
    /// libpq's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}
