//! Changes of the catalog, as a value: to be shown, tried on a view, and written.

use std::collections::BTreeMap;

use serde::Serialize;

use super::view::{CatalogServer, CatalogView, OperationView, Record, Seen, Survey};
use crate::ids::{Epoch, ServerName, TenantId};
use crate::policy::PlacementPolicy;
use crate::tenant::Tenant;
use crate::user::User;

/// What becomes of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationChange {
    /// It ends.
    End {
        /// Its number.
        id: i64,
        /// `failed` or `completed`.
        state: &'static str,
        /// Why.
        why: String,
    },
    /// A move is put on record (again) at a step from which it ends well.
    TakeUp {
        /// Its number, which its things on the servers carry.
        id: i64,
        /// Whose move.
        tenant: TenantId,
        /// Its source.
        from: ServerName,
        /// Its target.
        to: ServerName,
        /// The step; `switched` for one that only waits to be completed.
        step: &'static str,
        /// Whether it is to be undone.
        abort_requested: bool,
    },
}

/// Changes of the catalog, written as a whole or not at all; and of registries, which are made before that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The fleet's id, as the servers have it.
    pub fleet: Option<String>,
    /// The term is to be at least this.
    pub term: Option<i64>,
    /// The map's version is to be higher than this, and than all that anybody knows.
    pub version_above: Option<i64>,
    /// Placement policies.
    pub policy: Option<PlacementPolicy>,
    /// Servers as they shall be.
    pub servers: Vec<CatalogServer>,
    /// Tenants as they shall be.
    pub tenants: Vec<Tenant>,
    /// Tenants that are no more.
    pub gone: Vec<TenantId>,
    /// Servers whose registries are to be made anew, or made whole.
    pub registries: Vec<ServerName>,
    /// Records that registries have lost.
    pub records: BTreeMap<ServerName, Vec<Record>>,
    /// Epochs that registries are to catch up with: they are behind the catalog, and no epoch goes back.
    pub epochs: BTreeMap<ServerName, Vec<(TenantId, Epoch)>>,
    /// Users as they shall be.
    pub users: Vec<User>,
    /// Operations.
    pub operations: Vec<OperationChange>,
    /// No new operation may have a number up to this one: a move had it.
    pub operation_number: Option<i64>,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `add`, `change`, `remove`, `end`.
    pub r#do: &'static str,
    /// `server`, `registry`, `tenant`, `record`, `user`, `operation`, `policy`, `fleet`, `term`, `version`, `numbers`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// What it becomes.
    pub detail: String,
}

impl Step {
    fn new(r#do: &'static str, what: &'static str, name: &dyn ToString, detail: String) -> Self {
        Self { r#do, what, name: name.to_string(), detail }
    }
}

fn verb(known: bool) -> &'static str {
    if known { "change" } else { "add" }
}

impl Changes {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Line by line, for people and programs.
    #[must_use]
    pub fn steps(&self, catalog: &CatalogView) -> Vec<Step> {
        let mut steps = Vec::new();
        if let Some(fleet) = &self.fleet {
            steps.push(Step::new("change", "fleet", fleet, "as the servers have it".to_owned()));
        }
        if let Some(term) = self.term {
            let detail = format!("from {} to {term}, which no server has passed", catalog.term);
            steps.push(Step::new("change", "term", &term, detail));
        }
        if let Some(policy) = &self.policy {
            let text = serde_json::json!(policy).to_string();
            let detail = text.replace('"', "").trim_matches(['{', '}']).to_owned();
            steps.push(Step::new(verb(catalog.policy.is_some()), "policy", &"placement", detail));
        }
        for CatalogServer { server, .. } in &self.servers {
            let detail = format!(
                "{}, {}, {} connections",
                server.address(),
                server.class.as_str(),
                server.max_connections
            );
            let do_it = verb(catalog.servers.contains_key(&server.name));
            steps.push(Step::new(do_it, "server", &server.name, detail));
        }
        steps.extend(self.tenants.iter().map(|tenant| tenant_step(catalog, tenant)));
        for id in &self.gone {
            steps.push(Step::new("remove", "tenant", id, "no server has it on record".to_owned()));
        }
        for server in &self.registries {
            steps.push(Step::new("add", "registry", server, "made anew; no tenant is touched".to_owned()));
        }
        for (server, records) in &self.records {
            steps.extend(records.iter().map(|record| {
                let (state, epoch) = (record.state.as_str(), record.epoch);
                let detail = format!("{state} at epoch {epoch} in the registry of {server}");
                Step::new("add", "record", &record.id, detail)
            }));
        }
        for (server, epochs) in &self.epochs {
            steps.extend(epochs.iter().map(|(id, epoch)| {
                Step::new("change", "record", id, format!("epoch {epoch} in the registry of {server}"))
            }));
        }
        for user in &self.users {
            let mut detail =
                format!("{} of {}, {} mode", user.access.as_str(), user.tenants, user.pool_mode.as_str());
            if !user.has_password() {
                detail += "; without a password yet";
            }
            steps.push(Step::new(verb(catalog.users.contains_key(&user.name)), "user", &user.name, detail));
        }
        steps.extend(self.operations.iter().map(|change| operation_step(catalog, change)));
        if let Some(number) = self.operation_number {
            let detail = "later operations have higher ones: a move on the servers has it".to_owned();
            steps.push(Step::new("change", "numbers", &number, detail));
        }
        if let Some(version) = self.version_above {
            let detail = "past every map that a router may have, so that all load this one".to_owned();
            steps.push(Step::new("change", "version", &format!("over {version}"), detail));
        }
        steps
    }

    /// The registries as they are with what they had lost.
    pub(crate) fn apply_to_survey(&self, survey: &mut Survey) {
        for (server, seen) in survey.iter_mut() {
            if let Seen::Registry(registry) = seen {
                if self.registries.contains(server) {
                    registry.lacks = None;
                    let prepared =
                        registry.databases.iter().filter(|name| TenantId::of_stock(name).is_some());
                    registry.stock.extend(prepared.cloned());
                }
                registry.records.extend(self.records.get(server).into_iter().flatten().cloned());
            }
        }
    }

    /// The registries as they are when they have caught up.
    pub(crate) fn raise_epochs(&self, survey: &mut Survey) {
        for (server, epochs) in &self.epochs {
            let Some(Seen::Registry(registry)) = survey.get_mut(server) else { continue };
            let raised: BTreeMap<_, _> = epochs.iter().map(|(id, epoch)| (id, *epoch)).collect();
            for record in &mut registry.records {
                record.epoch = raised.get(&record.id).copied().unwrap_or(record.epoch);
            }
        }
    }

    /// The catalog as it is afterwards.
    pub(crate) fn apply_to(&self, catalog: &mut CatalogView) {
        if let Some(fleet) = &self.fleet {
            catalog.fleet = Some(fleet.clone());
        }
        catalog.term = catalog.term.max(self.term.unwrap_or(0));
        if let Some(above) = self.version_above {
            catalog.version = Some(above + 1);
        }
        if let Some(policy) = &self.policy {
            catalog.policy = Some(policy.clone());
        }
        for server in &self.servers {
            catalog.servers.insert(server.server.name.clone(), server.clone());
        }
        for tenant in &self.tenants {
            catalog.tenants.insert(tenant.id.clone(), tenant.clone());
        }
        for id in &self.gone {
            catalog.tenants.remove(id);
        }
        for user in &self.users {
            catalog.users.insert(user.name.clone(), user.clone());
        }
        for change in &self.operations {
            match change {
                OperationChange::End { id, state, .. } => {
                    if let Some(operation) = catalog.operations.get_mut(id) {
                        operation.state = (*state).to_owned();
                    }
                }
                OperationChange::TakeUp { id, tenant, from, to, step, .. } => {
                    let state = if *step == "switched" { "switched" } else { "running" };
                    let operation = OperationView {
                        id: *id,
                        kind: "move".to_owned(),
                        tenant: Some(tenant.clone()),
                        state: state.to_owned(),
                        step: (*step).to_owned(),
                        from: Some(from.clone()),
                        to: Some(to.clone()),
                        becomes: None,
                    };
                    catalog.operations.insert(*id, operation);
                }
            }
        }
        catalog.operation_number = catalog.operation_number.max(self.operation_number.unwrap_or(0));
    }
}

fn tenant_step(catalog: &CatalogView, tenant: &Tenant) -> Step {
    let Some(before) = catalog.tenants.get(&tenant.id) else {
        let detail = format!("{} on {}, epoch {}", tenant.state.as_str(), tenant.server, tenant.epoch);
        return Step::new("add", "tenant", &tenant.id, detail);
    };
    let mut parts = Vec::new();
    if before.server != tenant.server {
        parts.push(format!("server {} → {}", before.server, tenant.server));
    }
    if before.epoch != tenant.epoch {
        parts.push(format!("epoch {} → {}", before.epoch, tenant.epoch));
    }
    if before.state != tenant.state {
        parts.push(format!("{} → {}", before.state.as_str(), tenant.state.as_str()));
    }
    if before.labels != tenant.labels || before.key_version != tenant.key_version {
        parts.push("labels and key version of the file".to_owned());
    }
    if before.schema_version != tenant.schema_version {
        parts.push("schema version of the file".to_owned());
    }
    if before.quota != tenant.quota {
        parts.push("quota of the file".to_owned());
    }
    Step::new("change", "tenant", &tenant.id, parts.join(", "))
}

fn operation_step(catalog: &CatalogView, change: &OperationChange) -> Step {
    match change {
        OperationChange::End { id, state, why } => {
            let what = catalog.operations.get(id).map_or_else(String::new, |operation| {
                let tenant = operation.tenant.as_ref().map_or("the fleet", TenantId::as_str);
                format!("{} of {tenant} ", operation.kind)
            });
            Step::new("end", "operation", id, format!("{what}{state}: {why}"))
        }
        OperationChange::TakeUp { id, tenant, from, to, step, abort_requested } => {
            let how = match (*step, abort_requested) {
                ("switched", _) => "its sealed copy is kept for its grace time".to_owned(),
                (_, true) => "to be undone".to_owned(),
                (step, false) => format!("goes on at {step}"),
            };
            let detail = format!("move of {tenant} from {from} to {to}: {how}");
            Step::new(verb(catalog.operations.contains_key(id)), "operation", id, detail)
        }
    }
}
