//! One Postgres server, as operators declared it.

use serde::{Deserialize, Serialize};

use crate::ids::ServerName;
use crate::labels::Labels;
use crate::policy::{Capacity, Quota};

/// What a server is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerClass {
    /// Takes any tenant.
    #[default]
    Shared,
    /// Takes only tenants that were placed on it by name or by class.
    Dedicated,
}

impl ServerClass {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// Whether new tenants may be placed on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerState {
    /// Takes tenants.
    #[default]
    Active,
    /// Keeps what it has, takes nothing new.
    Draining,
}

impl ServerState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
        }
    }
}

/// A server. Holds no secret: every login is derived from the master key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its name in the map.
    pub name: ServerName,
    /// Host name or address, reachable from routers, control planes and the other servers.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What it is for.
    #[serde(default)]
    pub class: ServerClass,
    /// Server connections that routers may open here together.
    pub max_connections: u32,
    /// Labels for placement.
    #[serde(default)]
    pub labels: Labels,
    /// Whether it takes new tenants.
    #[serde(default)]
    pub state: ServerState,
    /// What it can bear, where that is not what its class can.
    #[serde(default, skip_serializing_if = "Capacity::is_empty")]
    pub capacity: Capacity,
    /// What each of its tenants gets that has no quota of its own: its class's.
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
}

impl Server {
    /// `host:port`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}
