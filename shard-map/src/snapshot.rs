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
use crate::trail::Trail;
use crate::user::User;

const MAGIC: &str = "tenantry-shard-map/2";
/// The format before, which has no trail.
const MAGIC_BEFORE: &str = "tenantry-shard-map/1";

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
    /// Tells it from every other change, also from one of the same version on another timeline.
    pub mark: i64,
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
    /// By which changes it came there.
    pub trail: Trail,
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
        self.trail.go_on(change.version, change.mark);
        Ok(())
    }

    /// Puts one entry in, without regard to versions: for loading, and for what a registry told about a tenant.
    ///
    /// What no correct catalog says is not believed, so that a damaged one stops changes and not traffic: a placement
    /// has one server for each epoch, and a tenant leaves the map by way of `deleted` (or `creating`, if its creation
    /// failed).
    pub fn insert(&mut self, entry: Entry) {
        match entry {
            Entry::Server(server) => drop(self.servers.insert(server.name.clone(), server)),
            Entry::Tenant(mut tenant) => {
                // One copy of a server's name for all its tenants: there may be 100,000.
                if let Some((name, _)) = self.servers.get_key_value(&tenant.server) {
                    tenant.server = name.clone();
                }
                let known = self.tenants.get(&tenant.id);
                if let Some(known) = known.filter(|known| known.epoch == tenant.epoch) {
                    tenant.server = known.server.clone();
                }
                if known.is_none_or(|known| known.epoch <= tenant.epoch) {
                    self.tenants.insert(tenant.id.clone(), tenant);
                }
            }
            Entry::User(user) => drop(self.users.insert(user.name.clone(), user)),
            Entry::Hold(hold) => drop(self.holds.insert(hold.tenant.clone(), hold)),
            Entry::NoServer(name) => {
                if self.tenants.values().all(|tenant| tenant.server != name) {
                    self.servers.remove(&name);
                }
            }
            Entry::NoTenant(id) => {
                if self.tenants.get(&id).is_some_and(Tenant::may_vanish) {
                    self.tenants.remove(&id);
                }
                self.holds.remove(&id);
            }
            Entry::NoUser(name) => drop(self.users.remove(&name)),
            Entry::NoHold(id) => drop(self.holds.remove(&id)),
        }
    }

    /// Takes over from the map that was served by until now what this one, loaded as a whole, can't have lost in good
    /// order: higher epochs, tenants that serve, and the servers of both; of the same version and timeline, users as well.
    pub fn take_over(&mut self, before: &Self) {
        if self.version == before.version && !self.trail.parts_from(&before.trail) {
            for (name, user) in &before.users {
                self.users.entry(name.clone()).or_insert_with(|| user.clone());
            }
        }
        for (id, known) in &before.tenants {
            match self.tenants.get_mut(id) {
                Some(tenant) if tenant.epoch < known.epoch => {
                    tenant.server = known.server.clone();
                    tenant.epoch = known.epoch;
                }
                None if !known.may_vanish() => drop(self.tenants.insert(id.clone(), known.clone())),
                _ => continue,
            }
            if let (None, Some(server)) = (self.servers.get(&known.server), before.servers.get(&known.server))
            {
                self.servers.insert(server.name.clone(), server.clone());
            }
        }
    }

    /// The map as a snapshot file's contents. Holds are left out: they are leases of seconds, the file is for outages.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut file = SnapshotEncoder::new(self.version, &self.trail);
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
        if !matches!(magic, Some(MAGIC | MAGIC_BEFORE)) {
            return Err(BadSnapshot::Format);
        }
        let version = version.and_then(|v| v.parse().ok()).ok_or(BadSnapshot::Format)?;
        if sum != Some(checksum(version, body).as_str()) {
            return Err(BadSnapshot::Checksum);
        }
        let mut map = Self { version, ..Self::default() };
        let lines = body.split(|b| *b == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
        for (index, line) in lines {
            let unreadable = |source| BadSnapshot::Entry { line: index + 2, source };
            if line.starts_with(TRAIL_BEGINS) {
                map.trail = serde_json::from_slice::<TrailLine>(line).map_err(unreadable)?.trail;
            } else {
                map.insert(serde_json::from_slice(line).map_err(unreadable)?);
            }
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

/// A line of the file.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Trail(&'a Trail),
    Server(&'a Server),
    User(&'a User),
    Tenant(&'a Tenant),
}

/// The line that is no entry, as it is read.
#[derive(Deserialize)]
struct TrailLine {
    trail: Trail,
}

/// How that line begins: there may be 100,000 others, which are not to be read twice.
const TRAIL_BEGINS: &[u8] = b"{\"trail\":";

impl SnapshotEncoder {
    /// Begins a file of a map at this version, which came there by this trail.
    #[must_use]
    pub fn new(version: i64, trail: &Trail) -> Self {
        let mut file = Self { version, body: Vec::new() };
        file.line(&Line::Trail(trail));
        file
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
    use crate::policy::Capacity;
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
        let trail = Trail::of([(6, 61), (7, 71)].into_iter());
        let mut map = ShardMap { version: 7, trail, ..ShardMap::default() };
        map.insert(Entry::Tenant(tenant("acme", 3)));
        map.insert(Entry::Server(Server {
            name: ServerName::new("pg-1").unwrap(),
            host: "10.0.0.1".into(),
            port: 5432,
            class: ServerClass::Shared,
            max_connections: 90,
            labels: [].into(),
            state: ServerState::Active,
            capacity: Capacity::default(),
        }));
        map
    }

    #[test]
    fn a_file_gives_back_the_map() {
        let map = small_map();
        assert_eq!(ShardMap::decode(&map.encode()).unwrap(), map);
    }

    #[test]
    fn a_file_of_the_format_before_is_read_and_has_no_trail() {
        let map = ShardMap { trail: Trail::default(), ..small_map() };
        let file = String::from_utf8(map.encode()).unwrap();
        let body = file.lines().skip(2).map(|line| format!("{line}\n")).collect::<String>();
        let before = format!("{MAGIC_BEFORE} 7 {}\n{body}", checksum(7, body.as_bytes()));
        assert_eq!(ShardMap::decode(before.as_bytes()).unwrap(), map);
        assert!(ShardMap::decode(before.replace("-map/1", "-map/3").as_bytes()).is_err());
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
        let change = |version| Change {
            version,
            mark: version,
            entry: Entry::NoTenant(TenantId::new("acme").unwrap()),
        };
        map.tenants.values_mut().for_each(|tenant| tenant.state = TenantState::Deleted);
        assert_eq!(map.apply(change(9)), Err(Gap { at: 7, to: 9 }));
        assert_eq!(map.tenants.len(), 1);
        map.apply(change(8)).unwrap();
        assert_eq!((map.version, map.tenants.len()), (8, 0));
    }

    #[test]
    fn an_epoch_never_goes_back() {
        let mut map = small_map();
        map.apply(Change { version: 8, mark: 8, entry: Entry::Tenant(tenant("acme", 2)) }).unwrap();
        assert_eq!(map.tenants[&TenantId::new("acme").unwrap()].epoch, Epoch(3));
    }

    #[test]
    fn what_only_a_damaged_catalog_says_is_not_believed() {
        let acme = TenantId::new("acme").unwrap();
        let mut map = small_map();
        let elsewhere = |epoch| Tenant { server: ServerName::new("pg-2").unwrap(), ..tenant("acme", epoch) };
        map.insert(Entry::Tenant(elsewhere(3)));
        assert_eq!(map.tenants[&acme].server.as_str(), "pg-1", "another server at the same epoch");
        map.insert(Entry::NoTenant(acme.clone()));
        map.insert(Entry::NoServer(ServerName::new("pg-1").unwrap()));
        assert_eq!((map.tenants.len(), map.servers.len()), (1, 1), "an open tenant vanishes");
        map.insert(Entry::Tenant(elsewhere(4)));
        assert_eq!(map.tenants[&acme].server.as_str(), "pg-2");
        map.insert(Entry::Tenant(Tenant { state: TenantState::Deleted, ..elsewhere(4) }));
        map.insert(Entry::NoTenant(acme));
        map.insert(Entry::NoServer(ServerName::new("pg-1").unwrap()));
        assert_eq!((map.tenants.len(), map.servers.len()), (0, 0), "deleted in order");
    }

    #[test]
    fn a_map_that_is_loaded_anew_takes_over_what_it_cannot_have_lost() {
        let mut empty = ShardMap { version: 9, ..ShardMap::default() };
        empty.take_over(&small_map());
        assert_eq!((empty.version, empty.tenants.len(), empty.servers.len()), (9, 1, 1));
        let mut before = small_map();
        before.tenants.values_mut().for_each(|tenant| tenant.state = TenantState::Deleted);
        let mut later = ShardMap::default();
        later.take_over(&before);
        assert!(later.tenants.is_empty(), "it was deleted, and is gone by now");
        let user = User {
            name: "web".to_owned(),
            verifier: String::new(),
            tenants: "*".parse().unwrap(),
            access: crate::user::Access::App,
            pool_mode: crate::user::PoolMode::Transaction,
        };
        let mut with_user = small_map();
        with_user.users.insert(user.name.clone(), user);
        for (version, mark, users) in [(7, 71, 1), (7, 72, 0), (8, 71, 0)] {
            let trail = Trail::of([(version, mark)].into_iter());
            let mut emptied = ShardMap { version, trail, ..ShardMap::default() };
            emptied.take_over(&with_user);
            assert_eq!(emptied.users.len(), users, "only another version, or timeline, can have dropped it");
        }
        // At the same epoch the whole map counts: that is how a damaged one is set right.
        let mut repaired = small_map();
        repaired.tenants.values_mut().for_each(|t| t.server = ServerName::new("pg-2").unwrap());
        repaired.take_over(&small_map());
        assert!(repaired.tenants.values().all(|tenant| tenant.server.as_str() == "pg-2"));
    }
}
