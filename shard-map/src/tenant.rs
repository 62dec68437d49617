//! One tenant and where it lives, and the hold under which its new transactions wait.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, ServerName, TenantId};
use crate::labels::Labels;
use crate::policy::Quota;
use crate::server::Server;

/// What the map says about a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantState {
    /// Its database is being made.
    Creating,
    /// It serves.
    Open,
    /// An operator suspended it; nothing is lost.
    Suspended,
    /// It was deleted; until the grace time ends it can come back.
    Deleted,
}

impl TenantState {
    /// The word for it in SQL, JSON and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
        }
    }
}

/// A tenant's placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// The account.
    pub id: TenantId,
    /// Where its database is open.
    pub server: ServerName,
    /// Version of this placement.
    pub epoch: Epoch,
    /// Whether it serves.
    pub state: TenantState,
    /// Labels for selectors.
    #[serde(default)]
    pub labels: Labels,
    /// Version of the key from which its roles' passwords are derived.
    pub key_version: i32,
    /// Version of its schema, as the last migration left it.
    #[serde(default)]
    pub schema_version: Option<i32>,
    /// Its own quota. Boxed, since most of a large map's tenants have none.
    #[serde(default, deserialize_with = "read_quota", skip_serializing_if = "Option::is_none")]
    pub quota: Option<Box<Quota>>,
    /// Over its size: it is read, and not written to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
}

/// An empty one is none.
fn read_quota<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Quota>>, D::Error> {
    let quota = Quota::deserialize(deserializer)?;
    Ok((!quota.is_empty()).then(|| Box::new(quota)))
}

impl Tenant {
    /// What it may use on this server: its own quota, and where that says nothing, the server's class's.
    #[must_use]
    pub fn quota_on(&self, server: &Server) -> Quota {
        self.quota.as_deref().copied().unwrap_or_default().or(&server.quota)
    }

    /// Whether it may be taken off the map: only what was deleted, or never served, is.
    #[must_use]
    pub fn may_vanish(&self) -> bool {
        matches!(self.state, TenantState::Deleted | TenantState::Creating)
    }
}

/// Time until then, in milliseconds since 1970; none when that has passed.
fn until(at_ms: i64, now: SystemTime) -> Duration {
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(at_ms).unwrap_or(0));
    at.duration_since(now).unwrap_or_default()
}

/// New transactions of a tenant wait at the routers while this exists and has not run out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Whose transactions wait.
    pub tenant: TenantId,
    /// Its own number: each attempt at a cutover places another hold, and routers acknowledge to this one.
    pub id: i64,
    /// When the lease runs out, in milliseconds since 1970 (UTC). Then a router asks the server's registry.
    pub expires_at_ms: i64,
    /// When it begins, in the same way; 0 is at once.
    #[serde(default)]
    pub begins_at_ms: i64,
}

impl Hold {
    /// How much of the lease is left; `None` when it has run out.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Option<Duration> {
        Some(until(self.expires_at_ms, now)).filter(|left| !left.is_zero())
    }

    /// How long until it begins; nothing once it has.
    #[must_use]
    pub fn begins_in(&self, now: SystemTime) -> Duration {
        until(self.begins_at_ms, now)
    }
}
