//! All that is run on a managed server: connections under derived passwords, and the SQL by purpose.
//!
//! Nothing here decides; `provision`, `fleet` and `moves` do. Every statement has a time limit, set on the connection.

pub(crate) mod arm;
pub(crate) mod attributes;
pub(crate) mod connect;
pub(crate) mod database;
pub(crate) mod doom;
pub(crate) mod health;
pub(crate) mod names;
mod own;
pub(crate) mod reader;
pub(crate) mod registry;
pub(crate) mod roles;
pub(crate) mod settings;
pub(crate) mod stock;
pub(crate) mod tables;
pub(crate) mod walsender;
mod warm;

pub(crate) use connect::{Connection, Connector};

/// The role under which the control plane works: a superuser, since only one can fence a database.
pub(crate) const CONTROL_ROLE: &str = "tenantry_control";
/// The role with which routers read the registry.
pub(crate) const REGISTRY_READER_ROLE: &str = "tenantry_router";
/// The registry's database.
pub(crate) const REGISTRY_DATABASE: &str = "tenantry";
/// The schema in a tenant's database that a move works in.
pub(crate) const MOVE_SCHEMA: &str = "tenantry";
/// Of the advisory lock under which a server is armed, or a database migrated: "tenantry" in ASCII.
pub(crate) const MIGRATION_LOCK: i64 = 0x7465_6e61_6e74_7279;

/// Quotes an identifier for SQL.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a string for SQL. Backslashes are literal: every connection has `standard_conforming_strings` on.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_holds_whatever_a_name_has() {
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\"), "'it''s \\'");
    }
}
