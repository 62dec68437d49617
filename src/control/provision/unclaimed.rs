//! Before a tenant is made: has any server one of this name? The catalog knows, unless it has lost the tenant; then routers
//! go on serving it, and one made beside it would take its clients from it.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use shard_map::{Server, ServerName, TenantId};

use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::registry;

/// How long a server has to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Servers that are asked at once.
const SERVERS_AT_ONCE: usize = 32;

/// Asks all servers. Returns those that don't answer, or can't: no tenant is to be placed there just now.
///
/// # Errors
/// [`Error::Refused`] when a server has the tenant on record, and the catalog does not.
pub(crate) async fn ask_servers(context: &Context, id: &TenantId) -> Result<Vec<ServerName>> {
    let rows = context.catalog.servers().await?;
    let asked = stream::iter(rows).map(async |row| {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, has(context, &row.server, id)).await;
        (row.server.name, answer.ok().and_then(Result::ok))
    });
    let answers: Vec<_> = asked.buffer_unordered(SERVERS_AT_ONCE).collect().await;
    let mut away = Vec::new();
    for (name, answer) in answers {
        match answer {
            None => away.push(name),
            Some(true) if matches!(context.catalog.tenant(id).await, Err(catalog::Error::NotFound(_))) => {
                let message = format!("server {name} has tenant {id} on record, and the catalog has lost it");
                return Err(Error::refused(message, "see tenantry map verify, and tenantry map rebuild"));
            }
            Some(_) => {}
        }
    }
    Ok(away)
}

/// Whether a server has the tenant on record. A sealed record is what one left that moved away.
async fn has(context: &Context, server: &Server, id: &TenantId) -> Result<bool> {
    let registry = context.connector.warm_registry(server).await?;
    let record = registry::read(&registry, id).await?;
    context.connector.keep_warm(server, registry);
    Ok(record.is_some_and(|record| record.state != "sealed"))
}
