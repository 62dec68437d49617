//! Removes the last of a move: the sealed copy on the source.

use catalog::Kind;
use serde_json::json;
use shard_map::{ServerName, TenantId};

use super::driver::Move;
use super::{driver, undo};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::server::doom::{self, Doomed};
use crate::server::{registry, roles};

/// Drops the sealed copy. The source's registry keeps its record: it tells a router that is behind where the tenant
/// went.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let source_registry = the_move.source_registry().await?;
    registry::raise_term(&source_registry, the_move.work.term).await?;
    undo::drop_slot(&source_registry, &the_move.names.forward).await?;
    let sealed = the_move.id.sealed_database();
    let doomed = Doomed { tenant: &the_move.id, database: &sealed, state: Some("sealed") };
    doom::remove(&source_registry, the_move.work.term, doomed).await?;
    undo::drop_move_role(&source_registry, the_move).await?;
    // Unless the tenant is on its way back here, or was made anew here.
    let record = registry::read(&source_registry, &the_move.id).await?;
    if record.is_none_or(|record| record.state == "sealed") {
        roles::drop_tenant_roles(&source_registry, the_move.work.term, &the_move.id).await?;
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
