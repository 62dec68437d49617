//! The whole map at one version: looked up, changed entry by entry, and kept in a file that proves itself.
//!
//! The file is a header line and one JSON line an entry. The header carries the version and a SHA-256 of it and the rest, so
//! that a torn or altered file is never taken for a map. Where the file goes and when it is synced is the router's part.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{ServerName, TenantId};
use crate::server::Server;
use crate::tenant::{Hold, Tenant};
use crate::user::User;

const MAGIC: &str = "tenantry-shard-map/1";

/// One entry of the map: its new value, or its name when it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A server.
    Server(Server),
    /// A tenant.
    Tenant(Tenant),
    /// A user.
    User(User),
    /// A hold.
    Hold(Hold),
    /// This server is gone.
    NoServer(ServerName),
    /// This tenant is gone.
    NoTenant(TenantId),
    /// This user is gone.
    NoUser(String),
    /// This tenant is held no more.
    NoHold(TenantId),
}

/// One step of the change log. Versions have no gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The map's version after this change.
    pub version: i64,
    /// What changed.
    pub entry: Entry,
}

/// A change that can't be applied: something between was missed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the map is at version {at}; a change to version {to} does not follow")]
pub struct Gap {
    /// The map's version.
    pub at: i64,
    /// The change's version.
    pub to: i64,
}

/// Why a snapshot file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadSnapshot {
    /// Not a snapshot, or of another format version.
    #[error("not a snapshot of format {MAGIC}")]
    Format,
    /// Contents and checksum differ.
    #[error("its checksum does not match: the file is torn or was altered")]
    Checksum,
    /// An entry can't be read although the checksum is right.
    #[error("line {line}: {source}")]
    Entry {
        /// Line number in the file.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// The shard map at one version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardMap {
    /// Version of the change log that it stands at.
    pub version: i64,
    /// Tenants by id.
    pub tenants: HashMap<TenantId, Tenant>,
    /// Servers by name.
    pub servers: HashMap<ServerName, Server>,
    /// Users by login name.
    pub users: HashMap<String, User>,
    /// Holds by tenant.
    pub holds: HashMap<TenantId, Hold>,
}

impl ShardMap {
    /// Applies the next change of the log.
    ///
    /// A tenant's epoch never goes back: an entry with a lower one than the map's is passed over.
    ///
    /// # Errors
    /// [`Gap`] when the change's version is not this map's plus one; the map is unchanged then.
    pub fn apply(&mut self, change: Change) -> Result<(), Gap> {
        if change.version != self.version + 1 {
            return Err(Gap { at: self.version, to: change.version });
        }
        self.insert(change.entry);
        self.version = change.version;
        Ok(())
    }

    /// Puts one entry in, without regard to versions: for loading, and for what a registry told about a tenant.
    pub fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Server(server) => drop(self.servers.insert(server.name.clone(), server)),
            Entry::Tenant(mut tenant) => {
                // One copy of a server's name for all its tenants: there may be 100,000.
                if let Some((name, _)) = self.servers.get_key_value(&tenant.server) {
                    tenant.server = name.clone();
                }
                let newer = self.tenants.get(&tenant.id).is_none_or(|known| known.epoch <= tenant.epoch);
                if newer {
                    self.tenants.insert(tenant.id.clone(), tenant);
                }
            }
            Entry::User(user) => drop(self.users.insert(user.name.clone(), user)),
            Entry::Hold(hold) => drop(self.holds.insert(hold.tenant.clone(), hold)),
            Entry::NoServer(name) => drop(self.servers.remove(&name)),
            Entry::NoTenant(id) => {
                self.tenants.remove(&id);
                self.holds.remove(&id);
            }
            Entry::NoUser(name) => drop(self.users.remove(&name)),
            Entry::NoHold(id) => drop(self.holds.remove(&id)),
        }
    }

    /// The map as a snapshot file's contents. Holds are left out: they are leases of seconds, the file is for outages.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut file = SnapshotEncoder::new(self.version);
        self.servers.values().for_each(|server| file.server(server));
        self.users.values().for_each(|user| file.user(user));
        self.tenants.values().for_each(|tenant| file.tenant(tenant));
        file.finish()
    }

    /// Reads a snapshot file's contents.
    ///
    /// # Errors
    /// [`BadSnapshot`] when it is not whole and unaltered.
    pub fn decode(file: &[u8]) -> Result<Self, BadSnapshot> {
        let end = file.iter().position(|b| *b == b'\n').ok_or(BadSnapshot::Format)?;
        let header = std::str::from_utf8(&file[..end]).map_err(|_| BadSnapshot::Format)?;
        let body = &file[end + 1..];
        let mut words = header.split(' ');
        let (magic, version, sum) = (words.next(), words.next(), words.next());
        if magic != Some(MAGIC) {
            return Err(BadSnapshot::Format);
        }
        let version = version.and_then(|v| v.parse().ok()).ok_or(BadSnapshot::Format)?;
        if sum != Some(checksum(version, body).as_str()) {
            return Err(BadSnapshot::Checksum);
        }
        let mut map = Self { version, ..Self::default() };
        let lines = body.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        for (index, line) in lines {
            let entry = serde_json::from_slice(line)
                .map_err(|source| BadSnapshot::Entry { line: index + 2, source })?;
            map.insert(entry);
        }
        Ok(map)
    }
}

/// Makes a snapshot file entry by entry, so that whoever shares the map need not keep it still, or copy it, for as long as
/// that takes. An entry that is newer than the version does no harm: the changes after that version bring it once more.
pub struct SnapshotEncoder {
    version: i64,
    body: Vec<u8>,
}

/// An entry as a line of the file, read by [`Entry`].
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Server(&'a Server),
    User(&'a User),
    Tenant(&'a Tenant),
}

impl SnapshotEncoder {
    /// Begins a file of a map at this version.
    #[must_use]
    pub fn new(version: i64) -> Self {
        Self { version, body: Vec::new() }
    }

    /// Adds a server.
    pub fn server(&mut self, server: &Server) {
        self.line(&Line::Server(server));
    }

    /// Adds a user.
    pub fn user(&mut self, user: &User) {
        self.line(&Line::User(user));
    }

    /// Adds a tenant.
    pub fn tenant(&mut self, tenant: &Tenant) {
        self.line(&Line::Tenant(tenant));
    }

    fn line(&mut self, line: &Line<'_>) {
        // Entries are plain structs with string keys: their JSON can't fail, and a Vec takes every write.
        if serde_json::to_writer(&mut self.body, line).is_ok() {
            self.body.push(b'\n');
        }
    }

    /// The file's contents.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let header = format!("{MAGIC} {} {}\n", self.version, checksum(self.version, &self.body));
        [header.into_bytes(), self.body].concat()
    }
}

fn checksum(version: i64, body: &[u8]) -> String {
    Sha256::new()
        .chain_update(version.to_be_bytes())
        .chain_update(body)
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;
    use crate::server::{ServerClass, ServerState};
    use crate::tenant::TenantState;

    fn tenant(id: &str, epoch: i64) -> Tenant {
        Tenant {
            id: TenantId::new(id).unwrap(),
            server: ServerName::new("pg-1").unwrap(),
            epoch: Epoch(epoch),
            state: TenantState::Open,
            labels: [("plan".to_owned(), "gold".to_owned())].into(),
            key_version: 1,
            schema_version: None,
        }
    }

    fn small_map() -> ShardMap {
        let mut map = ShardMap { version: 7, ..ShardMap::default() };
        map.insert(Entry::Tenant(tenant("acme", 3)));
        map.insert(Entry::Server(Server {
            name: ServerName::new("pg-1").unwrap(),
            host: "10.0.0.1".into(),
            port: 5432,
            class: ServerClass::Shared,
            max_connections: 90,
            labels: [].into(),
            state: ServerState::Active,
        }));
        map
    }

    #[test]
    fn a_file_gives_back_the_map() {
        let map = small_map();
        assert_eq!(ShardMap::decode(&map.encode()).unwrap(), map);
    }

    #[test]
    fn a_torn_or_altered_file_is_never_taken() {
        let file = small_map().encode();
        for length in 0..file.len() {
            assert!(ShardMap::decode(&file[..length]).is_err(), "cut at {length}");
        }
        for at in 0..file.len() {
            let mut altered = file.clone();
            altered[at] ^= 1;
            assert!(ShardMap::decode(&altered).is_err(), "bit at {at}");
        }
    }

    #[test]
    fn changes_follow_one_another_without_a_gap() {
        let mut map = small_map();
        let change = |version| Change { version, entry: Entry::NoTenant(TenantId::new("acme").unwrap()) };
        assert_eq!(map.apply(change(9)), Err(Gap { at: 7, to: 9 }));
        assert_eq!(map.tenants.len(), 1);
        map.apply(change(8)).unwrap();
        assert_eq!((map.version, map.tenants.len()), (8, 0));
    }

    #[test]
    fn an_epoch_never_goes_back() {
        let mut map = small_map();
        map.apply(Change { version: 8, entry: Entry::Tenant(tenant("acme", 2)) }).unwrap();
        assert_eq!(map.tenants[&TenantId::new("acme").unwrap()].epoch, Epoch(3));
    }
}
