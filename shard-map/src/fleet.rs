//! The declared fleet: one file that says which servers, policies and users there shall be, for review and for
//! version control.
//!
//! It holds no secret (a user's password is set apart from it) and no tenant (tenants come and go without a review).
//! Parsing checks everything that can be checked without a server, and says which key is wrong and what is allowed.
//! What it does not do: compare the declaration with what there is, or change anything.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::ids::ServerName;
use crate::labels::Labels;
use crate::policy::{Capacity, PlacementPolicy};
use crate::selector::{Selector, parse_label};
use crate::server::ServerClass;
use crate::user::{Access, PoolMode};

/// Longest user name, in bytes: what Postgres allows for a role.
pub const USER_NAME_LENGTH_MAX: usize = 63;

/// The whole declaration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fleet {
    /// Policies for choosing a server.
    pub placement: PlacementPolicy,
    /// The servers.
    pub servers: Vec<DeclaredServer>,
    /// The router's users.
    pub users: Vec<DeclaredUser>,
}

/// A server as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredServer {
    /// Its name in the map.
    pub name: ServerName,
    /// Host name or address, reachable from routers, control planes and the other servers.
    pub host: String,
    /// TCP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// What it is for.
    #[serde(default)]
    pub class: ServerClass,
    /// Server connections that routers may open here together.
    #[serde(default = "default_max_connections")]
    pub max_connections: u32,
    /// Labels for placement.
    #[serde(default)]
    pub labels: Labels,
    /// What it can bear, where that is not what its class can.
    #[serde(default, skip_serializing_if = "Capacity::is_empty")]
    pub capacity: Capacity,
}

/// A router user as declared. Its password is not: it is set with `tenantry user passwd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredUser {
    /// Login name.
    pub name: String,
    /// Which tenants it may reach.
    #[serde(default)]
    pub tenants: Selector,
    /// As which role.
    #[serde(default)]
    pub access: Access,
    /// Its pool mode unless the client asks for another.
    #[serde(default)]
    pub pool_mode: PoolMode,
}

fn default_port() -> u16 {
    5432
}

fn default_max_connections() -> u32 {
    80
}

/// What is wrong with a declaration: one line, with the key and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFleet {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("line {line} ({text}): {message}")]
    Form {
        /// Number of the line, from 1.
        line: usize,
        /// The line itself.
        text: String,
        /// What is wrong with it, and what is allowed.
        message: String,
    },
    /// A value that is well-formed and still not allowed.
    #[error("{key}: {message}")]
    Value {
        /// Where it stands.
        key: String,
        /// What is wrong with it, and what is allowed.
        message: String,
    },
}

impl Fleet {
    /// Reads a declaration and checks it.
    ///
    /// # Errors
    /// [`InvalidFleet`], which names the first key that is wrong and what is allowed there.
    pub fn parse(text: &str) -> Result<Self, InvalidFleet> {
        let fleet: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = text.get(..start).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            InvalidFleet::Form {
                line,
                text: text.lines().nth(line - 1).unwrap_or_default().trim().to_owned(),
                message: error.message().replace('\n', " "),
            }
        })?;
        fleet.check()?;
        Ok(fleet)
    }

    fn check(&self) -> Result<(), InvalidFleet> {
        self.placement.check().map_err(|(key, message)| refused(format!("placement.{key}"), message))?;
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for server in &self.servers {
            let key = |field: &str| format!("servers.{}.{field}", server.name);
            check_server(server, key)?;
            if !names.insert(&server.name) {
                return Err(refused(key("name"), "is declared twice"));
            }
            if !addresses.insert((&server.host, server.port)) {
                return Err(refused(key("port"), "another server is declared at the same host and port"));
            }
        }
        let mut users = BTreeSet::new();
        for user in &self.users {
            let key = format!("users.{:?}.name", user.name);
            check_user_name(&user.name).map_err(|message| refused(key.clone(), message))?;
            if !users.insert(&user.name) {
                return Err(refused(key, "is declared twice"));
            }
        }
        Ok(())
    }
}

fn refused(key: String, message: &str) -> InvalidFleet {
    InvalidFleet::Value { key, message: message.to_owned() }
}

fn check_server(server: &DeclaredServer, key: impl Fn(&str) -> String) -> Result<(), InvalidFleet> {
    if server.host.is_empty() || server.host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/')
    {
        return Err(refused(key("host"), "must be a host name or an address"));
    }
    if server.port == 0 {
        return Err(refused(key("port"), "must be from 1 to 65535"));
    }
    if server.max_connections == 0 {
        return Err(refused(key("max_connections"), "must be at least 1"));
    }
    server
        .capacity
        .check()
        .map_err(|field| refused(key(&format!("capacity.{field}")), "must be at least 1"))?;
    for (name, value) in server.labels.iter() {
        parse_label(&format!("{name}={value}")).map_err(|_| {
            refused(key("labels"), "keys and values are made of A-Z, a-z, 0-9, _, ., / and -")
        })?;
    }
    Ok(())
}

/// Checks a router user's name.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn check_user_name(name: &str) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_-@".contains(c);
    if name.is_empty() || name.len() > USER_NAME_LENGTH_MAX || !name.chars().all(allowed) {
        return Err(
            "use 1 to 63 of letters, digits, _, - and @; a dot would stand between a user and a tenant",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "[[servers]]\nname = 'pg-1'\nhost = 'db1'\n";

    fn error(text: &str) -> String {
        Fleet::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn the_examples_are_read() {
        let dev = Fleet::parse(include_str!("../examples/dev.toml")).unwrap();
        let classes: Vec<_> = dev.servers.iter().map(|server| server.class).collect();
        assert_eq!(classes, [ServerClass::Shared, ServerClass::Shared, ServerClass::Dedicated]);
        assert_eq!(dev.users.len(), 1);
        let production = Fleet::parse(include_str!("../examples/production.toml")).unwrap();
        assert!(production.servers.iter().any(|server| server.class == ServerClass::Dedicated));
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let fleet = Fleet::parse(SERVER).unwrap();
        assert_eq!((fleet.servers[0].port, fleet.servers[0].class), (5432, ServerClass::Shared));
        assert_eq!(Fleet::parse("").unwrap(), Fleet::default());
    }

    #[test]
    fn a_wrong_key_or_type_is_named_with_its_line_and_what_is_allowed() {
        let unknown = error(&format!("{SERVER}prot = 1\n"));
        assert!(unknown.starts_with("line 4 (prot = 1): unknown field `prot`"), "{unknown}");
        assert!(unknown.contains("`port`"), "{unknown}");
        let class = error(&format!("{SERVER}class = 'huge'\n"));
        assert!(class.contains("`shared` or `dedicated`") && class.contains("line 4"), "{class}");
        assert!(error("[[servers]]\nname = 'PG'\nhost = 'x'").contains("use 1 to 40 of a-z"));
        assert!(error("[[users]]\nname = 'a'\ntenants = 'plan'").contains("key=value"));
        assert!(!error("a = 'b").contains('\n'));
    }

    #[test]
    fn values_that_cannot_be_are_refused() {
        for (extra, expected) in [
            ("port = 0", "servers.pg-1.port: must be from 1 to 65535"),
            ("max_connections = 0", "servers.pg-1.max_connections: must be at least 1"),
            ("capacity = { tenants_max = 0 }", "servers.pg-1.capacity.tenants_max: must be at least 1"),
            ("labels = { 'a b' = 'c' }", "servers.pg-1.labels: keys and values"),
            ("[[servers]]\nname = 'pg-1'\nhost = 'db2'", "servers.pg-1.name: is declared twice"),
            ("[[servers]]\nname = 'pg-2'\nhost = 'db1'", "servers.pg-2.port: another server"),
            ("[[users]]\nname = 'a b'", "users.\"a b\".name: use 1 to 63 of letters"),
            ("[[users]]\nname = 'a'\n[[users]]\nname = 'a'", "users.\"a\".name: is declared twice"),
            (
                "[placement]\ntenants_per_server_max = 0",
                "placement.tenants_per_server_max: must be at least 1",
            ),
        ] {
            let message = error(&format!("{SERVER}{extra}\n"));
            assert!(message.starts_with(expected), "{message}");
        }
    }
}
