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
        let body = file.take();
        [file.header(), body].concat()
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
        map.tenants.reserve(body.iter().filter(|b| **b == b'\n').count());
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
///
/// The file is never in memory as a whole: its parts are taken and written one after the other, behind a header that is
/// known when all were taken, and has the same length before.
pub struct SnapshotEncoder {
    version: i64,
    sum: Sha256,
    part: Vec<u8>,
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
        let mut file =
            Self { version, sum: Sha256::new_with_prefix(version.to_be_bytes()), part: Vec::new() };
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
        if serde_json::to_writer(&mut self.part, line).is_ok() {
            self.part.push(b'\n');
        }
    }

    /// The part of the file's body that was added since the last call.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        self.sum.update(&self.part);
        std::mem::take(&mut self.part)
    }

    /// What goes in front of the parts taken so far.
    #[must_use]
    pub fn header(&self) -> Vec<u8> {
        format!("{MAGIC} {} {}\n", self.version, hex(self.sum.clone())).into_bytes()
    }
}

fn checksum(version: i64, body: &[u8]) -> String {
    hex(Sha256::new_with_prefix(version.to_be_bytes()).chain_update(body))
}

fn hex(sum: Sha256) -> String {
    sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
