//! Roles on a managed server. Every password is a SCRAM verifier of a derived one; none crosses the wire in clear,
//! none can stand in a server's log.

use shard_map::{Access, MasterKey, TenantId};

use super::{Connection, ident, literal};
use crate::error::Result;

/// Makes a login role, or brings an existing one to these attributes and this password.
pub(crate) async fn put_login(
    connection: &Connection,
    role: &str,
    attributes: &str,
    password: &str,
) -> Result<()> {
    let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
    let exists: bool = connection
        .value("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", &[&role])
        .await?;
    let verb = if exists { "ALTER" } else { "CREATE" };
    let (role, verifier) = (ident(role), literal(&verifier));
    connection.run(&format!("{verb} ROLE {role} LOGIN {attributes} PASSWORD {verifier}")).await
}

/// Makes the three roles of a tenant, each a plain login: never a superuser, never a database's owner.
pub(crate) async fn put_tenant_roles(
    connection: &Connection,
    key: &MasterKey,
    tenant: &TenantId,
    key_version: i32,
) -> Result<()> {
    for access in Access::ALL {
        let password = key.tenant_password(tenant, access, key_version);
        let attributes = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
        put_login(connection, &access.role(tenant), attributes, &password).await?;
    }
    Ok(())
}

/// Gives the roles of a tenant, which must be there, the passwords that routers know.
pub(crate) async fn set_tenant_passwords(
    connection: &Connection,
    key: &MasterKey,
    tenant: &TenantId,
    key_version: i32,
) -> Result<()> {
    for access in Access::ALL {
        let password = key.tenant_password(tenant, access, key_version);
        let verifier = postgres_protocol::password::scram_sha_256(password.as_bytes());
        let (role, verifier) = (ident(&access.role(tenant)), literal(&verifier));
        connection.run(&format!("ALTER ROLE {role} PASSWORD {verifier}")).await?;
    }
    Ok(())
}

/// Drops a tenant's roles from a server where it has no database any more. Refused by the registry, in the same
/// transaction, if a newer controller was here.
pub(crate) async fn drop_tenant_roles(registry: &Connection, term: i64, tenant: &TenantId) -> Result<()> {
    let roles: Vec<String> = Access::ALL.into_iter().map(|access| ident(&access.role(tenant))).collect();
    let roles = roles.join(", ");
    registry.run(&format!("SELECT public.check_term({term}); DROP ROLE IF EXISTS {roles}")).await
}
