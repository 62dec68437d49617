//! What operators declare about placement: what a server can bear, what tenants of a class get, who must not live
//! together. Kept in the catalog as it was declared, so that what is added to it here needs no table of its own.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes::Bytes;
use crate::duration;
use crate::server::ServerClass;

/// Policies for choosing a server for a new tenant, and what its tenants get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlacementPolicy {
    /// Most tenants that are placed on one server for which neither it nor its class says otherwise.
    pub tenants_per_server_max: u32,
    /// Keys of labels: tenants that have the same value go to different servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub anti_affinity: Vec<String>,
    /// The connection quotas of a server's tenants may add up to so many times what it gives to routers; any number of
    /// times when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_overcommit: Option<u32>,
    /// Prepared databases that each shared server keeps; the control plane's configuration counts when not said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stock_per_server: Option<u32>,
    /// Of shared servers.
    #[serde(skip_serializing_if = "ClassPolicy::is_empty")]
    pub shared: ClassPolicy,
    /// Of dedicated servers.
    #[serde(skip_serializing_if = "ClassPolicy::is_empty")]
    pub dedicated: ClassPolicy,
}

impl Default for PlacementPolicy {
    fn default() -> Self {
        Self {
            tenants_per_server_max: 10_000,
            anti_affinity: Vec::new(),
            connections_overcommit: None,
            stock_per_server: None,
            shared: ClassPolicy::default(),
            dedicated: ClassPolicy::default(),
        }
    }
}

impl PlacementPolicy {
    /// What is declared for servers of a class.
    #[must_use]
    pub fn class(&self, class: ServerClass) -> &ClassPolicy {
        match class {
            ServerClass::Shared => &self.shared,
            ServerClass::Dedicated => &self.dedicated,
        }
    }

    /// Checks what types can't say.
    ///
    /// # Errors
    /// The key that is wrong, and what is allowed there.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        if self.tenants_per_server_max == 0 {
            return Err(("tenants_per_server_max".to_owned(), "must be at least 1"));
        }
        if self.connections_overcommit == Some(0) {
            return Err(("connections_overcommit".to_owned(), "must be at least 1"));
        }
        let is_key = |key: &String| crate::selector::parse_label(&format!("{key}=x")).is_ok();
        if !self.anti_affinity.iter().all(is_key) {
            return Err(("anti_affinity".to_owned(), "keys are made of A-Z, a-z, 0-9, _, ., / and -"));
        }
        for (name, class) in [("shared", &self.shared), ("dedicated", &self.dedicated)] {
            let within = |part: &str, field: &str| format!("{name}.{part}.{field}");
            class.capacity.check().map_err(|field| (within("capacity", field), "must be at least 1"))?;
            class.quota.check().map_err(|(field, message)| (within("quota", field), message))?;
        }
        Ok(())
    }
}

/// What is declared for servers of a class and the tenants on them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClassPolicy {
    /// Of each server that does not declare its own.
    #[serde(skip_serializing_if = "Capacity::is_empty")]
    pub capacity: Capacity,
    /// Of each tenant that has none of its own.
    #[serde(skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
}

impl ClassPolicy {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a server can bear. What is not said has no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// Tenants placed on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants_max: Option<u32>,
    /// Bytes of all its databases together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_max: Option<Bytes>,
    /// Sessions at work at once, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_sessions_max: Option<u32>,
}

impl Capacity {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This, and where it says nothing, the other.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            tenants_max: self.tenants_max.or(other.tenants_max),
            bytes_max: self.bytes_max.or(other.bytes_max),
            active_sessions_max: self.active_sessions_max.or(other.active_sessions_max),
        }
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.tenants_max == Some(0) {
            return Err("tenants_max");
        }
        if self.bytes_max == Some(Bytes(0)) {
            return Err("bytes_max");
        }
        if self.active_sessions_max == Some(0) { Err("active_sessions_max") } else { Ok(()) }
    }
}

/// What a tenant may use. What is not said has no limit of the tenant's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quota {
    /// Server connections that a router opens for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// How long a statement may take.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "write_time",
        deserialize_with = "read_time"
    )]
    pub statement_timeout: Option<Duration>,
    /// Bytes of its database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
}

impl Quota {
    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This, and where it says nothing, the other.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            connections: self.connections.or(other.connections),
            statement_timeout: self.statement_timeout.or(other.statement_timeout),
            size: self.size.or(other.size),
        }
    }

    /// Checks what types can't say.
    ///
    /// # Errors
    /// The key that is wrong, and what is allowed there.
    pub fn check(&self) -> Result<(), (&'static str, &'static str)> {
        if self.connections == Some(0) {
            return Err(("connections", "must be at least 1; suspend a tenant to keep it out"));
        }
        let milliseconds = self.statement_timeout.map(|time| time.as_millis());
        if milliseconds.is_some_and(|ms| ms == 0 || i32::try_from(ms).is_err()) {
            return Err(("statement_timeout", "must be from 1ms to 24d"));
        }
        if self.size == Some(Bytes(0)) { Err(("size", "must be at least 1B")) } else { Ok(()) }
    }
}

#[expect(clippy::ref_option, reason = "serde calls it so")]
fn write_time<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => serializer.serialize_str(&format!("{}ms", time.as_millis())),
        None => serializer.serialize_none(),
    }
}

fn read_time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration::deserialize_some(deserializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_kept_and_what_is_not_has_a_default() {
        let text = "
            tenants_per_server_max = 500
            anti_affinity = ['group']
            [shared]
            capacity = { bytes_max = '200GB' }
            quota = { connections = 20, statement_timeout = '30s', size = '10GB' }";
        let policy: PlacementPolicy = toml::from_str(text).unwrap();
        assert_eq!(policy.check(), Ok(()));
        let kept = serde_json::to_string(&policy).unwrap();
        assert_eq!(serde_json::from_str::<PlacementPolicy>(&kept).unwrap(), policy);
        assert_eq!(serde_json::from_str::<PlacementPolicy>("{}").unwrap(), PlacementPolicy::default());
        let own = Quota { connections: Some(5), ..Quota::default() };
        let quota = own.or(&policy.class(ServerClass::Shared).quota);
        assert_eq!((quota.connections, quota.statement_timeout), (Some(5), Some(Duration::from_secs(30))));
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, key) in [
            ("tenants_per_server_max = 0", "tenants_per_server_max"),
            ("connections_overcommit = 0", "connections_overcommit"),
            ("anti_affinity = ['a b']", "anti_affinity"),
            ("shared = { capacity = { bytes_max = '0B' } }", "shared.capacity.bytes_max"),
            ("dedicated = { quota = { connections = 0 } }", "dedicated.quota.connections"),
            ("shared = { quota = { statement_timeout = '30d' } }", "shared.quota.statement_timeout"),
        ] {
            let policy: PlacementPolicy = toml::from_str(text).unwrap();
            assert_eq!(policy.check().unwrap_err().0, key);
        }
    }
}
