//! What `map import` changes: the catalog becomes as a file says, as far as the registries agree.

use super::changes::Changes;
use super::file::MapFile;
use super::view::{CatalogServer, CatalogView, Home, Survey, Trusted};
use crate::tenant::Tenant;

/// Why a file is not taken. Nothing of it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct Refused(pub Vec<String>);

/// Reasons that are told; there may be one for each tenant.
const REASONS_MAX: usize = 10;

/// The changes that a file asks for.
///
/// # Errors
/// [`Refused`] when it would lower an epoch, place a tenant where its registry says that it is not, or names a server
/// that is not what it was.
pub fn import(catalog: &CatalogView, survey: &Survey, file: &MapFile) -> Result<Changes, Refused> {
    let trusted = Trusted::new(catalog, survey, catalog.fleet.as_deref());
    let mut reasons = Vec::new();
    let mut changes = Changes::default();
    for server in file.servers.values() {
        match trusted.registries.get(&server.name) {
            None => reasons.push(format!("server {} does not answer as this fleet's", server.name)),
            Some(registry) => {
                let system_identifier = registry.system_identifier;
                let new = CatalogServer { server: server.clone(), system_identifier };
                if catalog.servers.get(&server.name) != Some(&new) {
                    changes.servers.push(new);
                }
            }
        }
    }
    for tenant in file.tenants.values() {
        match contradiction(catalog, &trusted, tenant) {
            Some(reason) => reasons.push(format!("tenant {}: {reason}", tenant.id)),
            None if catalog.tenants.get(&tenant.id) != Some(tenant) => changes.tenants.push(tenant.clone()),
            None => {}
        }
    }
    if !reasons.is_empty() {
        let more = reasons.len().saturating_sub(REASONS_MAX);
        reasons.truncate(REASONS_MAX);
        if more > 0 {
            reasons.push(format!("and {more} more"));
        }
        return Err(Refused(reasons));
    }
    let differs = |user: &&crate::user::User| catalog.users.get(&user.name) != Some(*user);
    changes.users = file.users.values().filter(differs).cloned().collect();
    changes.policy = file.policy.clone().filter(|policy| catalog.policy.as_ref() != Some(policy));
    if !(changes.servers.is_empty() && changes.tenants.is_empty() && changes.users.is_empty()) {
        changes.version_above =
            Some(file.version.max(catalog.version.unwrap_or(0)).max(catalog.routers_version));
    }
    Ok(changes)
}

fn contradiction(catalog: &CatalogView, trusted: &Trusted<'_>, tenant: &Tenant) -> Option<String> {
    let row = catalog.tenants.get(&tenant.id);
    if let Some(row) = row.filter(|row| row.epoch > tenant.epoch) {
        return Some(format!("its epoch would go back from {} to {}", row.epoch, tenant.epoch));
    }
    if row != Some(tenant) && catalog.busy().contains(&tenant.id) {
        return Some("an operation is changing it".to_owned());
    }
    match trusted.home(&tenant.id) {
        Home::At(server, record) if *server == tenant.server => {
            if record.epoch > tenant.epoch {
                Some(format!("its epoch on {server} is {}, the file's {}", record.epoch, tenant.epoch))
            } else if record.state.tenant_state() != Some(tenant.state) {
                Some(format!("the file says {}, {server} does not", tenant.state.as_str()))
            } else {
                None
            }
        }
        Home::At(server, _) => Some(format!("the file has it on {}, it lives on {server}", tenant.server)),
        Home::Disputed(_) => Some("two servers say that it lives there".to_owned()),
        Home::InTransit { .. } | Home::Sent { .. } => Some("a move of it is not over".to_owned()),
        // A creation leaves its record at its end.
        Home::Nowhere if row == Some(tenant) => None,
        Home::Nowhere => Some("no server has it on record".to_owned()),
    }
}
