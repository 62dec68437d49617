//! Chooses a server for a new tenant: deterministically, so that an operator can foretell and a test can state it.
//!
//! Policy: a server named by the operator is taken as it is; else the class asked for (shared unless said otherwise),
//! then the labels, then room, and of those the least loaded. Equal ones are taken in the order of their names.
//!
//! A tenant's label constrains its placement when servers of the class carry a label of that key: `region=eu` goes to
//! a server with `region=eu` where servers have regions, and `plan=gold` anywhere where no server has a plan.

use crate::ids::ServerName;
use crate::labels::Labels;
use crate::server::{Server, ServerClass, ServerState};

/// A server that could take the tenant.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The server.
    pub server: Server,
    /// Tenants placed on it, those being made included.
    pub tenants: u32,
}

/// What the tenant asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// This server and no other.
    pub server: Option<ServerName>,
    /// Servers of this class; shared ones when not said.
    pub class: Option<ServerClass>,
    /// The tenant's labels.
    pub labels: Labels,
    /// Most tenants a server may have; a policy of the fleet, not of the tenant.
    pub tenants_per_server_max: u32,
}

/// Why no server was chosen. The text says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlacement {
    /// The named server is not in the map.
    #[error("server {0} does not exist")]
    UnknownServer(ServerName),
    /// The named server takes nothing new.
    #[error("server {0} is draining and takes no new tenants")]
    Draining(ServerName),
    /// The named server is full.
    #[error("server {0} has as many tenants as it may have")]
    Full(ServerName),
    /// No server matches.
    #[error("no {class} server{labels} has room")]
    NoneLeft {
        /// Class asked for.
        class: &'static str,
        /// The labels that constrain, in words; empty when none does.
        labels: String,
    },
}

/// Chooses.
///
/// # Errors
/// [`NoPlacement`] when the named server can't take it, or none matches the wish.
pub fn choose(candidates: &[Candidate], wish: &Wish) -> Result<ServerName, NoPlacement> {
    let has_room = |candidate: &Candidate| candidate.tenants < wish.tenants_per_server_max;
    if let Some(name) = &wish.server {
        let candidate = (candidates.iter().find(|c| c.server.name == *name))
            .ok_or_else(|| NoPlacement::UnknownServer(name.clone()))?;
        if candidate.server.state == ServerState::Draining {
            return Err(NoPlacement::Draining(name.clone()));
        }
        return if has_room(candidate) { Ok(name.clone()) } else { Err(NoPlacement::Full(name.clone())) };
    }
    let class = wish.class.unwrap_or_default();
    // Load is tenants per connection allowed: a server twice as large takes twice as many. Compared crosswise,
    // a/b < c/d as a*d < c*b, because fractions of floats have no total order.
    let load = |a: &Candidate, b: &Candidate| {
        let left = u64::from(a.tenants) * u64::from(b.server.max_connections);
        let right = u64::from(b.tenants) * u64::from(a.server.max_connections);
        left.cmp(&right).then_with(|| a.server.name.cmp(&b.server.name))
    };
    let of_class = || candidates.iter().filter(|c| c.server.class == class);
    let constrains = |name: &str| of_class().any(|c| c.server.labels.get(name).is_some());
    let constraints: Vec<_> = wish.labels.iter().filter(|(name, _)| constrains(name)).collect();
    let matches =
        |c: &Candidate| constraints.iter().all(|(key, value)| c.server.labels.get(key) == Some(*value));
    of_class()
        .filter(|c| c.server.state == ServerState::Active && matches(c) && has_room(c))
        .min_by(|a, b| load(a, b))
        .map(|c| c.server.name.clone())
        .ok_or_else(|| NoPlacement::NoneLeft {
            class: if class == ServerClass::Shared { "shared" } else { "dedicated" },
            labels: constraints.iter().map(|(key, value)| format!(" with {key}={value}")).collect(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(name: &str, class: ServerClass, tenants: u32, max_connections: u32) -> Candidate {
        let server = Server {
            name: ServerName::new(name).unwrap(),
            host: "localhost".into(),
            port: 5432,
            class,
            max_connections,
            labels: [("region".to_owned(), "eu".to_owned())].into(),
            state: ServerState::Active,
        };
        Candidate { server, tenants }
    }

    fn wish() -> Wish {
        Wish { tenants_per_server_max: 100, ..Wish::default() }
    }

    #[test]
    fn the_least_loaded_shared_server_is_taken() {
        let all = [
            candidate("a", ServerClass::Shared, 10, 100),
            candidate("b", ServerClass::Shared, 15, 200),
            candidate("c", ServerClass::Dedicated, 0, 100),
        ];
        assert_eq!(choose(&all, &wish()).unwrap().as_str(), "b");
        assert_eq!(choose(&all[..1], &wish()).unwrap().as_str(), "a");
    }

    #[test]
    fn a_dedicated_server_only_takes_who_asks_for_it() {
        let all = [candidate("c", ServerClass::Dedicated, 0, 100)];
        assert!(matches!(choose(&all, &wish()), Err(NoPlacement::NoneLeft { .. })));
        let dedicated = Wish { class: Some(ServerClass::Dedicated), ..wish() };
        assert_eq!(choose(&all, &dedicated).unwrap().as_str(), "c");
    }

    #[test]
    fn labels_room_and_draining_exclude() {
        let mut all = [candidate("a", ServerClass::Shared, 0, 100)];
        let labelled =
            |key: &str, value: &str| Wish { labels: [(key.to_owned(), value.to_owned())].into(), ..wish() };
        assert!(choose(&all, &labelled("region", "us")).is_err());
        assert!(choose(&all, &labelled("region", "eu")).is_ok());
        assert!(choose(&all, &labelled("plan", "gold")).is_ok(), "no server has plans");
        assert!(choose(&all, &Wish { tenants_per_server_max: 0, ..wish() }).is_err());
        all[0].server.state = ServerState::Draining;
        assert!(choose(&all, &wish()).is_err());
    }

    #[test]
    fn a_named_server_is_taken_or_refused_by_name() {
        let all = [candidate("a", ServerClass::Dedicated, 100, 100)];
        let named = |name: &str| Wish { server: Some(ServerName::new(name).unwrap()), ..wish() };
        assert!(matches!(choose(&all, &named("a")), Err(NoPlacement::Full(_))));
        assert!(matches!(choose(&all, &named("x")), Err(NoPlacement::UnknownServer(_))));
    }
}
