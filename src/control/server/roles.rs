//! Roles on a managed server. Every password is a SCRAM verifier of a derived one; none crosses the wire in clear,
//! none can stand in a server's log.

use postgres_protocol::password::scram_sha_256;
use shard_map::{Access, MasterKey, Tenant, TenantId};
use wire::scram::Verifier;

use super::{Connection, ident, literal};
use crate::error::Result;

/// What a tenant's roles may, on any server.
const TENANT_ATTRIBUTES: &str = "NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS";
/// A verifier that takes longer to check is made anew: Postgres's own has 4,096.
const CARRIED_ITERATIONS_MAX: u32 = 1 << 16;

/// The passwords of a tenant's roles as verifiers, in the order of [`Access::ALL`]. Takes milliseconds of CPU.
pub(crate) fn verifiers(key: &MasterKey, tenant: &TenantId, key_version: i32) -> [String; 3] {
    Access::ALL.map(|access| scram_sha_256(key.tenant_password(tenant, access, key_version).as_bytes()))
}

/// Makes a login role, or brings an existing one to these attributes and this password.
pub(crate) async fn put_login(
    connection: &Connection,
    role: &str,
    attributes: &str,
    password: &str,
) -> Result<()> {
    connection.run(&login(connection, role, attributes, password).await?).await
}

/// The statement that makes a login role, or brings the one that is there to these attributes and this password.
pub(crate) async fn login(
    connection: &Connection,
    role: &str,
    attributes: &str,
    password: &str,
) -> Result<String> {
    statement(connection, role, attributes, &scram_sha_256(password.as_bytes())).await
}

async fn put(connection: &Connection, role: &str, attributes: &str, verifier: &str) -> Result<()> {
    connection.run(&statement(connection, role, attributes, verifier).await?).await
}

async fn statement(connection: &Connection, role: &str, attributes: &str, verifier: &str) -> Result<String> {
    let exists: bool = connection
        .value("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)", &[&role])
        .await?;
    let verb = if exists { "ALTER" } else { "CREATE" };
    let (role, verifier) = (ident(role), literal(verifier));
    Ok(format!("{verb} ROLE {role} LOGIN {attributes} PASSWORD {verifier}"))
}

/// Makes the three roles of a tenant, each a plain login: never a superuser, never a database's owner.
pub(crate) async fn put_tenant_roles(
    connection: &Connection,
    key: &MasterKey,
    tenant: &TenantId,
    key_version: i32,
) -> Result<()> {
    for (access, verifier) in Access::ALL.into_iter().zip(verifiers(key, tenant, key_version)) {
        put(connection, &access.role(tenant), TENANT_ATTRIBUTES, &verifier).await?;
    }
    Ok(())
}

/// Makes the three roles of a tenant as another server has them: with the same verifiers, so that what routers derived from
/// one is good for the other. One that is not of the password that routers know is made anew.
pub(crate) async fn carry_tenant_roles(
    (from, to): (&Connection, &Connection),
    key: &MasterKey,
    tenant: &Tenant,
) -> Result<()> {
    const SQL: &str = "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1";
    for access in Access::ALL {
        let role = access.role(&tenant.id);
        let password = key.tenant_password(&tenant.id, access, tenant.key_version);
        let found: Option<String> = from.row(SQL, &[&role]).await?.and_then(|row| row.get(0));
        let fits = |text: &String| {
            Verifier::parse(text).is_ok_and(|verifier| verifier.is_of(&password, CARRIED_ITERATIONS_MAX))
        };
        let verifier = found.filter(fits).unwrap_or_else(|| scram_sha_256(password.as_bytes()));
        put(to, &role, TENANT_ATTRIBUTES, &verifier).await?;
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
    for (access, verifier) in Access::ALL.into_iter().zip(verifiers(key, tenant, key_version)) {
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
