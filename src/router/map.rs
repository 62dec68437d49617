//! The map as all threads of the router see it.
//!
//! The lock is taken at logins and when a tenant's entry changes, never for a transaction: each worker keeps what it
//! needs of its tenants, and is told when to look again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use shard_map::policy::{Capacity, Quota};
use shard_map::{Entry, Server, ServerClass, ServerName, ServerState, ShardMap, Tenant, TenantId};

use crate::config::split_address;
use crate::registry::Moved;

/// The map, and whether there is one.
#[derive(Default)]
pub(crate) struct SharedMap {
    map: RwLock<ShardMap>,
    changes: AtomicU64,
    loaded: AtomicBool,
    followed: AtomicBool,
}

/// Connections that a server takes which is known from a registry only.
const CONNECTIONS_UNTIL_KNOWN: u32 = 50;

impl SharedMap {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, ShardMap> {
        self.map.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, ShardMap> {
        let map = self.map.write().unwrap_or_else(PoisonError::into_inner);
        self.changes.fetch_add(1, Ordering::AcqRel);
        map
    }

    /// Grows with every change, also with those that have no version: what a registry told.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether any map was ever loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load(Ordering::Acquire)
    }

    /// Whether the catalog tells of changes at present.
    pub(crate) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Acquire)
    }

    pub(crate) fn set_followed(&self, followed: bool) {
        self.followed.store(followed, Ordering::Release);
    }

    /// Puts a tenant in that a registry told of, and its server.
    pub(crate) fn discover(&self, server: Server, tenant: Tenant) {
        let mut map = self.write();
        if !map.servers.contains_key(&server.name) {
            map.insert(Entry::Server(server));
        }
        map.insert(Entry::Tenant(tenant));
    }

    /// Puts a whole map in the place of this one. What registries told of higher epochs stays, and so do tenants that
    /// serve: a catalog that lost them is damaged.
    pub(crate) fn replace(&self, mut new: ShardMap) {
        let mut map = self.write();
        new.take_over(&map);
        *map = new;
        drop(map);
        self.loaded.store(true, Ordering::Release);
    }

    /// Follows a tenant to where a registry says that it went; `false` when the map knows as much or more.
    pub(crate) fn follow(&self, id: &TenantId, moved: &Moved) -> bool {
        let mut map = self.write();
        let Some(tenant) = map.tenants.get(id).filter(|tenant| tenant.epoch < moved.epoch).cloned() else {
            return false;
        };
        if !map.servers.contains_key(&moved.server) {
            let Some(server) = unknown_server(&moved.server, moved.address.as_deref()) else {
                return false;
            };
            map.insert(Entry::Server(server));
        }
        map.insert(Entry::Tenant(Tenant { server: moved.server.clone(), epoch: moved.epoch, ..tenant }));
        true
    }
}

/// A server of which only the address is known.
pub(crate) fn unknown_server(name: &ServerName, address: Option<&str>) -> Option<Server> {
    let (host, port) = split_address(address?)?;
    Some(Server {
        name: name.clone(),
        host,
        port,
        class: ServerClass::default(),
        max_connections: CONNECTIONS_UNTIL_KNOWN,
        labels: [].into(),
        state: ServerState::default(),
        capacity: Capacity::default(),
        quota: Quota::default(),
    })
}

#[cfg(test)]
mod tests {
    use shard_map::{Epoch, TenantState};

    use super::*;

    fn tenant(server: &str, epoch: i64) -> Tenant {
        Tenant {
            id: TenantId::new("acme").unwrap(),
            server: ServerName::new(server).unwrap(),
            epoch: Epoch(epoch),
            state: TenantState::Open,
            labels: [].into(),
            key_version: 1,
            schema_version: None,
            quota: None,
            read_only: false,
        }
    }

    fn map(server: &str, epoch: i64) -> ShardMap {
        let mut map = ShardMap::default();
        map.insert(Entry::Tenant(tenant(server, epoch)));
        map
    }

    #[test]
    fn what_a_registry_told_survives_an_older_map_and_gives_way_to_a_newer_one() {
        let shared = SharedMap::default();
        assert!(!shared.is_loaded());
        shared.replace(map("a", 3));
        let id = TenantId::new("acme").unwrap();
        let moved = |epoch| Moved {
            server: ServerName::new("b").unwrap(),
            address: Some("db-b:5433".into()),
            epoch: Epoch(epoch),
        };
        assert!(!shared.follow(&id, &moved(3)), "an epoch that is no higher");
        assert!(shared.follow(&id, &moved(4)));
        assert_eq!(shared.read().tenants[&id].server.as_str(), "b");
        shared.replace(map("a", 3));
        assert_eq!(shared.read().tenants[&id].server.as_str(), "b");
        assert_eq!(shared.read().servers.values().next().unwrap().address(), "db-b:5433");
        shared.replace(map("c", 5));
        assert_eq!(shared.read().tenants[&id].server.as_str(), "c");
    }
}
