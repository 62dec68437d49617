//! Removes the last of a move: what follows in the sealed copy, and that copy on the source.

use catalog::Kind;
use serde_json::json;
use shard_map::{ServerName, TenantId};

use super::driver::Move;
use super::window::{self, Closing};
use super::{driver, undo};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::doom::{self, Doomed};
use crate::server::{reader, registry, roles};

/// Drops the sealed copy. The source's registry keeps its record: it tells a router that is behind where the tenant
/// went.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    // First, and whether or not the source answers: it keeps the target's log.
    window::close(the_move, Closing::because("the move was completed")).await?;
    failpoint::reach("complete_closed").await;
    let source_registry = the_move.source_registry().await?;
    registry::raise_term(&source_registry, the_move.work.term).await?;
    undo::drop_slot(&source_registry, &the_move.names.forward).await?;
    window::end_following(the_move).await?;
    failpoint::reach("complete_unfollowed").await;
    let sealed = the_move.id.sealed_database();
    let doomed = Doomed { tenant: &the_move.id, database: &sealed, state: Some("sealed") };
    doom::remove(&source_registry, the_move.work.term, doomed).await?;
    undo::drop_move_role(&source_registry, the_move).await?;
    // What the end of the comparison could not reach.
    reader::remove_all(the_move.readers()).await?;
    failpoint::reach("complete_role").await;
    // Unless the tenant is on its way back here, or was made anew here.
    let record = registry::read(&source_registry, &the_move.id).await?;
    if record.is_none_or(|record| record.state == "sealed") {
        roles::drop_tenant_roles(&source_registry, the_move.work.term, &the_move.id).await?;
    }
    Ok(())
}

/// Closes the windows of a tenant's moves, before something is done to its database that no stream may be in the way of.
pub(crate) async fn close_windows(work: &Work, tenant: &TenantId, why: &str) -> Result<()> {
    for operation in work.context.catalog.open_operations().await? {
        let is_its = operation.kind == Kind::Move && operation.tenant.as_ref() == Some(tenant);
        if !is_its || operation.state != "switched" {
            continue;
        }
        let _turn = work.context.turns.take(operation.id).await;
        let earlier = Work { context: work.context.clone(), operation, term: work.term };
        match window::close_of(&earlier, Closing::because(why)).await {
            // It was completed meanwhile, which closed it.
            Err(Error::Catalog(catalog::Error::Ended(_))) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Sees to earlier moves of a tenant that changes again. The sealed copy on `target` would be in the way of the next
/// move and is removed now; others may be on servers that have no part in this, and are removed in their own time.
pub(crate) async fn finish_earlier(
    work: &Work,
    tenant: &TenantId,
    target: Option<&ServerName>,
) -> Result<()> {
    for operation in work.context.catalog.open_operations().await? {
        let earlier = operation.kind == Kind::Move && operation.state == "switched";
        if !earlier || operation.tenant.as_ref() != Some(tenant) {
            continue;
        }
        let id = operation.id;
        let asked = operation.data.get("finish") == Some(&json!(true));
        if operation.data.get("verified") == Some(&json!(false)) && !asked {
            let message = format!("move {id} ended with differences, and its sealed copy may be needed");
            return Err(Error::refused(message, format!("when it is not: tenantry move complete {id}")));
        }
        let earlier = Work { context: work.context.clone(), operation, term: work.term };
        let finish = async {
            earlier.remember(&json!({ "finish": true })).await?;
            let turn = work.context.turns.take(id).await;
            window::close_of(&earlier, Closing::because("the tenant moved again, or was dropped")).await?;
            drop(turn);
            let [source, _] = driver::servers_of(&earlier.operation);
            if target.is_some() && source.as_ref() == target {
                tracing::info!(operation = id, "completed because the tenant moves again");
                Box::pin(driver::drive(&earlier)).await?;
            }
            Ok::<(), Error>(())
        };
        match finish.await {
            // Somebody else has, meanwhile: it is not this work's end.
            Err(Error::Catalog(catalog::Error::Ended(_))) => {}
            outcome => outcome?,
        }
    }
    Ok(())
}
