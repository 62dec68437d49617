//! Who is connected, who has a transaction open, which routers answer, and who lives beside whom.

use catalog::NEIGHBOURS_NAMED_MAX;
use shard_map::{Server, TenantId};

use super::{Level, Preflight, Sides};
use crate::context::Context;
use crate::error::Result;
use crate::moves::fence;
use crate::server::Connection;

/// An open transaction anywhere on the source delays the slot; one older than this will be told.
const OLD_TRANSACTION_SECONDS: f64 = 10.0;

pub(super) async fn look(
    found: &mut Preflight,
    context: &Context,
    sides: &Sides<'_>,
    id: &TenantId,
) -> Result<()> {
    old_transactions(found, &sides.on_source).await?;
    if let Some(silent) = fence::silent_router(context, context.config.router_lost_after).await? {
        let remedy = "see what it is at; the cutover waits for it until it reports, or is given up as lost";
        found.add(Level::Warning, "router_silent", silent, remedy);
    }
    pinned_sessions(found, context, id).await?;
    neighbours(found, context, id, sides.target).await
}

async fn old_transactions(found: &mut Preflight, connection: &Connection) -> Result<()> {
    const OLD: &str = "
        SELECT pid, coalesce(datname::text, '?'), coalesce(usename::text, '?'),
            extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(application_name, ''), coalesce(state, '?')
        FROM pg_catalog.pg_stat_activity
        WHERE xact_start < clock_timestamp() - $1 * interval '1 second' AND backend_xid IS NOT NULL
        ORDER BY xact_start LIMIT 5";
    for row in connection.rows(OLD, &[&OLD_TRANSACTION_SECONDS]).await? {
        let (pid, database, role, age): (i32, String, String, f64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (application, state): (String, String) = (row.get(4), row.get(5));
        let what = format!(
            "a transaction of {role} in database {database} (pid {pid}, application {application:?}, {state}) is open for {age:.0} s"
        );
        found.add(Level::Warning, "old_transaction", what, "the move begins when it has ended");
    }
    Ok(())
}

async fn pinned_sessions(found: &mut Preflight, context: &Context, id: &TenantId) -> Result<()> {
    for router in context.catalog.live_routers(context.config.router_timeout).await? {
        for (reason, count) in router.report.pinned.get(id.as_str()).into_iter().flatten() {
            let what = format!("{count} sessions at router {} can't be held ({reason})", router.name);
            found.add(
                Level::Warning,
                "pinned_sessions",
                what,
                "they are ended with 57P01 at the switch, and their clients reconnect; with --wait-sessions the move waits for them",
            );
        }
    }
    Ok(())
}

/// A target that is named is taken whatever its neighbours are, as when a tenant is made: they are a wish.
async fn neighbours(found: &mut Preflight, context: &Context, id: &TenantId, target: &Server) -> Result<()> {
    let tenant = context.catalog.tenant(id).await?.tenant;
    let policy = context.policy().await?;
    let remedy = "the placement policy keeps them apart: choose another server, if that is still meant";
    let neighbours = context.catalog.anti_affine_on(&target.name, &tenant, &policy).await?;
    for (other, key) in neighbours.iter().take(NEIGHBOURS_NAMED_MAX) {
        let value = tenant.labels.get(key).unwrap_or_default();
        let what = format!("tenant {other} is on server {}, too, and both have {key}={value}", target.name);
        found.add(Level::Warning, "neighbours", what, remedy);
    }
    if neighbours.len() > NEIGHBOURS_NAMED_MAX {
        let what = format!("and more such tenants are on server {}", target.name);
        found.add(Level::Warning, "neighbours", what, remedy);
    }
    Ok(())
}
