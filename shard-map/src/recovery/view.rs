//! What is seen: the catalog on one side, each server's registry and databases on the other.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{ARRIVING_SUFFIX, DELETED_SUFFIX, Epoch, SEALED_SUFFIX, ServerName, TenantId};
use crate::policy::PlacementPolicy;
use crate::server::Server;
use crate::tenant::{Tenant, TenantState};
use crate::user::User;

/// A server as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogServer {
    /// As the map has it.
    #[serde(flatten)]
    pub server: Server,
    /// Identity of the Postgres cluster behind it.
    pub system_identifier: i64,
}

/// An operation that is not over, or whose number a move on the servers has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationView {
    /// Its number.
    pub id: i64,
    /// `create`, `move`, …
    pub kind: String,
    /// Whose it is.
    pub tenant: Option<TenantId>,
    /// `running`, `switched`, or how it ended.
    pub state: String,
    /// The step begun last.
    pub step: String,
    /// A move's source.
    pub from: Option<ServerName>,
    /// A move's target.
    pub to: Option<ServerName>,
    /// The id that a rename gives.
    pub becomes: Option<TenantId>,
}

impl OperationView {
    pub(crate) fn is_running(&self) -> bool {
        self.state == "running"
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_running() || self.state == "switched"
    }
}

/// The catalog, as far as recovery deals with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CatalogView {
    /// Which fleet it says that it is of.
    pub fleet: Option<String>,
    /// Its last leader's term; 0 without one.
    pub term: i64,
    /// Version of its map; `None` when even that is lost.
    pub version: Option<i64>,
    /// Highest version that a router reported to it.
    pub routers_version: i64,
    /// Servers by name.
    pub servers: BTreeMap<ServerName, CatalogServer>,
    /// Tenants by id.
    pub tenants: BTreeMap<TenantId, Tenant>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Placement policies, if any were declared.
    pub policy: Option<PlacementPolicy>,
    /// Operations by number.
    pub operations: BTreeMap<i64, OperationView>,
    /// The highest number that an operation was given.
    pub operation_number: i64,
}

impl CatalogView {
    /// The fleet that it is of. An empty one was made just now, and may turn out to be of any.
    pub(crate) fn fleet_if_known(&self) -> Option<&str> {
        let is_empty = self.servers.is_empty() && self.tenants.is_empty();
        self.fleet.as_deref().filter(|_| !is_empty)
    }

    /// Whether an operation will see to what is left of a tenant's databases.
    pub(crate) fn has_open_operation(&self, id: &TenantId) -> bool {
        self.operations.values().any(|operation| operation.is_open() && operation.tenant.as_ref() == Some(id))
    }

    /// Tenants that an operation is changing just now.
    pub(crate) fn busy(&self) -> BTreeSet<&TenantId> {
        let running = self.operations.values().filter(|operation| operation.is_running());
        running.flat_map(|operation| operation.tenant.iter().chain(&operation.becomes)).collect()
    }
}

/// State of a registry's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordState {
    /// On its way here, by a move.
    Arriving,
    /// It serves here.
    Open,
    /// It went elsewhere.
    Sealed,
    /// It is here and suspended.
    Suspended,
    /// It is here and deleted; its grace time goes on.
    Leaving,
}

impl RecordState {
    /// The word for it in a registry.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Arriving => "arriving",
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Suspended => "suspended",
            Self::Leaving => "leaving",
        }
    }

    /// What the catalog says of a tenant with this record; `None` if the record does not say that it lives here.
    pub(crate) fn tenant_state(self) -> Option<TenantState> {
        match self {
            Self::Open => Some(TenantState::Open),
            Self::Suspended => Some(TenantState::Suspended),
            Self::Leaving => Some(TenantState::Deleted),
            Self::Arriving | Self::Sealed => None,
        }
    }
}

/// A registry's record of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The tenant.
    pub id: TenantId,
    /// Its database here.
    pub database: String,
    /// Version of its placement.
    pub epoch: Epoch,
    /// What it is here.
    pub state: RecordState,
    /// Where it went.
    pub moved_to: Option<ServerName>,
}

/// All that was read of one server, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// Identity of its Postgres cluster.
    pub system_identifier: i64,
    /// The fleet that it belongs to.
    pub fleet: Option<String>,
    /// The highest controller term that it has seen.
    pub term: i64,
    /// Its records.
    pub records: Vec<Record>,
    /// Databases there, without Postgres's own and the registry.
    pub databases: BTreeSet<String>,
    /// Prepared databases that it has on record.
    pub stock: BTreeSet<String>,
    /// Moves whose source it is and that are not completed: their numbers, and the database each may stream from.
    pub moves: BTreeMap<i64, String>,
    /// The highest number of any move that left a role, slot or subscription here.
    pub move_number: i64,
    /// Connections that it can give to routers.
    pub connections_max: u32,
    /// What the server, which is armed, has lost of its registry, in words; records apart.
    pub lacks: Option<&'static str>,
}

/// What came of looking at a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It answered.
    Registry(Box<Registry>),
    /// It did not, or is not armed: why, in words.
    Unreachable(String),
}

/// What was seen of each server.
pub type Survey = BTreeMap<ServerName, Seen>;

/// A survey less what can't be believed: servers that do not answer, other clusters, and other fleets.
pub(crate) struct Trusted<'a> {
    pub(crate) registries: BTreeMap<&'a ServerName, &'a Registry>,
    /// Whether all servers of the survey are in it.
    pub(crate) is_whole: bool,
    /// Servers that were asked, whatever they answered.
    asked: BTreeSet<&'a ServerName>,
    records: BTreeMap<&'a TenantId, Vec<(&'a ServerName, &'a Record)>>,
}

/// Where a tenant lives, by the registries.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Home<'a> {
    /// Here.
    At(&'a ServerName, &'a Record),
    /// More than one server says so; the highest epoch first.
    Disputed(Vec<(&'a ServerName, &'a Record)>),
    /// Sealed at its source, not open at its target: a cutover that is not decided.
    InTransit { from: &'a ServerName, to: &'a ServerName, epoch: Epoch },
    /// It went to a server that can't be asked.
    Sent { to: &'a ServerName, epoch: Epoch },
    /// No server that can be asked says that it lives there.
    Nowhere,
}

impl<'a> Trusted<'a> {
    /// `fleet`: the one that counts, if it is known.
    pub(crate) fn new(catalog: &CatalogView, survey: &'a Survey, fleet: Option<&str>) -> Self {
        let mut registries = BTreeMap::new();
        for (name, seen) in survey {
            let Seen::Registry(registry) = seen else { continue };
            let same_cluster = catalog
                .servers
                .get(name)
                .is_none_or(|known| known.system_identifier == registry.system_identifier);
            let same_fleet = fleet.is_none() || registry.fleet.as_deref().is_none_or(|id| Some(id) == fleet);
            if same_cluster && same_fleet {
                registries.insert(name, &**registry);
            }
        }
        let mut records: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, registry) in &registries {
            for record in &registry.records {
                records.entry(&record.id).or_default().push((*name, record));
            }
        }
        let asked = survey.keys().collect();
        Self { is_whole: registries.len() == survey.len(), registries, asked, records }
    }

    /// All tenants that are on record anywhere.
    pub(crate) fn tenants(&self) -> impl Iterator<Item = &'a TenantId> + '_ {
        self.records.keys().copied()
    }

    pub(crate) fn records_of(&self, id: &TenantId) -> &[(&'a ServerName, &'a Record)] {
        self.records.get(id).map_or(&[], Vec::as_slice)
    }

    /// Whether neither the catalog nor any file names the server: it was removed, or never of this fleet.
    pub(crate) fn is_unknown(&self, catalog: &CatalogView, server: &ServerName) -> bool {
        !self.asked.contains(server) && !catalog.servers.contains_key(server)
    }

    pub(crate) fn home(&self, id: &TenantId) -> Home<'a> {
        let records = self.records_of(id);
        let mut holders: Vec<_> =
            records.iter().filter(|(_, record)| record.state.tenant_state().is_some()).copied().collect();
        holders.sort_by_key(|(_, record)| std::cmp::Reverse(record.epoch));
        match holders.as_slice() {
            [(server, record)] => return Home::At(server, record),
            [] => {}
            _ => return Home::Disputed(holders),
        }
        let sealed = records.iter().filter(|(_, record)| record.state == RecordState::Sealed);
        let Some((from, seal)) = sealed.max_by_key(|(_, record)| record.epoch) else { return Home::Nowhere };
        let Some(to) = &seal.moved_to else { return Home::Nowhere };
        let arriving =
            |(at, record): &(&ServerName, &Record)| *at == to && record.state == RecordState::Arriving;
        if records.iter().any(arriving) {
            Home::InTransit { from, to, epoch: seal.epoch }
        } else if self.registries.contains_key(to) {
            Home::Nowhere
        } else {
            Home::Sent { to, epoch: seal.epoch }
        }
    }

    /// Whether a server has a database of the tenant, under any of its names.
    pub(crate) fn has_database(&self, id: &TenantId) -> bool {
        let names =
            [id.as_str().to_owned(), id.arriving_database(), id.sealed_database(), id.deleted_database()];
        self.registries.values().any(|registry| names.iter().any(|name| registry.databases.contains(name)))
    }

    /// The highest term that any server has seen.
    pub(crate) fn term(&self) -> i64 {
        self.registries.values().map(|registry| registry.term).max().unwrap_or(0)
    }
}

/// Whose database this would be, by its name.
#[must_use]
pub fn tenant_of_database(name: &str) -> Option<TenantId> {
    let bare = [ARRIVING_SUFFIX, SEALED_SUFFIX, DELETED_SUFFIX].iter().find_map(|s| name.strip_suffix(s));
    TenantId::new(bare.unwrap_or(name)).ok()
}
