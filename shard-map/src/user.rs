//! A login at the router. Never a tenant's own customer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::TenantId;
use crate::selector::Selector;

/// What a user may do in a tenant's database. Each maps to one role of the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// May change the schema. Never the database's owner, never a superuser: an owner could lift a move's fence.
    Owner,
    /// Reads and writes rows.
    #[default]
    App,
    /// Reads.
    Readonly,
}

impl Access {
    /// All of them, in the order in which roles are made.
    pub const ALL: [Self; 3] = [Self::Owner, Self::App, Self::Readonly];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::App => "app",
            Self::Readonly => "readonly",
        }
    }

    /// The name of the tenant's role for this access, the same on every server.
    #[must_use]
    pub fn role(self, tenant: &TenantId) -> String {
        format!("{tenant}__{}", self.as_str())
    }
}

/// How long a client keeps its server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolMode {
    /// For one transaction.
    #[default]
    Transaction,
    /// Until it disconnects, or a hold moves it while it has no state that can't be replayed.
    Session,
}

impl PoolMode {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Session => "session",
        }
    }
}

/// A word that is not one of the allowed ones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not allowed: use {allowed}")]
pub struct UnknownWord {
    /// What was given.
    pub given: String,
    /// What is allowed.
    pub allowed: &'static str,
}

impl FromStr for Access {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        Self::ALL
            .into_iter()
            .find(|a| a.as_str() == word)
            .ok_or_else(|| UnknownWord { given: word.to_owned(), allowed: "owner, app or readonly" })
    }
}

impl FromStr for PoolMode {
    type Err = UnknownWord;
    fn from_str(word: &str) -> Result<Self, UnknownWord> {
        [Self::Transaction, Self::Session]
            .into_iter()
            .find(|m| m.as_str() == word)
            .ok_or_else(|| UnknownWord { given: word.to_owned(), allowed: "transaction or session" })
    }
}

/// A login at the router.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// SCRAM-SHA-256 verifier in Postgres's own form. Opens nothing by itself, yet is not shown in logs.
    pub verifier: String,
    /// Which tenants it may reach.
    pub tenants: Selector,
    /// As which role.
    pub access: Access,
    /// Its pool mode unless the client asks for another.
    pub pool_mode: PoolMode,
}

impl User {
    /// Whether anybody can log in as it.
    #[must_use]
    pub fn has_password(&self) -> bool {
        !self.verifier.is_empty()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("tenants", &self.tenants)
            .field("access", &self.access)
            .field("pool_mode", &self.pool_mode)
            .finish_non_exhaustive()
    }
}
