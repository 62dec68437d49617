//! Which values are allowed, each by itself and beside the others.

use std::time::Duration;

use super::{RouterConfig, split_address};
use crate::tls;

/// A value that is not allowed, with what is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {given} is not allowed: {allowed}")]
pub struct InvalidConfig {
    /// The key.
    pub key: &'static str,
    /// Its value.
    pub given: String,
    /// What is allowed.
    pub allowed: &'static str,
}

/// Fewest bytes that `message_bytes_max` may be: what is looked at is held whole up to here.
pub(crate) const MESSAGE_BYTES_MAX_LEAST: usize = 64 * 1024;

/// Fewest bytes that `prepared_bytes_per_tenant_max` may be: the longest text that is read must have room.
const PREPARED_BYTES_MAX_LEAST: usize = 2 << 20;

/// Shortest and longest time that may be given.
const TIMES: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(7 * 86_400);

impl RouterConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// [`InvalidConfig`] names the first key whose value is not allowed.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        self.validate_counts()?;
        self.validate_times()?;
        if self.connections_per_tenant_min > self.connections_per_tenant_max {
            return Err(InvalidConfig {
                key: "connections_per_tenant_min",
                given: self.connections_per_tenant_min.to_string(),
                allowed: "no more than connections_per_tenant_max",
            });
        }
        if self.proxy_protocol && self.proxy_protocol_from.is_empty() {
            return Err(InvalidConfig {
                key: "proxy_protocol_from",
                given: "[]".to_owned(),
                allowed: "the networks of the proxies, as in [\"10.0.0.0/8\"]",
            });
        }
        tls::validate(self)?;
        for address in self.servers.values() {
            if split_address(address).is_none() {
                let given = format!("{address:?}");
                return Err(InvalidConfig { key: "servers", given, allowed: "\"host:port\"" });
            }
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), InvalidConfig> {
        let counts = [
            ("workers", self.workers.unwrap_or(1), 1, 1024, "1 to 1024"),
            ("clients_max", self.clients_max, 1, 1_000_000, "1 to 1000000"),
            ("logins_max", self.logins_max, 1, 1_000_000, "1 to 1000000"),
            ("connections_per_tenant_max", self.connections_per_tenant_max, 1, 10_000, "1 to 10000"),
            ("connections_per_tenant_min", self.connections_per_tenant_min, 0, 10_000, "0 to 10000"),
            ("prepared_per_connection_max", self.prepared_per_connection_max, 1, 100_000, "1 to 100000"),
            ("prepared_per_client_max", self.prepared_per_client_max, 1, 1_000_000, "1 to 1000000"),
            (
                "prepared_bytes_per_tenant_max",
                self.prepared_bytes_per_tenant_max,
                PREPARED_BYTES_MAX_LEAST,
                1 << 40,
                "2097152 to 1099511627776",
            ),
            ("queue_max", self.queue_max, 1, 1_000_000, "1 to 1000000"),
            ("metrics_tenants_max", self.metrics_tenants_max, 0, 10_000, "0 to 10000"),
            (
                "message_bytes_max",
                self.message_bytes_max,
                MESSAGE_BYTES_MAX_LEAST,
                0x7fff_fffb,
                "65536 to 2147483643",
            ),
        ];
        for (key, given, least, most, allowed) in counts {
            if !(least..=most).contains(&given) {
                return Err(InvalidConfig { key, given: given.to_string(), allowed });
            }
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), InvalidConfig> {
        let durations = [
            ("queue_timeout", Some(self.queue_timeout)),
            ("login_timeout", Some(self.login_timeout)),
            ("connect_timeout", Some(self.connect_timeout)),
            ("idle_server_timeout", Some(self.idle_server_timeout)),
            ("query_timeout", self.query_timeout),
            ("transaction_timeout", self.transaction_timeout),
            ("idle_transaction_timeout", self.idle_transaction_timeout),
            ("poll_interval", Some(self.poll_interval)),
            ("report_interval", Some(self.report_interval)),
            ("shutdown_timeout", Some(self.shutdown_timeout)),
            ("pause_timeout", Some(self.pause_timeout)),
        ];
        for (key, given) in durations {
            let given = given.unwrap_or(Duration::from_secs(1));
            if !TIMES.contains(&given) {
                return Err(InvalidConfig {
                    key,
                    given: format!("{given:?}"),
                    allowed: "\"10ms\" to \"7d\"",
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_named() {
        let mut config = RouterConfig { clients_max: 0, ..RouterConfig::default() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "clients_max = 0 is not allowed: 1 to 1000000"
        );
        config.clients_max = 1;
        config.queue_timeout = Duration::ZERO;
        assert_eq!(config.validate().unwrap_err().key, "queue_timeout");
    }

    #[test]
    fn a_tenants_least_is_no_more_than_its_most() {
        let mut config = RouterConfig { connections_per_tenant_min: 21, ..RouterConfig::default() };
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "connections_per_tenant_min = 21 is not allowed: no more than connections_per_tenant_max"
        );
        config.connections_per_tenant_max = 21;
        config.validate().unwrap();
    }
}
