//! Settings that were made for a tenant's database, for its roles, or for its roles in it.

use shard_map::{Access, TenantId};

use super::{Connection, ident, literal};
use crate::error::Result;

/// Settings whose stored value is a list of names, each of which is quoted by itself. From the settings
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
            let value = if LIST_SETTINGS.contains(&name) { literals(value) } else { literal(value) };
            to.registry.run(&format!("ALTER {subject} SET {} TO {value}", ident(name))).await?;
        }
    }
    Ok(())
}

/// Takes back all settings of a database, of its tenant's roles, and of any role in it.
pub(crate) async fn reset(of: &Of<'_>) -> Result<()> {
    const SQL: &str = "
        SELECT r.rolname::text, s.setdatabase <> 0 FROM pg_catalog.pg_db_role_setting s
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        WHERE s.setdatabase = (SELECT oid FROM pg_catalog.pg_database WHERE datname = $1)
            OR s.setdatabase = 0 AND r.rolname = ANY ($2)";
    let roles: Vec<String> = Access::ALL.map(|access| access.role(of.tenant)).into();
    let database = ident(of.database);
    for row in of.registry.rows(SQL, &[&of.database, &roles]).await? {
        let subject = match (row.get::<_, Option<&str>>(0).map(ident), row.get(1)) {
            (Some(role), true) => format!("ROLE {role} IN DATABASE {database}"),
            (Some(role), false) => format!("ROLE {role}"),
            (None, _) => format!("DATABASE {database}"),
        };
        of.registry.run(&format!("ALTER {subject} RESET ALL")).await?;
    }
    Ok(())
}

/// A list as it is stored, as SQL in which each of its items is a string. Whoever may set it for a role can store any text
/// (`SET … FROM CURRENT`), so none of it goes into a statement as it is.
fn literals(list: &str) -> String {
    let mut items = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (item, behind) = match rest.strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => {
                let (item, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (item.trim_end().to_owned(), behind)
            }
        };
        items.push(literal(&item));
        rest = behind.trim_start().trim_start_matches(',').trim_start();
    }
    if items.is_empty() { literal("") } else { items.join(", ") }
}

/// What stands before the closing quote, and what behind it.
fn unquoted(text: &str) -> (String, &str) {
    let (mut item, mut rest) = (String::new(), text);
    while let Some((before, behind)) = rest.split_once('"') {
        item += before;
        match behind.strip_prefix('"') {
            Some(more) => (item, rest) = (item + "\"", more),
            None => return (item, behind),
        }
    }
    (item + rest, "")
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
    fn nothing_of_a_list_gets_out_of_its_strings() {
        for (list, sql) in [
            ("", "''"),
            ("public", "'public'"),
            ("\"$user\", public", "'$user', 'public'"),
            ("\"a\"\"b, c\",d", "'a\"b, c', 'd'"),
            ("x;ALTER/**/ROLE/**/me/**/SUPERUSER", "'x;ALTER/**/ROLE/**/me/**/SUPERUSER'"),
            ("it's", "'it''s'"),
            ("\"not ended", "'not ended'"),
        ] {
            assert_eq!(literals(list), sql);
        }
    }

    #[test]
    fn each_role_has_its_counterpart() {
        let (acme, copy) = (TenantId::new("acme").unwrap(), TenantId::new("copy").unwrap());
        assert_eq!(counterpart("acme__app", &acme, &copy), "copy__app");
        assert_eq!(counterpart("acme__owner", &acme, &copy), "copy__owner");
        assert_eq!(counterpart("somebody", &acme, &copy), "somebody");
    }
}
