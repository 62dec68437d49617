//! The map as a plain file, for backup and review: what `map export` writes and `map import` reads.
//!
//! A header line with version and checksum, then one JSON object a line, in a fixed order, so that two exports can be
//! compared line by line. A router's snapshot is read as well. Users' SCRAM verifiers are in it: whoever has the file can
//! try passwords against them, so it is for its owner's eyes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::view::CatalogView;
use crate::ids::{ServerName, TenantId};
use crate::policy::PlacementPolicy;
use crate::server::Server;
use crate::snapshot::{BadSnapshot, ShardMap};
use crate::tenant::Tenant;
use crate::user::User;

const MAGIC: &str = "tenantry-map-export/1";

/// A map in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapFile {
    /// Version of the map.
    pub version: i64,
    /// Placement policies; a router's snapshot has none.
    pub policy: Option<PlacementPolicy>,
    /// Servers by name.
    pub servers: BTreeMap<ServerName, Server>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Tenants by id.
    pub tenants: BTreeMap<TenantId, Tenant>,
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadMapFile {
    /// Neither an export nor a snapshot.
    #[error("it is neither an exported map ({MAGIC}) nor a router's snapshot")]
    Format,
    /// Contents and checksum differ.
    #[error("its checksum does not match: the file is torn or was altered")]
    Checksum,
    /// A line can't be read although the checksum is right.
    #[error("line {line}: {source}")]
    Line {
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A snapshot that is not sound.
    #[error(transparent)]
    Snapshot(#[from] BadSnapshot),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Policy(PlacementPolicy),
    Server(Server),
    User(User),
    Tenant(Tenant),
}

impl MapFile {
    /// What the catalog has.
    #[must_use]
    pub fn of(catalog: &CatalogView) -> Self {
        let servers = catalog.servers.values().map(|known| (known.server.name.clone(), known.server.clone()));
        Self {
            version: catalog.version.unwrap_or(0),
            policy: catalog.policy.clone(),
            servers: servers.collect(),
            users: catalog.users.clone(),
            tenants: catalog.tenants.clone(),
        }
    }

    /// The file's contents.
    ///
    /// # Errors
    /// When a value can't be written as JSON, which no value of these types is.
    pub fn encode(&self) -> serde_json::Result<String> {
        let mut body = String::new();
        let policy = self.policy.iter().cloned().map(Line::Policy);
        let servers = self.servers.values().cloned().map(Line::Server);
        let users = self.users.values().cloned().map(Line::User);
        let tenants = self.tenants.values().cloned().map(Line::Tenant);
        for line in policy.chain(servers).chain(users).chain(tenants) {
            body += &serde_json::to_string(&line)?;
            body.push('\n');
        }
        Ok(format!("{MAGIC} {} {}\n{body}", self.version, checksum(self.version, body.as_bytes())))
    }

    /// Reads an export or a router's snapshot.
    ///
    /// # Errors
    /// [`BadMapFile`] when it is not whole and unaltered.
    pub fn decode(file: &[u8]) -> Result<Self, BadMapFile> {
        let end = file.iter().position(|byte| *byte == b'\n').ok_or(BadMapFile::Format)?;
        let (header, body) = (&file[..end], &file[end + 1..]);
        let header = std::str::from_utf8(header).map_err(|_| BadMapFile::Format)?;
        let mut words = header.split(' ');
        if words.next() != Some(MAGIC) {
            return match ShardMap::decode(file) {
                Err(BadSnapshot::Format) => Err(BadMapFile::Format),
                outcome => Ok(Self::of_snapshot(outcome?)),
            };
        }
        let version = words.next().and_then(|v| v.parse().ok()).ok_or(BadMapFile::Format)?;
        if words.next() != Some(checksum(version, body).as_str()) {
            return Err(BadMapFile::Checksum);
        }
        let mut map = Self { version, ..Self::default() };
        let lines = body.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        for (index, line) in lines {
            let unreadable = |source| BadMapFile::Line { line: index + 2, source };
            match serde_json::from_slice(line).map_err(unreadable)? {
                Line::Policy(policy) => map.policy = Some(policy),
                Line::Server(server) => drop(map.servers.insert(server.name.clone(), server)),
                Line::User(user) => drop(map.users.insert(user.name.clone(), user)),
                Line::Tenant(tenant) => drop(map.tenants.insert(tenant.id.clone(), tenant)),
            }
        }
        Ok(map)
    }

    fn of_snapshot(map: ShardMap) -> Self {
        Self {
            version: map.version,
            policy: None,
            servers: map.servers.into_iter().collect(),
            users: map.users.into_iter().collect(),
            tenants: map.tenants.into_iter().collect(),
        }
    }
}

fn checksum(version: i64, body: &[u8]) -> String {
    let sum = Sha256::new().chain_update(version.to_be_bytes()).chain_update(body).finalize();
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}
