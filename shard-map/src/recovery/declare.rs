//! What `map apply` changes: servers, policies and users become as they are declared. What is not declared stays.

use super::changes::Changes;
use super::import::Refused;
use super::rebuild::declared_server;
use super::view::{CatalogServer, CatalogView, Seen, Survey};
use crate::fleet::Fleet;
use crate::user::User;

/// The changes that a declaration asks for, and what the catalog has beside it.
///
/// # Errors
/// [`Refused`] when a server that is to be new or elsewhere is not armed as this fleet's, is another than it was, or
/// can't give as many connections.
pub fn declare(
    catalog: &CatalogView,
    survey: &Survey,
    fleet: &Fleet,
) -> Result<(Changes, Vec<String>), Refused> {
    let mut changes = Changes::default();
    let mut reasons = Vec::new();
    for declared in &fleet.servers {
        let known = catalog.servers.get(&declared.name);
        let server = declared_server(declared, known.map(|known| &known.server));
        if known.is_some_and(|known| known.server == server) {
            continue;
        }
        match armed(catalog, survey, known, &server) {
            Ok(system_identifier) => changes.servers.push(CatalogServer { server, system_identifier }),
            Err(reason) => reasons.push(format!("server {}: {reason}", declared.name)),
        }
    }
    for declared in &fleet.users {
        let known = catalog.users.get(&declared.name);
        let user = User {
            name: declared.name.clone(),
            // Without one, nobody can log in as it until a password is set.
            verifier: known.map(|known| known.verifier.clone()).unwrap_or_default(),
            tenants: declared.tenants.clone(),
            access: declared.access,
            pool_mode: declared.pool_mode,
        };
        if known != Some(&user) {
            changes.users.push(user);
        }
    }
    if catalog.policy.as_ref() != Some(&fleet.placement) {
        changes.policy = Some(fleet.placement.clone());
    }
    if reasons.is_empty() { Ok((changes, undeclared(catalog, fleet))) } else { Err(Refused(reasons)) }
}

fn armed(
    catalog: &CatalogView,
    survey: &Survey,
    known: Option<&CatalogServer>,
    server: &crate::server::Server,
) -> Result<i64, String> {
    let registry = match survey.get(&server.name) {
        Some(Seen::Registry(registry)) => registry,
        Some(Seen::Unreachable(why)) => return Err(format!("it is not armed, or does not answer: {why}")),
        None => return Err("it was not asked".to_owned()),
    };
    if known.is_some_and(|known| known.system_identifier != registry.system_identifier) {
        return Err(format!("another Postgres cluster answers at {}", server.address()));
    }
    if registry.fleet.is_none() || registry.fleet != catalog.fleet {
        return Err("it belongs to another fleet".to_owned());
    }
    if registry.term > catalog.term {
        let (seen, at) = (registry.term, catalog.term);
        return Err(format!(
            "{} has seen term {seen}, and the catalog is at {at}: it was left by a failover, or the catalog is behind",
            server.address()
        ));
    }
    if server.max_connections > registry.connections_max {
        let (given, most) = (server.max_connections, registry.connections_max);
        return Err(format!(
            "max_connections: {given} is not allowed, the server takes 1 to {most} from routers"
        ));
    }
    Ok(registry.system_identifier)
}

fn undeclared(catalog: &CatalogView, fleet: &Fleet) -> Vec<String> {
    let servers = catalog.servers.keys().filter(|name| fleet.servers.iter().all(|s| s.name != **name));
    let users = catalog.users.keys().filter(|name| fleet.users.iter().all(|user| user.name != **name));
    let servers = servers.map(|name| format!("server {name} is in the catalog and not declared; it stays"));
    let users = users.map(|name| format!("user {name} is in the catalog and not declared; it stays"));
    servers.chain(users).collect()
}
