//! The catalog as it follows from the registries: what `map rebuild` changes.
//!
//! Placements, epochs and states come from the registries alone; what these have lost is put back first, and then
//! everything is decided as if it had been there. Labels, key versions, users and limits, which
//! registries do not know, stay as the catalog has them, or come from a file if that is newer. Nothing is lowered, nothing
//! is decided that the registries do not decide, and what can't be resolved is left as it is and said.

use std::collections::{BTreeMap, BTreeSet};

use super::changes::{Changes, OperationChange};
use super::file::MapFile;
use super::findings::{Finding, find};
use super::moves;
use super::records;
use super::view::{CatalogServer, CatalogView, Home, Seen, Survey, Trusted};
use crate::fleet::{DeclaredServer, Fleet};
use crate::ids::{Epoch, ServerName, TenantId};
use crate::server::Server;
use crate::tenant::{Tenant, TenantState};
use crate::user::User;

/// Key version of a tenant of which nobody knows another.
const FIRST_KEY_VERSION: i32 = 1;

/// Files beside catalog and registries.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The declared fleet.
    pub declared: Option<Fleet>,
    /// A router's snapshot, or an exported map.
    pub file: Option<MapFile>,
    /// A map of any age, from which nothing is taken but users that nobody else has.
    pub users: Option<MapFile>,
    /// The fleet has no users, or they are to be made anew: a map without any is meant.
    pub without_users: bool,
}

impl Sources {
    /// Whether they have servers, and so addresses, of their own.
    #[must_use]
    pub fn name_servers(&self) -> bool {
        self.declared.is_some() || self.file.is_some()
    }

    /// Whether one of these is none of the catalog's: then they have an address that it did not give.
    #[must_use]
    pub fn name_others(&self, catalog: &CatalogView) -> bool {
        self.servers(catalog).iter().any(|server| !catalog.servers.contains_key(&server.name))
    }

    /// The servers to look at: those of the catalog, and what the declaration and the file name beside them. What the
    /// catalog still has is not declared anew by this: `map apply` is for that.
    #[must_use]
    pub fn servers(&self, catalog: &CatalogView) -> Vec<Server> {
        let known = catalog.servers.values().map(|known| known.server.clone());
        let declared = self.declared.iter().flat_map(|fleet| &fleet.servers);
        let declared = declared.map(|server| declared_server(server, self.server_in_file(&server.name)));
        let in_file = self.file.iter().flat_map(|file| file.servers.values().cloned());
        first_of_each(known.chain(declared).chain(in_file))
    }

    /// The same, at the addresses that the declaration or the file gives them.
    #[must_use]
    pub fn servers_as_given(&self, catalog: &CatalogView) -> Vec<Server> {
        let declared = self.declared.iter().flat_map(|fleet| &fleet.servers);
        let declared = declared.map(|server| {
            declared_server(server, catalog.servers.get(&server.name).map(|known| &known.server))
        });
        let in_file = self.file.iter().flat_map(|file| file.servers.values().cloned());
        let known = catalog.servers.values().map(|known| known.server.clone());
        first_of_each(declared.chain(in_file).chain(known))
    }

    fn server_in_file(&self, name: &ServerName) -> Option<&Server> {
        self.file.as_ref()?.servers.get(name)
    }

    /// The file, if it is newer than the catalog.
    fn newer_file(&self, catalog: &CatalogView) -> Option<&MapFile> {
        self.file.as_ref().filter(|file| catalog.version.is_none_or(|version| file.version > version))
    }
}

/// Two names of one server would be two claims of each of its tenants.
fn first_of_each(all: impl Iterator<Item = Server>) -> Vec<Server> {
    let mut servers: Vec<Server> = Vec::new();
    for server in all {
        if servers.iter().all(|s| s.name != server.name && s.address() != server.address()) {
            servers.push(server);
        }
    }
    servers
}

/// A server as it is declared; whether it drains is not, and stays.
pub(crate) fn declared_server(declared: &DeclaredServer, known: Option<&Server>) -> Server {
    Server {
        name: declared.name.clone(),
        host: declared.host.clone(),
        port: declared.port,
        class: declared.class,
        max_connections: declared.max_connections,
        labels: declared.labels.clone(),
        state: known.map(|known| known.state).unwrap_or_default(),
        capacity: declared.capacity,
        quota: known.map(|known| known.quota).unwrap_or_default(),
    }
}

/// What ends the differences, the differences that stay nevertheless, and what an operator should know.
#[must_use]
pub fn rebuild(
    catalog: &CatalogView,
    survey: &Survey,
    sources: &Sources,
) -> (Changes, Vec<Finding>, Vec<String>) {
    let fleet = fleet_of(catalog, survey);
    let fleet_named = Some(fleet.as_deref().unwrap_or_default());
    let seen = Trusted::new(catalog, survey, fleet_named);
    let lacking = seen.registries.iter().filter(|(_, registry)| registry.lacks.is_some());
    let mut changes = Changes {
        fleet: fleet.clone().filter(|fleet| catalog.fleet.as_ref() != Some(fleet)),
        servers: servers(catalog, survey, sources, &seen),
        registries: lacking.map(|(name, _)| (*name).clone()).collect(),
        records: records::lost(catalog, &seen, sources),
        ..Changes::default()
    };
    let mut survey = survey.clone();
    changes.apply_to_survey(&mut survey);
    let trusted = Trusted::new(catalog, &survey, fleet_named);
    if trusted.term() > catalog.term {
        changes.term = Some(trusted.term());
    }
    // Operations first: a tenant that none changes any more is what its record says.
    changes.operations = moves::settle(catalog, &trusted, is_past(catalog, &trusted));
    let mut settled = catalog.clone();
    changes.apply_to(&mut settled);
    place(&mut changes, &settled, sources, &trusted);
    let taken_up = changes.operations.iter().map(|change| match change {
        OperationChange::TakeUp { id, .. } | OperationChange::End { id, .. } => *id,
    });
    let numbers = trusted.registries.values().map(|registry| registry.move_number).chain(taken_up);
    let number = numbers.max().unwrap_or(0);
    changes.operation_number = (number > catalog.operation_number).then_some(number);
    let mut notes = Vec::new();
    people(&mut changes, catalog, sources, &mut notes);
    version(&mut changes, catalog, sources, &trusted);
    tell(&changes, catalog, sources, &mut notes);
    notes.extend(waits_for(catalog, &survey, &trusted));

    let mut after = catalog.clone();
    changes.apply_to(&mut after);
    changes.raise_epochs(&mut survey);
    (changes, find(&after, &survey), notes)
}

/// A server that can't be asked may be where a tenant lives whose record was lost elsewhere, so none is put back before it
/// answers or is given up.
fn waits_for(catalog: &CatalogView, survey: &Survey, trusted: &Trusted<'_>) -> Option<String> {
    let nowhere = |id: &&TenantId| {
        let row = catalog.tenants.get(*id);
        matches!(trusted.home(id), Home::Nowhere)
            && row.is_some_and(|row| trusted.registries.contains_key(&row.server))
    };
    let lost = catalog.tenants.keys().filter(nowhere).count();
    let away: Vec<&ServerName> =
        survey.keys().filter(|name| !trusted.registries.contains_key(name)).collect();
    if lost == 0 || away.is_empty() {
        return None;
    }
    let remedy = match away.iter().any(|name| catalog.servers.contains_key(*name)) {
        true => "bring it back, or, if it is lost for good: tenantry server remove NAME --lost",
        false => "only a file that was given here names it: take it out there",
    };
    let away = away.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    Some(format!(
        "{lost} tenants without a record are not put on record as long as {away} can't be asked, where they may live: {remedy}"
    ))
}

/// The fleet that all servers which say so belong to; when they do not agree, the catalog's if it is one of theirs.
fn fleet_of(catalog: &CatalogView, survey: &Survey) -> Option<String> {
    let registries = survey.values().filter_map(|seen| match seen {
        Seen::Registry(registry) => registry.fleet.as_ref(),
        Seen::Unreachable(_) => None,
    });
    let said: BTreeSet<&String> = registries.collect();
    match (&catalog.fleet, said.first()) {
        (_, Some(fleet)) if said.len() == 1 => Some((*fleet).clone()),
        (Some(fleet), _) if said.is_empty() || said.contains(fleet) => Some(fleet.clone()),
        _ => None,
    }
}

fn servers(
    catalog: &CatalogView,
    survey: &Survey,
    sources: &Sources,
    trusted: &Trusted<'_>,
) -> Vec<CatalogServer> {
    let mut changed = Vec::new();
    for server in sources.servers(catalog) {
        let (Some(registry), Some(Seen::Registry(_))) =
            (trusted.registries.get(&server.name), survey.get(&server.name))
        else {
            continue;
        };
        let new = CatalogServer { server, system_identifier: registry.system_identifier };
        if catalog.servers.get(&new.server.name) != Some(&new) {
            changed.push(new);
        }
    }
    changed
}

fn place(changes: &mut Changes, catalog: &CatalogView, sources: &Sources, trusted: &Trusted<'_>) {
    let all: BTreeSet<&TenantId> = catalog.tenants.keys().chain(trusted.tenants()).collect();
    let mut after: BTreeSet<&ServerName> = catalog.servers.keys().collect();
    after.extend(trusted.registries.keys().copied());
    let running = || catalog.operations.values().filter(|operation| operation.is_running());
    let operations: BTreeMap<&TenantId, &str> =
        running().filter_map(|o| Some((o.tenant.as_ref()?, o.kind.as_str()))).collect();
    // Which of its two ids a tenant has on its server depends on the moment; its row has what goes with both.
    let renamed: BTreeSet<&TenantId> = running()
        .filter(|operation| operation.becomes.is_some())
        .flat_map(|operation| operation.tenant.iter().chain(&operation.becomes))
        .collect();
    for id in all.into_iter().filter(|id| !renamed.contains(id)) {
        let row = catalog.tenants.get(id);
        let operation = operations.get(id).copied();
        let Some(mut placed) = placement(row, id, trusted, operation) else {
            let is_made = matches!(operation, Some("create" | "clone"));
            if row.is_some_and(|row| !is_made && is_over(row, changes, trusted)) {
                changes.gone.push(id.clone());
            }
            continue;
        };
        let filed = sources.file.as_ref().and_then(|file| file.tenants.get(id));
        let newer = sources.newer_file(catalog).and_then(|file| file.tenants.get(id));
        if let Some(source) = newer.or(if row.is_none() { filed } else { None }) {
            placed.labels = source.labels.clone();
            placed.key_version = source.key_version;
            placed.schema_version = source.schema_version;
            placed.quota.clone_from(&source.quota);
        }
        if let Home::At(server, record) = trusted.home(id)
            && record.epoch < placed.epoch
        {
            changes.epochs.entry(server.clone()).or_default().push((id.clone(), placed.epoch));
        }
        if row != Some(&placed) && after.contains(&placed.server) {
            changes.tenants.push(placed);
        }
    }
}

/// Whether a tenant that no server has leaves the map: never one that is to serve. Its database was lost, and a restore needs
/// the row; or it was deleted after the backup that this catalog is of, which nothing shows for sure.
fn is_over(row: &Tenant, changes: &Changes, trusted: &Trusted<'_>) -> bool {
    let unused = trusted.is_whole && !trusted.has_database(&row.id);
    let lost = changes.registries.contains(&row.server);
    unused && !lost && !matches!(row.state, TenantState::Open | TenantState::Suspended)
}

/// Where a tenant belongs, with what else its row has; `None` when no registry has it. `operation`: what is changing it.
fn placement(
    row: Option<&Tenant>,
    id: &TenantId,
    trusted: &Trusted<'_>,
    operation: Option<&str>,
) -> Option<Tenant> {
    let like = |server: &ServerName, epoch: Epoch, state: TenantState| Tenant {
        id: id.clone(),
        server: server.clone(),
        epoch,
        state,
        labels: row.map(|row| row.labels.clone()).unwrap_or_default(),
        key_version: row.map_or(FIRST_KEY_VERSION, |row| row.key_version),
        schema_version: row.and_then(|row| row.schema_version),
        quota: row.and_then(|row| row.quota.clone()),
        // Found out anew when its size is measured.
        read_only: row.is_some_and(|row| row.read_only),
    };
    let highest = |epoch: Epoch| row.map_or(epoch, |row| row.epoch.max(epoch));
    match trusted.home(id) {
        Home::At(server, record) => {
            let mut state = record.state.tenant_state()?;
            // An operation that changes the state tells the routers before the registry.
            let at_work = operation.is_some_and(|kind| kind != "move");
            if let Some(row) = row.filter(|row| at_work && row.server == *server && row.epoch >= record.epoch)
            {
                state = row.state;
            }
            Some(like(server, highest(record.epoch), state))
        }
        // The catalog follows the source until the target has decided.
        Home::InTransit { from, epoch, .. } => {
            let before = Epoch(epoch.0 - 1);
            match row {
                Some(row) if row.server == *from => Some(row.clone()),
                _ => Some(like(from, highest(before), TenantState::Open)),
            }
        }
        Home::Sent { to, epoch } if row.is_none() => Some(like(to, epoch, TenantState::Open)),
        Home::Disputed(holders) if row.is_none() => {
            let (server, record) = holders.first()?;
            Some(like(server, record.epoch, record.state.tenant_state()?))
        }
        Home::Sent { .. } | Home::Disputed(_) => row.cloned(),
        Home::Nowhere => None,
    }
}

/// Whether the catalog is older than the servers and routers: a backup was restored.
fn is_past(catalog: &CatalogView, trusted: &Trusted<'_>) -> bool {
    let behind_routers = catalog.version.is_some_and(|version| version < catalog.routers_version);
    trusted.term() > catalog.term || behind_routers
}

fn people(changes: &mut Changes, catalog: &CatalogView, sources: &Sources, notes: &mut Vec<String>) {
    if let Some(file) = &sources.file {
        people_of(file, changes, catalog, sources.newer_file(catalog).is_some(), notes);
    }
    let added: BTreeSet<String> = changes.users.iter().map(|user| user.name.clone()).collect();
    let lost = sources.users.iter().flat_map(|file| file.users.values());
    let lost = lost.filter(|user| !catalog.users.contains_key(&user.name) && !added.contains(&user.name));
    changes.users.extend(lost.cloned());
}

fn people_of(
    file: &MapFile,
    changes: &mut Changes,
    catalog: &CatalogView,
    newer: bool,
    notes: &mut Vec<String>,
) {
    let adds = |user: &&User| match catalog.users.get(&user.name) {
        None => newer || catalog.users.is_empty(),
        Some(known) => newer && known != *user,
    };
    changes.users = file.users.values().filter(adds).cloned().collect();
    if newer {
        let kept: Vec<&str> =
            catalog.users.keys().filter(|name| !file.users.contains_key(*name)).map(String::as_str).collect();
        if !kept.is_empty() {
            let kept = kept.join(", ");
            notes.push(format!(
                "the file is newer than the catalog and has no user {kept}: drop those that were dropped"
            ));
        }
        if let Some(policy) = file.policy.as_ref().filter(|policy| catalog.policy.as_ref() != Some(policy)) {
            changes.policy = Some(policy.clone());
        }
    }
    if catalog.policy.is_none() && changes.policy.is_none() {
        changes.policy = file.policy.clone();
    }
}

/// Every router is to load the map anew if anything of it changes by this, or if one is ahead of the catalog.
fn version(changes: &mut Changes, catalog: &CatalogView, sources: &Sources, trusted: &Trusted<'_>) {
    let epochs = trusted.registries.values().flat_map(|r| &r.records).map(|record| record.epoch.0);
    let filed = sources.file.as_ref().map_or(0, |file| file.version);
    let known = epochs.chain([filed, catalog.routers_version]).max().unwrap_or(0);
    let mapped = !changes.servers.is_empty()
        || !changes.tenants.is_empty()
        || !changes.gone.is_empty()
        || !changes.users.is_empty();
    if mapped || catalog.version.is_none_or(|version| version < known) {
        changes.version_above = Some(known.max(catalog.version.unwrap_or(0)));
    }
}

fn tell(changes: &Changes, catalog: &CatalogView, sources: &Sources, notes: &mut Vec<String>) {
    let new = changes.tenants.iter().filter(|tenant| !catalog.tenants.contains_key(&tenant.id));
    let in_file =
        |tenant: &&Tenant| sources.file.as_ref().is_some_and(|file| file.tenants.contains_key(&tenant.id));
    let bare = new.filter(|tenant| !in_file(tenant)).count();
    if bare > 0 {
        notes.push(format!(
            "{bare} tenants get no labels, key version {FIRST_KEY_VERSION} and no schema version: registries do not \
             know them; give a router's snapshot or an exported map with --snapshot"
        ));
    }
    if catalog.users.is_empty() && changes.users.is_empty() {
        notes.push(
            "there are no users: nobody can log in at a router that has no map yet; give a router's snapshot or an \
             exported map with --snapshot"
                .to_owned(),
        );
    }
}
