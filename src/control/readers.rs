//! Readers that are left of operations which ended while a server did not answer: their roles are dropped, and databases that they
//! left open are closed. A full pass each time, whatever the catalog has forgotten meanwhile.

use std::collections::HashSet;
use std::time::Duration;

use shard_map::{Server, TenantId};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::names::OF_READERS;
use crate::server::reader::{drop_role, set_door};

/// How long one server may take.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(20);

/// Looks at all servers, one after the other. One that does not answer is looked at the next time.
pub(crate) async fn sweep(context: &Context, term: i64) -> Result<()> {
    for row in context.catalog.servers().await? {
        let server = &row.server;
        let swept = tokio::time::timeout(SWEEP_TIMEOUT, sweep_one(context, server, term)).await;
        let late = || Error::Timeout(format!("server {} did not answer in time", server.name));
        match swept.unwrap_or_else(|_| Err(late())) {
            Err(error) if error.must_stop() => return Err(error),
            Err(error) => {
                tracing::debug!(server = %server.name, %error, "what readers left there stays for now");
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

async fn sweep_one(context: &Context, server: &Server, term: i64) -> Result<()> {
    const OPEN: &str = "
        SELECT t.id FROM public.tenant t JOIN pg_catalog.pg_database d ON d.datname = t.database
        WHERE t.state IN ('sealed', 'suspended') AND d.datconnlimit NOT IN (0, -2)";
    let roles = format!(
        "SELECT rolname::text, substring(rolname FROM '{OF_READERS}')::bigint FROM pg_catalog.pg_roles
        WHERE rolname ~ '{OF_READERS}'"
    );
    let registry = context.connector.registry(server).await?;
    let (roles, open) = (registry.rows(&roles, &[]).await?, registry.rows(OPEN, &[]).await?);
    if roles.is_empty() && open.is_empty() {
        return Ok(());
    }
    // Afterwards: an operation is on record before its role is there, and is at work while a door of its is open.
    let operations = context.catalog.open_operations().await?;
    let at_work: HashSet<&TenantId> = operations
        .iter()
        .filter(|operation| operation.state == "running")
        .flat_map(|operation| operation.tenant.as_ref())
        .collect();
    for row in open {
        let Ok(tenant) = TenantId::new(row.get(0)) else { continue };
        if !at_work.contains(&tenant) && set_door(&registry, term, &tenant, 0).await? {
            tracing::warn!(server = %server.name, %tenant, "its database was left open, and is closed");
        }
    }
    for row in roles {
        let (role, number): (&str, i64) = (row.get(0), row.get(1));
        if operations.iter().all(|operation| operation.id != number) {
            drop_role(&context.connector, server, (&registry, term), role).await?;
            tracing::warn!(server = %server.name, role, "it was left by an operation that is over, and is dropped");
        }
    }
    Ok(())
}
