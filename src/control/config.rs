//! The control plane's configuration. Each key has a default that suits a small fleet.

use std::path::PathBuf;
use std::time::Duration;

use catalog::tls::{TlsMode, TlsOptions};
use serde::Deserialize;
use shard_map::MasterKey;

use crate::dump_place::DumpPlace;

/// Configuration of one control-plane instance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Address and port of the HTTP API and of `/metrics`.
    pub listen: String,
    /// The API's certificate with those between it and its authority, PEM. With it, the port speaks TLS and nothing else.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key, PEM.
    pub tls_key_file: Option<PathBuf>,
    /// This instance's name in the lease. Default: `listen`.
    pub name: Option<String>,
    /// Directory with `pg_dump` and `pg_restore`, of at least the newest major version in the fleet. Default: of
    /// those that Debian's packages installed, for each server the oldest that is not older than it.
    pub pg_bin: Option<PathBuf>,
    /// Directory for schema dumps of moves under way, and for the instance's lock file. Default: the system's temporary directory.
    pub work_dir: PathBuf,
    /// How long the lease lasts without renewal: another instance takes over after that.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub lease_duration: Duration,
    /// Most tenants on one server; placement passes over a server that has as many.
    pub tenants_per_server_max: u32,
    /// Most databases made at once on all servers together.
    pub provisions_max: usize,
    /// Prepared databases that each shared server keeps for new tenants; 0: none. A declared policy counts before this.
    pub stock_per_server: u32,
    /// How long a deleted tenant's database is kept.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub delete_grace: Duration,
    /// Where a last dump of each tenant that is dropped goes: a directory, or `s3://bucket/prefix`. Without it, none is made.
    pub deleted_dump_dir: Option<DumpPlace>,
    /// Most moves and clones at once that a server may take part in, as source or target.
    pub moves_per_server_max: usize,
    /// Connections that copy rows, for each move.
    pub copy_workers: usize,
    /// Most bytes a second that moves, clones and dumps copy from or to one server. They go slower when routers see other
    /// tenants' transactions there take longer.
    pub copy_bytes_per_second_max: u64,
    /// How long the creation of a replication slot may wait for the source's open transactions.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub slot_timeout: Duration,
    /// How long a move can be turned round without a copy, and its sealed copy is kept on the old server.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub reverse_window: Duration,
    /// Most bytes of log that a server keeps for one move under way; beyond it, the move is undone.
    pub move_wal_bytes_max: u64,
    /// Most bytes of log that a server keeps for one tenant that could go back; beyond it, that way back is closed.
    pub reverse_wal_bytes_max: u64,
    /// A router that did not report within this time is silent.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub router_timeout: Duration,
    /// A router that was silent for longer is taken for dead even if it did not shut down; until then nobody is cut over
    /// without it, as its clients' transactions would be cut off.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub router_lost_after: Duration,
    /// How often the leader compares the catalog with all registries and databases.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub map_check_interval: Duration,
    /// How often the leader measures what servers and tenants use.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub measure_interval: Duration,
    /// How long the audit log is kept.
    #[serde(deserialize_with = "shard_map::duration::deserialize")]
    pub audit_keep: Duration,
    /// TLS to servers, also of `pg_dump`, `pg_restore` and of servers among themselves: `disable`, `prefer`, `require`,
    /// `verify-ca` or `verify-full`.
    pub server_tls_mode: TlsMode,
    /// Certificates of the authorities that servers' certificates are of, PEM.
    pub server_tls_ca_file: Option<PathBuf>,
    /// The same, where it is on the servers: by it a move's target checks its source. Default: `server_tls_ca_file`.
    pub server_tls_ca_file_on_servers: Option<PathBuf>,
    /// A certificate to show to servers, PEM.
    pub server_tls_cert_file: Option<PathBuf>,
    /// Its key.
    pub server_tls_key_file: Option<PathBuf>,
}

impl Default for ControlConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7432".to_owned(),
            tls_cert_file: None,
            tls_key_file: None,
            name: None,
            pg_bin: None,
            work_dir: std::env::temp_dir(),
            lease_duration: Duration::from_secs(5),
            tenants_per_server_max: 5_000,
            provisions_max: 4,
            stock_per_server: 4,
            delete_grace: Duration::from_secs(24 * 3600),
            deleted_dump_dir: None,
            moves_per_server_max: 2,
            copy_workers: 2,
            copy_bytes_per_second_max: 200 << 20,
            slot_timeout: Duration::from_secs(60),
            reverse_window: Duration::from_secs(24 * 3600),
            move_wal_bytes_max: 16 << 30,
            reverse_wal_bytes_max: 4 << 30,
            router_timeout: Duration::from_secs(5),
            router_lost_after: Duration::from_secs(30),
            map_check_interval: Duration::from_secs(300),
            measure_interval: Duration::from_secs(60),
            audit_keep: Duration::from_secs(90 * 24 * 3600),
            server_tls_mode: TlsMode::Disable,
            server_tls_ca_file: None,
            server_tls_ca_file_on_servers: None,
            server_tls_cert_file: None,
            server_tls_key_file: None,
        }
    }
}

impl ControlConfig {
    /// Checks what a type can't say.
    ///
    /// # Errors
    /// One line that names the key and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let at_least_one = [
            ("provisions_max", self.provisions_max as u64),
            ("moves_per_server_max", self.moves_per_server_max as u64),
            ("copy_workers", self.copy_workers as u64),
            ("copy_bytes_per_second_max", self.copy_bytes_per_second_max),
            ("move_wal_bytes_max", self.move_wal_bytes_max),
            ("reverse_wal_bytes_max", self.reverse_wal_bytes_max),
            ("tenants_per_server_max", u64::from(self.tenants_per_server_max)),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{key}: 0 is not allowed, use 1 or more"));
        }
        if self.lease_duration < Duration::from_secs(1) {
            return Err("lease_duration: use 1s or more".to_owned());
        }
        if self.measure_interval < Duration::from_secs(1) {
            return Err("measure_interval: use 1s or more".to_owned());
        }
        if self.map_check_interval < Duration::from_secs(1) {
            return Err("map_check_interval: use 1s or more".to_owned());
        }
        if self.router_lost_after < self.router_timeout {
            return Err("router_lost_after: use router_timeout or more".to_owned());
        }
        if self.tls_cert_file.is_some() != self.tls_key_file.is_some() {
            let key = if self.tls_cert_file.is_some() { "tls_key_file" } else { "tls_cert_file" };
            return Err(format!("{key}: is missing: certificate and key go together"));
        }
        self.server_tls().validate()
    }

    /// TLS of the API, if it is to have it.
    pub(crate) fn api_tls(&self) -> crate::Result<Option<crate::http::Tls>> {
        let files = self.tls_cert_file.as_deref().zip(self.tls_key_file.as_deref());
        files.map(|(cert, key)| crate::http::Tls::new(cert, key)).transpose()
    }

    /// TLS to servers.
    pub(crate) fn server_tls(&self) -> TlsOptions {
        TlsOptions {
            mode: self.server_tls_mode,
            ca_file: self.server_tls_ca_file.clone(),
            cert_file: self.server_tls_cert_file.clone(),
            key_file: self.server_tls_key_file.clone(),
            keys: TlsOptions::CONFIG_KEYS,
        }
    }
}

/// What the control plane must not log: read by the caller from files or the environment.
#[derive(Clone)]
pub struct Secrets {
    /// The catalog's URL, with its password if it has one.
    pub catalog_url: String,
    /// The key from which all server-side passwords are derived.
    pub master_key: MasterKey,
    /// The bearer token that the API asks for.
    pub token: String,
}
