//! Records that a registry lost while its tenants' databases stayed: put back from what catalog, files and the other
//! registries know.
//!
//! A record says that a tenant may be served here, so nothing is guessed. A tenant is put back only if every server was
//! asked and none says that it lives there, its database is here under the name that its state asks for, and whoever
//! knows of it by the highest epoch says that it is here. An epoch is the highest that anybody may have seen.

use std::collections::BTreeMap;

use super::rebuild::Sources;
use super::view::{CatalogView, Home, Record, RecordState, Trusted, tenant_of_database};
use crate::ids::{Epoch, ServerName, TenantId};
use crate::tenant::{Tenant, TenantState};

/// The records to be put back, by server.
pub(crate) fn lost(
    catalog: &CatalogView,
    trusted: &Trusted<'_>,
    sources: &Sources,
) -> BTreeMap<ServerName, Vec<Record>> {
    let mut lost: BTreeMap<ServerName, Vec<Record>> = BTreeMap::new();
    // The tenant may live on a server that can't be asked.
    if !trusted.is_whole {
        return lost;
    }
    for (server, registry) in &trusted.registries {
        for database in &registry.databases {
            let Some(id) = tenant_of_database(database) else { continue };
            if trusted.records_of(&id).iter().any(|(at, _)| at == server) {
                continue;
            }
            let of = Lost { catalog, trusted, sources, id: &id, server };
            let record = if *database == id.sealed_database() { of.copy() } else { of.home(database) };
            if let Some(record) = record {
                lost.entry((*server).clone()).or_default().push(record);
            }
        }
    }
    lost
}

/// A tenant that has a database on a server, and no record there.
struct Lost<'a> {
    catalog: &'a CatalogView,
    trusted: &'a Trusted<'a>,
    sources: &'a Sources,
    id: &'a TenantId,
    server: &'a ServerName,
}

impl Lost<'_> {
    /// The record of a tenant that lives here.
    fn home(&self, database: &str) -> Option<Record> {
        let Home::Nowhere = self.trusted.home(self.id) else { return None };
        let busy = |kind: &str| kind != "move";
        let mut operations = self.catalog.operations.values().filter(|o| o.is_running());
        if operations.any(|o| o.tenant.as_ref() == Some(self.id) && busy(&o.kind)) {
            return None;
        }
        let filed = self.sources.file.as_ref().and_then(|file| file.tenants.get(self.id));
        let known: Vec<&Tenant> = self.catalog.tenants.get(self.id).into_iter().chain(filed).collect();
        let seals = self.trusted.records_of(self.id).iter().filter_map(|(_, record)| {
            let to = record.moved_to.as_ref().filter(|_| record.state == RecordState::Sealed)?;
            Some((to, record.epoch))
        });
        let said: Vec<(&ServerName, Epoch)> =
            known.iter().map(|tenant| (&tenant.server, tenant.epoch)).chain(seals).collect();
        let highest = said.iter().map(|(_, epoch)| *epoch).max()?;
        if said.iter().any(|(server, epoch)| *epoch == highest && *server != self.server) {
            return None;
        }
        // Whoever was told of it by a seal alone was told that it is open.
        let newest = known.iter().max_by_key(|tenant| tenant.epoch);
        let state = match newest.map_or(TenantState::Open, |tenant| tenant.state) {
            TenantState::Creating => return None,
            TenantState::Open => RecordState::Open,
            TenantState::Suspended => RecordState::Suspended,
            TenantState::Deleted => RecordState::Leaving,
        };
        let expected = match state {
            RecordState::Leaving => self.id.deleted_database(),
            _ => self.id.live_database().to_owned(),
        };
        let epoch = highest.max(self.seen_by_routers());
        (database == expected).then(|| self.record(database, epoch, state, None))
    }

    /// The record of a copy that a move left here, or is about to leave: the tenant went elsewhere.
    fn copy(&self) -> Option<Record> {
        let (to, epoch) = match self.trusted.home(self.id) {
            Home::At(to, record) => (to, record.epoch),
            // Sealed and not decided: the move's own business, which can't go on without the record.
            Home::Nowhere => {
                let row = self.catalog.tenants.get(self.id).filter(|row| row.server == *self.server)?;
                let mut moves = self.catalog.operations.values().filter(|operation| operation.is_running());
                let of_tenant = moves.find(|operation| {
                    operation.tenant.as_ref() == Some(self.id) && operation.from.as_ref() == Some(self.server)
                })?;
                let records = self.trusted.records_of(self.id);
                let (to, arriving) = records.iter().find(|(at, record)| {
                    record.state == RecordState::Arriving && of_tenant.to.as_ref() == Some(*at)
                })?;
                (*to, arriving.epoch.max(row.epoch.next()))
            }
            _ => return None,
        };
        Some(self.record(&self.id.sealed_database(), epoch, RecordState::Sealed, Some(to)))
    }

    fn record(
        &self,
        database: &str,
        epoch: Epoch,
        state: RecordState,
        moved_to: Option<&ServerName>,
    ) -> Record {
        Record {
            id: self.id.clone(),
            database: database.to_owned(),
            epoch,
            state,
            moved_to: moved_to.cloned(),
        }
    }

    /// No epoch is higher than the map's version at its time, so none that a router may have is higher than this. Only
    /// a catalog that is older than the routers does not know them all.
    fn seen_by_routers(&self) -> Epoch {
        let seen = self.catalog.routers_version;
        Epoch(if self.catalog.version.is_none_or(|version| version < seen) { seen } else { 0 })
    }
}
