//! Names each difference between the catalog, the registries and the servers' databases.

use serde::{Deserialize, Serialize};

use super::moves::{self, Trace};
use super::view::{CatalogView, Home, RecordState, Seen, Survey, Trusted, tenant_of_database};
use crate::ids::{ServerName, TenantId};

/// What kind of difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A server does not answer, or is not armed.
    UnreachableServer,
    /// Another Postgres cluster answers at a server's address.
    AnotherCluster,
    /// A server's registry belongs to another fleet.
    AnotherFleet,
    /// A server is armed and has no registry any more, or not all of it.
    LostRegistry,
    /// A server that the fleet has is not in the catalog.
    MissingServer,
    /// The catalog's term is lower than one that a registry has seen: every change is refused.
    TermBehind,
    /// The catalog's map is older than what routers serve by: they do not follow it.
    VersionBehind,
    /// More than one registry says that a tenant lives there.
    TwoClaims,
    /// The catalog has a tenant on another server than the registries.
    WrongServer,
    /// The catalog's epoch of a tenant is lower than its registry's.
    EpochBehind,
    /// The catalog's epoch of a tenant is higher than its registry's: the registry is older.
    EpochAhead,
    /// Catalog and registry agree on the place, not on the state.
    StateDiffers,
    /// A registry has a tenant that the catalog does not.
    MissingTenant,
    /// The catalog has a tenant that no registry does.
    MissingRecord,
    /// A registry's record names a database that does not exist.
    MissingDatabase,
    /// A database that no record accounts for.
    OrphanDatabase,
    /// A move left things on the servers that no operation of the catalog will see to.
    LostMove,
    /// A move's sealed copy whose tenant went to a server that is not of the fleet any more.
    KeptCopy,
    /// An operation of the catalog is over, as the servers show, or older than what they say.
    StaleOperation,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 19] = [
        Self::UnreachableServer,
        Self::AnotherCluster,
        Self::AnotherFleet,
        Self::LostRegistry,
        Self::MissingServer,
        Self::TermBehind,
        Self::VersionBehind,
        Self::TwoClaims,
        Self::WrongServer,
        Self::EpochBehind,
        Self::EpochAhead,
        Self::StateDiffers,
        Self::MissingTenant,
        Self::MissingRecord,
        Self::MissingDatabase,
        Self::OrphanDatabase,
        Self::LostMove,
        Self::KeptCopy,
        Self::StaleOperation,
    ];

    /// The word for it in JSON and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnreachableServer => "unreachable_server",
            Self::AnotherCluster => "another_cluster",
            Self::AnotherFleet => "another_fleet",
            Self::LostRegistry => "lost_registry",
            Self::MissingServer => "missing_server",
            Self::TermBehind => "term_behind",
            Self::VersionBehind => "version_behind",
            Self::TwoClaims => "two_claims",
            Self::WrongServer => "wrong_server",
            Self::EpochBehind => "epoch_behind",
            Self::EpochAhead => "epoch_ahead",
            Self::StateDiffers => "state_differs",
            Self::MissingTenant => "missing_tenant",
            Self::MissingRecord => "missing_record",
            Self::MissingDatabase => "missing_database",
            Self::OrphanDatabase => "orphan_database",
            Self::LostMove => "lost_move",
            Self::KeptCopy => "kept_copy",
            Self::StaleOperation => "stale_operation",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What kind.
    pub kind: Kind,
    /// At which server.
    pub server: Option<ServerName>,
    /// Whose.
    pub tenant: Option<TenantId>,
    /// Which database.
    pub database: Option<String>,
    /// What it is, in words.
    pub detail: String,
}

impl Finding {
    /// Whether both are the same difference, whatever the words.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind
            && self.server == other.server
            && self.tenant == other.tenant
            && self.database == other.database
    }
}

/// Gathers findings.
struct Findings<'a> {
    catalog: &'a CatalogView,
    trusted: Trusted<'a>,
    found: Vec<Finding>,
}

/// All differences, kind by kind. What an operation is changing just now is left to it, but for two claims, which no
/// operation makes.
#[must_use]
pub fn find(catalog: &CatalogView, survey: &Survey) -> Vec<Finding> {
    let trusted = Trusted::new(catalog, survey, catalog.fleet_if_known());
    let mut findings = Findings { catalog, trusted, found: Vec::new() };
    findings.servers(survey);
    findings.tenants();
    findings.databases();
    findings.operations();
    findings.found.sort_by(|a, b| {
        (a.kind, &a.server, &a.tenant, &a.database).cmp(&(b.kind, &b.server, &b.tenant, &b.database))
    });
    findings.found
}

impl Findings<'_> {
    fn add(&mut self, kind: Kind, server: Option<&ServerName>, tenant: Option<&TenantId>, detail: String) {
        let (server, tenant) = (server.cloned(), tenant.cloned());
        self.found.push(Finding { kind, server, tenant, database: None, detail });
    }

    fn add_database(&mut self, kind: Kind, server: &ServerName, database: &str, detail: String) {
        let tenant = tenant_of_database(database).or_else(|| TenantId::of_doomed(database));
        let server = Some(server.clone());
        self.found.push(Finding { kind, server, tenant, database: Some(database.to_owned()), detail });
    }

    fn servers(&mut self, survey: &Survey) {
        for (name, seen) in survey {
            let registry = match seen {
                Seen::Registry(registry) => registry,
                Seen::Unreachable(why) => {
                    self.add(Kind::UnreachableServer, Some(name), None, why.clone());
                    continue;
                }
            };
            let known = self.catalog.servers.get(name).map(|known| known.system_identifier);
            if known.is_none() {
                self.add(Kind::MissingServer, Some(name), None, "the catalog does not have it".to_owned());
            }
            if known.is_some_and(|known| known != registry.system_identifier) {
                let detail = format!("it is cluster {} now", registry.system_identifier);
                self.add(Kind::AnotherCluster, Some(name), None, detail);
            } else if let (Some(ours), Some(theirs)) = (self.catalog.fleet_if_known(), &registry.fleet)
                && ours != theirs
            {
                let detail = format!("its registry is of fleet {theirs}, the catalog of {ours}");
                self.add(Kind::AnotherFleet, Some(name), None, detail);
            }
            if let Some(lacks) = registry.lacks {
                self.add(Kind::LostRegistry, Some(name), None, format!("it is armed, and has lost {lacks}"));
            }
            if registry.term > self.catalog.term {
                let detail =
                    format!("it has seen term {}, the catalog's is {}", registry.term, self.catalog.term);
                self.add(Kind::TermBehind, Some(name), None, detail);
            }
        }
        let version = self.catalog.version;
        if version.is_none_or(|version| version < self.catalog.routers_version) {
            let at = version.map_or_else(|| "lost".to_owned(), |version| version.to_string());
            let detail = format!("the map's version is {at}, a router's {}", self.catalog.routers_version);
            self.add(Kind::VersionBehind, None, None, detail);
        }
    }

    fn tenants(&mut self) {
        let catalog = self.catalog;
        let busy = catalog.busy();
        let known = catalog.tenants.keys().chain(self.trusted.tenants());
        let all: std::collections::BTreeSet<TenantId> = known.cloned().collect();
        for id in &all {
            let home = self.trusted.home(id);
            if let Home::Disputed(holders) = &home {
                let places: Vec<_> =
                    holders.iter().map(|(server, r)| format!("{server} at epoch {}", r.epoch)).collect();
                let detail = format!("it lives on {}", places.join(" and on "));
                self.add(Kind::TwoClaims, None, Some(id), detail);
                continue;
            }
            if !busy.contains(id) {
                self.tenant(id, &home);
            }
        }
    }

    fn tenant(&mut self, id: &TenantId, home: &Home<'_>) {
        let row = self.catalog.tenants.get(id);
        match (row, home) {
            (Some(row), Home::At(server, record)) => {
                if row.server != **server {
                    let detail = format!("the catalog has it on {}, it lives on {server}", row.server);
                    self.add(Kind::WrongServer, Some(server), Some(id), detail);
                }
                let epochs = format!("{} in the catalog, {} on {server}", row.epoch, record.epoch);
                if row.epoch < record.epoch {
                    self.add(Kind::EpochBehind, Some(server), Some(id), epochs);
                } else if row.epoch > record.epoch {
                    self.add(Kind::EpochAhead, Some(server), Some(id), epochs);
                }
                if record.state.tenant_state() != Some(row.state) {
                    let there = record.state.tenant_state().map_or("", |state| state.as_str());
                    let detail = format!("{} in the catalog, {there} on {server}", row.state.as_str());
                    self.add(Kind::StateDiffers, Some(server), Some(id), detail);
                }
            }
            (None, Home::At(server, record)) => {
                let detail = format!("on {server} at epoch {}", record.epoch);
                self.add(Kind::MissingTenant, Some(server), Some(id), detail);
            }
            (None, Home::InTransit { from, to, .. }) => {
                let detail = format!("sealed on {from}, on its way to {to}");
                self.add(Kind::MissingTenant, Some(from), Some(id), detail);
            }
            // Unless it may be on a server that can't be asked.
            (Some(row), Home::Nowhere)
                if self.trusted.is_whole || self.trusted.registries.contains_key(&row.server) =>
            {
                let detail = format!("{} on {} in the catalog", row.state.as_str(), row.server);
                self.add(Kind::MissingRecord, Some(&row.server), Some(id), detail);
            }
            (Some(row), Home::InTransit { from, .. }) if row.server != **from => {
                let detail = format!("the catalog has it on {}, it is sealed on {from}", row.server);
                self.add(Kind::WrongServer, Some(from), Some(id), detail);
            }
            _ => {}
        }
    }

    fn databases(&mut self) {
        let busy = self.catalog.busy();
        let registries: Vec<_> = self.trusted.registries.iter().map(|(name, r)| (*name, *r)).collect();
        for (server, registry) in registries {
            let expected: std::collections::BTreeSet<&str> =
                registry.records.iter().map(|record| record.database.as_str()).collect();
            let is_busy = |database: &str| tenant_of_database(database).is_some_and(|id| busy.contains(&id));
            for record in &registry.records {
                // A sealed copy is dropped in its time, and the record stays.
                let there =
                    record.state == RecordState::Sealed || registry.databases.contains(&record.database);
                if !there && !is_busy(&record.database) {
                    let detail = format!("tenant {} is on record there", record.id);
                    self.add_database(Kind::MissingDatabase, server, &record.database, detail);
                }
            }
            for database in &registry.databases {
                let is_stock = registry.stock.contains(database);
                let doomed = TenantId::of_doomed(database);
                if doomed.as_ref().is_some_and(|id| self.catalog.has_open_operation(id)) {
                    continue;
                }
                if !expected.contains(database.as_str()) && !is_stock && !is_busy(database) {
                    let detail = match doomed {
                        Some(_) => "it was being dropped, and nothing goes on with that",
                        None => "no tenant on record has it",
                    };
                    self.add_database(Kind::OrphanDatabase, server, database, detail.to_owned());
                }
            }
        }
    }

    fn operations(&mut self) {
        for trace in moves::lost(self.catalog, &self.trusted) {
            let left_for = moves::left_for(self.catalog, &self.trusted, &trace);
            let Trace { number, server, database, .. } = trace;
            let whose = number.map_or_else(|| "a move".to_owned(), |number| format!("move {number}"));
            if let Some(to) = left_for {
                let streams = number.map(|_| ", with its replication slot and role").unwrap_or_default();
                let detail = format!("sealed by {whose} to {to}, which is not of this fleet{streams}");
                self.add_database(Kind::KeptCopy, server, database, detail);
                continue;
            }
            let detail = format!("of {whose} that no operation of the catalog will see to");
            self.add_database(Kind::LostMove, server, database, detail);
        }
        for (operation, why) in moves::stale(self.catalog, &self.trusted) {
            let detail = format!("{} {}: {why}", operation.kind, operation.id);
            self.add(Kind::StaleOperation, None, operation.tenant.as_ref(), detail);
        }
    }
}
