//! The router's keys in the configuration file: each with a default, each limit with a name.

mod fixed;
mod validate;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use shard_map::ServerName;

pub(crate) use fixed::{RESTART_KEYS, keep_fixed};
pub use validate::InvalidConfig;
pub(crate) use validate::MESSAGE_BYTES_MAX_LEAST;

use crate::tls::TlsMode;

/// A text that is not shown where a configuration is.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Configuration of a router. Secrets are not in it, only the files that hold them.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouterConfig {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where Prometheus and health checks connect.
    pub metrics_listen: SocketAddr,
    /// Where other routers pass cancel requests on to; by default any free port at the address of `listen`.
    pub cancel_listen: Option<SocketAddr>,
    /// The router's name in the catalog; by default the host's name and the port that it listens on.
    pub name: Option<String>,
    /// The address at which clients reach it, as shown to operators; by default its name.
    pub advertise: Option<String>,
    /// Worker threads; by default one for each core.
    pub workers: Option<usize>,
    /// URL of the catalog. Without it, the router serves by its snapshot.
    #[serde(serialize_with = "hide")]
    pub catalog_url: Option<Secret>,
    /// File with the master key, base64.
    pub master_key_file: Option<PathBuf>,
    /// Where the last map is kept for the time when the catalog is down.
    pub snapshot_file: Option<PathBuf>,
    /// Servers by name, as `host:port`, to ask where a tenant is when neither map nor catalog can tell.
    pub servers: BTreeMap<ServerName, String>,
    /// Whether clients get TLS, and what is asked of them.
    pub tls_mode: TlsMode,
    /// The certificate shown to clients, with its chain, PEM.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// The authorities whose certificates clients may show, PEM.
    pub tls_ca_file: Option<PathBuf>,
    /// Whether a client whose certificate is for its user needs no password.
    pub tls_certificate_login: bool,
    /// A client that connects to `tenant.DOMAIN` by TLS wants that tenant.
    pub tls_sni_domain: Option<String>,
    /// Whether servers are connected to with TLS, and what is asked of them.
    pub server_tls_mode: TlsMode,
    /// The authorities whose certificates servers may show, or those certificates themselves, PEM.
    pub server_tls_ca_file: Option<PathBuf>,
    /// The certificate shown to servers, PEM.
    pub server_tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub server_tls_key_file: Option<PathBuf>,
    /// Whether a proxy in front tells the clients' addresses (PROXY protocol, version 2).
    pub proxy_protocol: bool,
    /// The networks of such proxies: believed, and required to tell.
    pub proxy_protocol_from: Vec<IpNet>,
    /// What is logged, such as `info` or `info,router=debug`; by default what the process was started with.
    pub log: Option<String>,
    /// Most clients connected at a time.
    pub clients_max: usize,
    /// Most clients of one tenant; 0 for as many as there may be.
    pub clients_per_tenant_max: usize,
    /// Most clients of one user; 0 for as many as there may be.
    pub clients_per_user_max: usize,
    /// Most clients from one address; 0 for as many as there may be.
    pub clients_per_address_max: usize,
    /// Most logins under way at a time: one more ends the oldest.
    pub logins_max: usize,
    /// Most failed logins from one address in a minute; 0 for any number.
    pub login_failures_per_address_max: u32,
    /// Most connections to servers for one tenant, over all its users.
    pub connections_per_tenant_max: usize,
    /// Connections to its server that a tenant gets before others get more, at each router.
    pub connections_per_tenant_min: usize,
    /// Most transactions of one tenant that wait at a time.
    pub queue_max: usize,
    /// How long a transaction waits for a server connection.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub queue_timeout: Duration,
    /// How long a login may take, from the first byte.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub login_timeout: Duration,
    /// How long a connection to a server may take, login included.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub connect_timeout: Duration,
    /// After how long an unused server connection is closed.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub idle_server_timeout: Duration,
    /// How long a server may take to answer a client's request, before it is cancelled; for ever, if not given.
    #[serde(deserialize_with = "shard_map::duration::deserialize_some")]
    pub query_timeout: Option<Duration>,
    /// How long a transaction may take, before its client is disconnected; for ever, if not given.
    #[serde(deserialize_with = "shard_map::duration::deserialize_some")]
    pub transaction_timeout: Option<Duration>,
    /// After how long a client that is idle in a transaction is disconnected; never, if not given.
    #[serde(deserialize_with = "shard_map::duration::deserialize_some")]
    pub idle_transaction_timeout: Option<Duration>,
    /// Longest message that a client may send, in bytes.
    pub message_bytes_max: usize,
    /// Most statements that are prepared on a server connection at a time; the one not used for longest gives way.
    pub prepared_per_connection_max: usize,
    /// Most prepared statements that a client has.
    pub prepared_per_client_max: usize,
    /// Most bytes that the prepared statements of all clients of a tenant have together: each text counts once, unnamed
    /// ones count for each client. At least 2 MiB.
    pub prepared_bytes_per_tenant_max: usize,
    /// How often the catalog is asked for changes, apart from its notifications; also the pause between attempts.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub poll_interval: Duration,
    /// How often the router reports to the catalog.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub report_interval: Duration,
    /// How long running transactions may take to end at shutdown.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub shutdown_timeout: Duration,
    /// Users who may do everything at the console, the database `tenantry`.
    pub admin_users: Vec<String>,
    /// Users who may look at everything there.
    pub stats_users: Vec<String>,
    /// How long PAUSE waits for running transactions to end.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub pause_timeout: Duration,
    /// Tenants that have metrics of their own, the busiest; the others' are added up. None of either, if 0.
    pub metrics_tenants_max: usize,
}

/// Shows that there is a secret, and not which.
fn hide<S: serde::Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|_| "(hidden)").serialize(to)
}

impl Default for RouterConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 6432)),
            metrics_listen: SocketAddr::from(([127, 0, 0, 1], 9632)),
            cancel_listen: None,
            name: None,
            advertise: None,
            workers: None,
            catalog_url: None,
            master_key_file: None,
            snapshot_file: None,
            servers: BTreeMap::new(),
            tls_mode: TlsMode::Disable,
            tls_cert_file: None,
            tls_key_file: None,
            tls_ca_file: None,
            tls_certificate_login: false,
            tls_sni_domain: None,
            server_tls_mode: TlsMode::Disable,
            server_tls_ca_file: None,
            server_tls_cert_file: None,
            server_tls_key_file: None,
            proxy_protocol: false,
            proxy_protocol_from: Vec::new(),
            log: None,
            clients_max: 10_000,
            clients_per_tenant_max: 0,
            clients_per_user_max: 0,
            clients_per_address_max: 0,
            logins_max: 10_000,
            login_failures_per_address_max: 100,
            connections_per_tenant_max: 20,
            connections_per_tenant_min: 0,
            queue_max: 1000,
            queue_timeout: Duration::from_secs(10),
            login_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            idle_server_timeout: Duration::from_secs(60),
            query_timeout: None,
            transaction_timeout: None,
            idle_transaction_timeout: None,
            message_bytes_max: 1 << 30,
            prepared_per_connection_max: 200,
            prepared_per_client_max: 10_000,
            prepared_bytes_per_tenant_max: 64 << 20,
            poll_interval: Duration::from_secs(1),
            report_interval: Duration::from_secs(1),
            shutdown_timeout: Duration::from_secs(30),
            admin_users: Vec::new(),
            stats_users: Vec::new(),
            pause_timeout: Duration::from_secs(30),
            metrics_tenants_max: 20,
        }
    }
}

impl RouterConfig {
    /// The router's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host = if host.trim().is_empty() { "localhost" } else { host.trim() };
            format!("{host}:{}", self.listen.port())
        })
    }

    /// Where other routers pass cancel requests on to.
    #[must_use]
    pub fn cancel_listen(&self) -> SocketAddr {
        self.cancel_listen.unwrap_or_else(|| SocketAddr::new(self.listen.ip(), 0))
    }

    /// Number of worker threads.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }
}

/// Splits `host:port`; an IPv6 address stands in brackets.
pub(crate) fn split_address(address: &str) -> Option<(String, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some((host.to_owned(), port.parse().ok()?)).filter(|(host, _)| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_a_configuration_and_unknown_keys_are_not() {
        let config: RouterConfig = toml::from_str("").unwrap();
        config.validate().unwrap();
        assert_eq!(config.idle_transaction_timeout, None);
        assert!(toml::from_str::<RouterConfig>("clients = 5").is_err());
        assert!(toml::from_str::<RouterConfig>("queue_timeout = 5").is_err());
        let config: RouterConfig =
            toml::from_str("idle_transaction_timeout = \"5m\"\nservers = { pg-1 = \"db:5432\" }").unwrap();
        assert_eq!(config.idle_transaction_timeout, Some(Duration::from_secs(300)));
        config.validate().unwrap();
    }

    #[test]
    fn a_configuration_can_be_shown() {
        let url = Some(Secret::from("postgres://a:hidden@b/c".to_owned()));
        let config = RouterConfig { catalog_url: url, ..RouterConfig::default() };
        assert!(!format!("{config:?}").contains("hidden"));
    }

    #[test]
    fn addresses_are_split_at_the_last_colon() {
        assert_eq!(split_address("db:5432"), Some(("db".into(), 5432)));
        assert_eq!(split_address("[::1]:5432"), Some(("::1".into(), 5432)));
        assert_eq!(split_address(":5432"), None);
        assert_eq!(split_address("db"), None);
    }
}
