//! What a router does with a new transaction of a tenant: forward it, hold it, or refuse it.

use std::time::SystemTime;

use crate::ids::TenantId;
use crate::server::Server;
use crate::snapshot::ShardMap;
use crate::tenant::{Hold, Tenant, TenantState};

/// Where a new transaction goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'map> {
    /// To this server.
    Forward(&'map Tenant, &'map Server),
    /// Nowhere yet: it waits until the hold ends.
    Hold(&'map Tenant, &'map Hold),
    /// Nowhere.
    Refuse(Refusal),
}

/// Why a tenant's transactions are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The map has no such tenant.
    UnknownTenant,
    /// Its database is still being made.
    Creating,
    /// An operator suspended it.
    Suspended,
    /// It was deleted.
    Deleted,
    /// Its server is not in the map.
    UnknownServer,
}

impl Refusal {
    /// The SQLSTATE that a client gets, by Postgres's conventions (appendix A of its manual).
    #[must_use]
    pub fn sqlstate(self) -> &'static str {
        match self {
            // invalid_catalog_name, as Postgres says for a database that does not exist.
            Self::UnknownTenant | Self::Deleted => "3D000",
            // cannot_connect_now: the same request may succeed later.
            Self::Creating | Self::Suspended | Self::UnknownServer => "57P03",
        }
    }
}

impl ShardMap {
    /// Decides for one tenant. A hold whose lease has run out no longer counts: the caller asks the registry then.
    #[must_use]
    pub fn route(&self, id: &TenantId, now: SystemTime) -> Route<'_> {
        let Some(tenant) = self.tenants.get(id) else {
            return Route::Refuse(Refusal::UnknownTenant);
        };
        match tenant.state {
            TenantState::Creating => return Route::Refuse(Refusal::Creating),
            TenantState::Suspended => return Route::Refuse(Refusal::Suspended),
            TenantState::Deleted => return Route::Refuse(Refusal::Deleted),
            TenantState::Open => {}
        }
        if let Some(hold) = self.holds.get(id).filter(|hold| hold.remaining(now).is_some()) {
            return Route::Hold(tenant, hold);
        }
        match self.servers.get(&tenant.server) {
            Some(server) => Route::Forward(tenant, server),
            None => Route::Refuse(Refusal::UnknownServer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::ids::{Epoch, ServerName};
    use crate::snapshot::Entry;

    fn map(state: TenantState) -> ShardMap {
        let mut map = ShardMap::default();
        map.insert(Entry::Tenant(Tenant {
            id: TenantId::new("acme").unwrap(),
            server: ServerName::new("pg-1").unwrap(),
            epoch: Epoch(1),
            state,
            labels: [].into(),
            key_version: 1,
            schema_version: None,
            quota: None,
            read_only: false,
        }));
        map
    }

    #[test]
    fn a_hold_counts_until_its_lease_runs_out() {
        let mut map = map(TenantState::Open);
        let acme = TenantId::new("acme").unwrap();
        map.insert(Entry::Hold(Hold { tenant: acme.clone(), id: 5, expires_at_ms: 2_000, begins_at_ms: 0 }));
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert!(matches!(map.route(&acme, at(1_999)), Route::Hold(..)));
        assert_eq!(map.route(&acme, at(2_000)), Route::Refuse(Refusal::UnknownServer));
    }

    #[test]
    fn each_state_has_its_own_answer() {
        let acme = TenantId::new("acme").unwrap();
        let refusal = |state| match map(state).route(&acme, UNIX_EPOCH) {
            Route::Refuse(refusal) => refusal.sqlstate(),
            _ => "none",
        };
        assert_eq!(refusal(TenantState::Suspended), "57P03");
        assert_eq!(refusal(TenantState::Deleted), "3D000");
        let nobody = TenantId::new("nobody").unwrap();
        assert_eq!(map(TenantState::Open).route(&nobody, UNIX_EPOCH), Route::Refuse(Refusal::UnknownTenant));
    }
}
