//! Settings that were made for a tenant's database, for its roles, or for its roles in it.

use shard_map::{Access, TenantId};

use super::{Connection, ident, literal};
use crate::error::Result;

/// Settings whose stored value is a list of quoted names already, and must not be quoted again. From the settings
/// marked GUC_LIST_QUOTE in Postgres 15 to 18.
const LIST_SETTINGS: [&str; 5] = [
    "search_path",
    "temp_tablespaces",
    "session_preload_libraries",
    "shared_preload_libraries",
    "local_preload_libraries",
];

/// Whose settings: a tenant's, with one of its databases.
pub(crate) struct Of<'a> {
    /// The server's registry.
    pub(crate) registry: &'a Connection,
    pub(crate) tenant: &'a TenantId,
    pub(crate) database: &'a str,
}

/// Makes the settings of one database and its tenant's roles for another: what is for a role becomes the other tenant's
/// role of the same access.
pub(crate) async fn copy(from: &Of<'_>, to: &Of<'_>) -> Result<()> {
    const SQL: &str = "
        SELECT r.rolname, s.setdatabase <> 0, s.setconfig FROM pg_catalog.pg_db_role_setting s
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = $1)
            OR s.setdatabase = 0 AND r.rolname = ANY ($2)";
    let roles: Vec<String> = Access::ALL.map(|access| access.role(from.tenant)).into();
    let rows = from.registry.rows(SQL, &[&from.database, &roles]).await?;
    let database = ident(to.database);
    for row in rows {
        let (role, in_database): (Option<&str>, bool) = (row.get(0), row.get(1));
        let subject = match role.map(|role| ident(&counterpart(role, from.tenant, to.tenant))) {
            Some(role) if in_database => format!("ROLE {role} IN DATABASE {database}"),
            Some(role) => format!("ROLE {role}"),
            None => format!("DATABASE {database}"),
        };
        for setting in row.get::<_, Vec<&str>>(2) {
            let Some((name, value)) = setting.split_once('=') else { continue };
            let value = if LIST_SETTINGS.contains(&name) { value.to_owned() } else { literal(value) };
            let value = if value.is_empty() { "''".to_owned() } else { value };
            to.registry.run(&format!("ALTER {subject} SET {} TO {value}", ident(name))).await?;
        }
    }
    Ok(())
}

/// The other tenant's role of the same access; a role that is not one of the tenant's is itself.
fn counterpart(role: &str, from: &TenantId, to: &TenantId) -> String {
    let access = Access::ALL.into_iter().find(|access| access.role(from) == role);
    access.map_or_else(|| role.to_owned(), |access| access.role(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_has_its_counterpart() {
        let (acme, copy) = (TenantId::new("acme").unwrap(), TenantId::new("copy").unwrap());
        assert_eq!(counterpart("acme__app", &acme, &copy), "copy__app");
        assert_eq!(counterpart("acme__owner", &acme, &copy), "copy__owner");
        assert_eq!(counterpart("somebody", &acme, &copy), "somebody");
    }
}
