//! What a tenant's roles and database have beside their passwords: settings, memberships, comments, who else may use the database,
//! limits. None of it is in a dump of one database, and no event trigger tells of a change of it: it is compared, and what
//! differs is made alike.

use shard_map::Access;

use super::names::OWN_ROLES;
use super::settings::{self, Of};
use super::{ident, literal};
use crate::error::Result;

/// The first version whose memberships say whether they are inherited, and may be taken on.
const MEMBERSHIP_OPTIONS_VERSION: i32 = 160_000;

/// Makes one side's as they are on the other, of the same tenant, but for limits, which may keep those out who are still to
/// write there: [`limits`].
pub(crate) async fn carry(from: &Of<'_>, to: &Of<'_>) -> Result<()> {
    to.registry.run("BEGIN").await?;
    settings::reset(to).await?;
    settings::copy(from, to).await?;
    for statement in [descriptions(from, to).await?, memberships(from, to).await?, rights(from, to).await?] {
        to.registry.run(&statement).await?;
    }
    to.registry.run("COMMIT").await
}

fn roles_of(of: &Of<'_>) -> Vec<String> {
    Access::ALL.map(|access| access.role(of.tenant)).into()
}

/// The statements that limit the tenant's roles as they are limited here; empty where they are not.
pub(crate) async fn limits(from: &Of<'_>) -> Result<String> {
    // As JSON, since that has one form of a time, whatever the session's settings are.
    const SQL: &str = "
        SELECT rolname::text, rolconnlimit, to_jsonb(rolvaliduntil) #>> '{}' FROM pg_catalog.pg_roles
        WHERE rolname = ANY ($1) AND (rolconnlimit <> -1 OR rolvaliduntil < 'infinity')";
    let rows = from.registry.rows(SQL, &[&roles_of(from)]).await?;
    let statement = |row: &tokio_postgres::Row| {
        let (role, connections): (&str, i32) = (row.get(0), row.get(1));
        let until = literal(row.get::<_, Option<&str>>(2).unwrap_or("infinity"));
        format!("ALTER ROLE {} CONNECTION LIMIT {connections} VALID UNTIL {until}; ", ident(role))
    };
    Ok(rows.iter().map(statement).collect())
}

/// Comments, inheritance; and no limits that an earlier stay left.
async fn descriptions(from: &Of<'_>, to: &Of<'_>) -> Result<String> {
    const ROLES: &str = "
        SELECT rolname::text, rolinherit, pg_catalog.shobj_description(oid, 'pg_authid'),
            rolconnlimit <> -1 OR coalesce(rolvaliduntil < 'infinity', false)
        FROM pg_catalog.pg_roles WHERE rolname = ANY ($1) ORDER BY 1";
    const DATABASE: &str = "
        SELECT pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = $1";
    let comment = |comment: Option<&str>| comment.map_or_else(|| "NULL".to_owned(), literal);
    let there = to.registry.rows(ROLES, &[&roles_of(to)]).await?;
    let mut statements = String::new();
    for row in from.registry.rows(ROLES, &[&roles_of(from)]).await? {
        let (name, inherits, said): (&str, bool, Option<&str>) = (row.get(0), row.get(1), row.get(2));
        let Some(other) = there.iter().find(|other| other.get::<_, &str>(0) == name) else { continue };
        let role = ident(name);
        if other.get::<_, bool>(1) != inherits {
            statements += &format!("ALTER ROLE {role} {}; ", if inherits { "INHERIT" } else { "NOINHERIT" });
        }
        if other.get::<_, Option<&str>>(2) != said {
            statements += &format!("COMMENT ON ROLE {role} IS {}; ", comment(said));
        }
        if other.get(3) {
            statements += &format!("ALTER ROLE {role} CONNECTION LIMIT -1 VALID UNTIL 'infinity'; ");
        }
    }
    let here: Option<String> = from.registry.value(DATABASE, &[&from.database]).await?;
    let there: Option<String> = to.registry.value(DATABASE, &[&to.database]).await?;
    if here != there {
        let database = ident(to.database);
        statements += &format!("COMMENT ON DATABASE {database} IS {}; ", comment(here.as_deref()));
    }
    Ok(statements)
}

/// One role in another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    role: String,
    member: String,
    admin: bool,
    /// `INHERIT` and `SET`, where the server's version has them.
    options: Option<(bool, bool)>,
}

impl Membership {
    /// Whether it is the same, as far as both versions know.
    fn is(&self, other: &Self) -> bool {
        (&self.role, &self.member, self.admin) == (&other.role, &other.member, other.admin)
            && (self.options == other.options || self.options.is_none() || other.options.is_none())
    }

    fn granted(&self, has_options: bool) -> String {
        let (role, member, admin) = (ident(&self.role), ident(&self.member), self.admin);
        match self.options {
            Some((inherit, set)) if has_options => {
                format!("GRANT {role} TO {member} WITH ADMIN {admin}, INHERIT {inherit}, SET {set}; ")
            }
            _ if admin => format!("GRANT {role} TO {member} WITH ADMIN OPTION; "),
            _ => format!("GRANT {role} TO {member}; "),
        }
    }
}

async fn memberships(from: &Of<'_>, to: &Of<'_>) -> Result<String> {
    let (here, there) = (memberships_of(from).await?, memberships_of(to).await?);
    if here.iter().all(|one| there.iter().any(|other| other.is(one))) && here.len() == there.len() {
        return Ok(String::new());
    }
    const VERSION: &str = "SELECT current_setting('server_version_num')::int";
    let has_options = to.registry.value::<i32>(VERSION, &[]).await? >= MEMBERSHIP_OPTIONS_VERSION;
    let gone = there.iter().filter(|one| !here.iter().any(|other| other.is(one)));
    let revoked = gone.map(|one| format!("REVOKE {} FROM {}; ", ident(&one.role), ident(&one.member)));
    let new = here.iter().filter(|one| !there.iter().any(|other| other.is(one)));
    Ok(revoked.chain(new.map(|one| one.granted(has_options))).collect())
}

async fn memberships_of(of: &Of<'_>) -> Result<Vec<Membership>> {
    let sql = format!(
        "SELECT r.rolname::text, m.rolname::text, bool_or(a.admin_option),
            bool_or((to_jsonb(a) ->> 'inherit_option')::boolean), bool_or((to_jsonb(a) ->> 'set_option')::boolean)
        FROM pg_catalog.pg_auth_members a
        JOIN pg_catalog.pg_roles r ON r.oid = a.roleid JOIN pg_catalog.pg_roles m ON m.oid = a.member
        WHERE (r.rolname = ANY ($1) OR m.rolname = ANY ($1)) AND r.rolname !~ '{OWN_ROLES}' AND m.rolname !~ '{OWN_ROLES}'
        GROUP BY 1, 2 ORDER BY 1, 2"
    );
    let rows = of.registry.rows(&sql, &[&roles_of(of)]).await?;
    let membership = |row: &tokio_postgres::Row| Membership {
        role: row.get(0),
        member: row.get(1),
        admin: row.get(2),
        options: row.get::<_, Option<bool>>(3).zip(row.get(4)),
    };
    Ok(rows.iter().map(membership).collect())
}

/// Who may use the database, the tenant's roles and others.
async fn rights(from: &Of<'_>, to: &Of<'_>) -> Result<String> {
    let (here, there) = (rights_of(from).await?, rights_of(to).await?);
    let database = ident(to.database);
    let whose = |grantee: &Option<String>| grantee.as_deref().map_or_else(|| "PUBLIC".to_owned(), ident);
    let gone = there.iter().filter(|right| !here.contains(right));
    let revoked = gone.map(|(grantee, what, _)| {
        format!("REVOKE {what} ON DATABASE {database} FROM {} CASCADE; ", whose(grantee))
    });
    let new = here.iter().filter(|right| !there.contains(right));
    let granted = new.map(|(grantee, what, can_grant)| {
        let option = if *can_grant { " WITH GRANT OPTION" } else { "" };
        format!("GRANT {what} ON DATABASE {database} TO {}{option}; ", whose(grantee))
    });
    Ok(revoked.chain(granted).collect())
}

/// Grantee (none for all), right, and whether it can be granted on.
async fn rights_of(of: &Of<'_>) -> Result<Vec<(Option<String>, String, bool)>> {
    let sql = format!(
        "SELECT r.rolname::text, a.privilege_type, bool_or(a.is_grantable) FROM pg_catalog.pg_database d,
            pg_catalog.aclexplode(coalesce(d.datacl, pg_catalog.acldefault('d', d.datdba))) a
        LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
        WHERE d.datname = $1 AND a.grantee <> d.datdba AND (a.grantee = 0 OR r.rolname !~ '{OWN_ROLES}')
        GROUP BY 1, 2 ORDER BY 1, 2"
    );
    let rows = of.registry.rows(&sql, &[&of.database]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_compared_as_far_as_both_versions_know() {
        let old = Membership { role: "a".into(), member: "b".into(), admin: true, options: None };
        let new = Membership { options: Some((false, true)), ..old.clone() };
        let newer = Membership { options: Some((true, true)), ..old.clone() };
        assert!(old.is(&new) && new.is(&old) && !new.is(&newer));
        assert!(!old.is(&Membership { admin: false, ..old.clone() }));
        assert_eq!(new.granted(true), "GRANT \"a\" TO \"b\" WITH ADMIN true, INHERIT false, SET true; ");
        assert_eq!(new.granted(false), "GRANT \"a\" TO \"b\" WITH ADMIN OPTION; ");
    }
}
