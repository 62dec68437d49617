//! A look at every tenant's own history before a run: direct, a few at a time on each server, reading only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use shard_map::{Server, ServerName, Tenant, TenantId, TenantState};

use super::history::{self, Applied};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::tables;

/// Tenants that are looked at at once on each server.
const AT_ONCE: usize = 2;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// At what ran.
    History,
    /// Also at the schema itself, which takes longer.
    Schema,
}

/// What a tenant's database is like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub(crate) applied: Vec<Applied>,
    /// Equal for equal schemas.
    pub(crate) shape: Option<String>,
    pub(crate) invalid_indexes: Vec<String>,
}

/// A tenant as it was found; why not, if it was not.
pub(crate) type Surveyed = BTreeMap<TenantId, std::result::Result<Found, String>>;

/// Looks at these tenants.
///
/// # Errors
/// When the catalog can't be reached. A server that can't be is told for each of its tenants.
pub(crate) async fn survey(context: &Arc<Context>, tenants: &[Tenant], look: Look) -> Result<Surveyed> {
    let mut of_servers: BTreeMap<ServerName, Vec<&Tenant>> = BTreeMap::new();
    for tenant in tenants {
        of_servers.entry(tenant.server.clone()).or_default().push(tenant);
    }
    let mut lookups = Vec::new();
    for (name, tenants) in of_servers {
        let server = context.server(&name).await?;
        lookups.push(survey_server(context, server, tenants, look));
    }
    Ok(join_all(lookups).await.into_iter().flatten().collect())
}

async fn survey_server(
    context: &Arc<Context>,
    server: Server,
    tenants: Vec<&Tenant>,
    look: Look,
) -> Vec<(TenantId, std::result::Result<Found, String>)> {
    // Once it does not answer, nobody else waits for it.
    let away: OnceLock<String> = OnceLock::new();
    let one = async |tenant: &Tenant| {
        let found = match away.get() {
            Some(why) => Err(why.clone()),
            None if tenant.state == TenantState::Creating => Err("it is being made".to_owned()),
            None => survey_tenant(context, &server, tenant, look).await.map_err(|e| {
                if let Error::ServerUnreachable { .. } = e {
                    drop(away.set(e.to_string()));
                }
                e.to_string()
            }),
        };
        (tenant.id.clone(), found)
    };
    futures_util::stream::iter(tenants).map(one).buffer_unordered(AT_ONCE).collect().await
}

async fn survey_tenant(context: &Context, server: &Server, tenant: &Tenant, look: Look) -> Result<Found> {
    let connection = context.connector.database(server, tenant.id.live_database()).await?;
    let mut found = Found { applied: history::read(&connection).await?, ..Found::default() };
    if look == Look::Schema {
        const INVALID: &str = "
            SELECT indexrelid::regclass::text FROM pg_catalog.pg_index WHERE NOT indisvalid ORDER BY 1";
        found.shape = Some(tables::shape(&connection).await?);
        found.invalid_indexes = connection.rows(INVALID, &[]).await?.iter().map(|row| row.get(0)).collect();
    }
    connection.close().await;
    Ok(found)
}
