//! `delete`: a tenant's database is put aside, and dropped when its grace time is over.

use serde_json::Value;
use shard_map::TenantState;

use super::{Place, Steps, close, record_and_rename, remove};
use crate::context::Work;
use crate::error::Result;
use crate::moves;

/// Puts a tenant's database aside, or drops it when `now` was asked for or its grace time is over.
pub(crate) async fn delete(work: &Work) -> Result<()> {
    let place = Place::find(work).await?;
    let id = &place.tenant.id;
    let aside = id.deleted_database();
    let mut steps = Steps::of(work);
    close(work, &place, &mut steps, TenantState::Deleted).await?;
    let (from, names) = ([Some("open"), Some("suspended")], (id.live_database(), &*aside));
    steps.run("put_aside", record_and_rename(work, &place, &from, "leaving", names)).await?;
    if work.operation.input.get("now").and_then(Value::as_bool) == Some(true) {
        let drop_it = async {
            moves::finish_earlier(work, id, None).await?;
            remove(work, &place, &aside).await
        };
        steps.run("drop", drop_it).await?;
    }
    work.set_state("done", None).await
}
