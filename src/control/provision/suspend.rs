//! `suspend`: a tenant's connections are refused, and everything else is kept.

use shard_map::TenantState;

use super::{Place, Steps, close, record};
use crate::context::Work;
use crate::error::Result;

/// Refuses a tenant's connections, and keeps everything else.
pub(crate) async fn suspend(work: &Work) -> Result<()> {
    let place = Place::find(work).await?;
    let mut steps = Steps::of(work);
    close(work, &place, &mut steps, TenantState::Suspended).await?;
    let live = place.tenant.id.live_database();
    steps.run("record", record(work, &place, &[Some("open")], "suspended", live)).await?;
    work.set_state("done", None).await
}
