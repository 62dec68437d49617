//! Lets routers in again where a tenant's role has another password than the one that they know.
//!
//! Postgres lets each role change its own password, and all users of an access share a role. Routers refuse a statement that
//! says so; what a function or a DO block does they can't see, but report that a server refuses them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shard_map::{TenantId, TenantState};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::roles;

/// How often the routers' reports are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// Reports that are older don't count.
const REPORT_AGE_MAX: Duration = Duration::from_secs(5);
/// A tenant's passwords are set once in this time: the fault may be another, or a client that does it again and again.
const PAUSE: Duration = Duration::from_secs(60);
/// How long one tenant's server may take.
const LET_IN_TIMEOUT: Duration = Duration::from_secs(10);
/// Tenants that are seen to at one look.
const TENANTS_AT_ONCE_MAX: usize = 10;

/// Looks, for as long as this instance leads, until `stop`.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    let mut seen_to = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
        if context.term.borrow().is_some()
            && let Err(error) = look(&context, &mut seen_to).await
        {
            tracing::debug!(%error, "the routers' reports could not be read");
        }
    }
}

async fn look(context: &Context, seen_to: &mut HashMap<TenantId, Instant>) -> Result<()> {
    seen_to.retain(|_, at| at.elapsed() < PAUSE);
    let mut tenants = context.catalog.locked_out_tenants(REPORT_AGE_MAX).await?;
    tenants.retain(|tenant| !seen_to.contains_key(tenant));
    for tenant in tenants.into_iter().take(TENANTS_AT_ONCE_MAX) {
        let late = |_| Err(Error::Timeout(format!("its server did not answer within {LET_IN_TIMEOUT:?}")));
        let outcome = tokio::time::timeout(LET_IN_TIMEOUT, let_in(context, &tenant)).await;
        match outcome.unwrap_or_else(late) {
            Ok(true) => tracing::warn!(
                %tenant,
                "its roles have their passwords anew: a server refused a router's; a client may have changed one"
            ),
            // What is being done to it may be the reason.
            Ok(false) => continue,
            Err(error) => tracing::warn!(%tenant, %error, "a server refuses its routers' password"),
        }
        seen_to.insert(tenant, Instant::now());
    }
    Ok(())
}

/// Sets the passwords of a tenant that is to be reached; `false` when it is not.
async fn let_in(context: &Context, id: &TenantId) -> Result<bool> {
    let tenant = context.catalog.tenant(id).await?.tenant;
    if tenant.state != TenantState::Open || context.catalog.running_operation(id).await?.is_some() {
        return Ok(false);
    }
    let server = context.server(&tenant.server).await?;
    let registry = context.connector.registry(&server).await?;
    roles::set_tenant_passwords(&registry, &context.key, id, tenant.key_version).await?;
    Ok(true)
}
