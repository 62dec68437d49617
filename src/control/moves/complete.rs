//! Removes the last of a move: the sealed copy on the source.

use catalog::Kind;
use shard_map::TenantId;
use shard_map::moves::Phase;

use super::driver::Move;
use super::{driver, undo};
use crate::context::Work;
use crate::error::Result;
use crate::server::{database, registry, roles};

/// Drops the sealed copy. The source's registry keeps its record: it tells a router that is behind where the tenant
/// went.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let source_registry = the_move.source_registry().await?;
    registry::raise_term(&source_registry, the_move.work.term).await?;
    undo::drop_slot(&source_registry, &the_move.names.forward).await?;
    database::drop(&source_registry, &the_move.id.sealed_database()).await?;
    undo::drop_move_role(&source_registry, the_move).await?;
    if !database::exists(&source_registry, the_move.id.live_database()).await? {
        roles::drop_tenant_roles(&source_registry, &the_move.id).await?;
    }
    Ok(())
}

/// Completes earlier moves of a tenant: their sealed copies would be in the way of the next.
pub(crate) async fn finish_earlier(work: &Work, tenant: &TenantId) -> Result<()> {
    for operation in work.context.catalog.open_operations().await? {
        let earlier = operation.kind == Kind::Move
            && operation.state == "switched"
            && operation.id != work.operation.id;
        if earlier && operation.tenant.as_ref() == Some(tenant) {
            tracing::info!(operation = operation.id, "completed because the tenant changes again");
            let earlier = Work { context: work.context.clone(), operation, term: work.term };
            debug_assert!(Phase::Switched.state(false).as_str() == earlier.operation.state);
            Box::pin(driver::drive(&earlier)).await?;
        }
    }
    Ok(())
}
