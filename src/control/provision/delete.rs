//! `delete`: a tenant's database is put aside, and dropped when its grace time is over.

use serde_json::Value;
use shard_map::TenantState;

use super::{Place, Steps, close, dump, record_and_rename, remove, tenant_of};
use crate::context::Work;
use crate::error::Result;
use crate::moves;
use crate::server::{database, registry};

/// Puts a tenant's database aside, or drops it when `now` was asked for or its grace time is over.
pub(crate) async fn delete(work: &Work) -> Result<()> {
    let Some(place) = Place::if_there(work, tenant_of(work)?).await? else {
        // This operation took it off the map, and died before it could say so: nobody else can have.
        return work.set_state("done", None).await;
    };
    let id = &place.tenant.id;
    let aside = id.deleted_database();
    let mut steps = Steps::of(work);
    close(work, &place, &mut steps, TenantState::Deleted).await?;
    steps.run("put_aside", put_aside(work, &place, &aside)).await?;
    if asked(work, "now") {
        steps.run("finish_moves", moves::finish_earlier(work, id, None)).await?;
        let wanted = asked(work, "dump") || work.context.config.deleted_dump_dir.is_some();
        if wanted && database::is_valid(&place.registry, &aside).await? {
            steps.run("dump", dump::write(work, &place, &aside)).await?;
        }
        steps.run("drop", remove(work, &place, (&aside, "leaving"))).await?;
    }
    work.set_state("done", None).await
}

fn asked(work: &Work, what: &str) -> bool {
    work.operation.input.get(what).and_then(Value::as_bool) == Some(true)
}

async fn put_aside(work: &Work, place: &Place, aside: &str) -> Result<()> {
    let live = place.tenant.id.live_database();
    let record = registry::read(&place.registry, &place.tenant.id).await?;
    // It was put aside before. By now it may be dropped, and taken off the record, if that is what was cut short.
    let is_aside = record.map_or(asked(work, "now"), |record| record.state == "leaving");
    if is_aside && !database::exists(&place.registry, live).await? {
        return Ok(());
    }
    // A copy that follows would be in the way of the new name.
    moves::close_windows(work, &place.tenant.id, "the tenant was deleted").await?;
    let from = [Some("open"), Some("suspended")];
    record_and_rename(work, place, &from, "leaving", (live, aside)).await
}
