//! `undelete`: a deleted tenant is brought back while its grace time lasts.

use super::{Place, Steps, open, record_and_rename};
use crate::context::Work;
use crate::error::Result;

/// Brings a deleted tenant back.
pub(crate) async fn undelete(work: &Work) -> Result<()> {
    let place = Place::find(work).await?;
    let id = &place.tenant.id;
    let aside = id.deleted_database();
    let mut steps = Steps::of(work);
    let (from, names) = ([Some("leaving")], (&*aside, id.live_database()));
    steps.run("take_back", record_and_rename(work, &place, &from, "open", names)).await?;
    steps.run("open", open(work, &place, &[Some("leaving")])).await?;
    work.set_state("done", None).await
}
