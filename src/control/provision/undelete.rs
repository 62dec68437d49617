//! `undelete`: a deleted tenant is brought back while its grace time lasts.

use super::{Place, Steps, open, record_and_rename};
use crate::context::Work;
use crate::error::Result;
use crate::fleet;

/// Brings a deleted tenant back.
pub(crate) async fn undelete(work: &Work) -> Result<()> {
    let place = Place::find(work).await?;
    let id = &place.tenant.id;
    let aside = id.deleted_database();
    let mut steps = Steps::of(work);
    let (from, names) = ([Some("leaving")], (&*aside, id.live_database()));
    steps.run("take_back", record_and_rename(work, &place, &from, "open", names)).await?;
    steps.run("schema", catch_up(work, &place)).await?;
    steps.run("open", open(work, &place, &[Some("leaving")])).await?;
    work.set_state("done", None).await
}

/// Brings its schema to what the fleet has got meanwhile. A tenant whose data stands in the way comes back all the same:
/// `migrate plan` tells that it is behind.
async fn catch_up(work: &Work, place: &Place) -> Result<()> {
    let id = &place.tenant.id;
    match fleet::apply_fleet_schema(&work.context, &place.server, &place.tenant).await {
        Ok(None) => Ok(()),
        Ok(version) => Ok(work.context.catalog.set_schema_version(id, version, work.term).await?),
        // 57014: it took longer than the run's limit, and would again.
        Err(error) if error.sqlstate() != Some("57014") && (error.is_transient() || error.must_stop()) => {
            Err(error)
        }
        Err(error) => {
            tracing::warn!(operation = work.operation.id, tenant = %id, %error, "comes back with an older schema");
            Ok(())
        }
    }
}
