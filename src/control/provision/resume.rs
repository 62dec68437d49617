//! `resume`: a suspended tenant's connections are let in again.

use super::{Place, Steps, open};
use crate::context::Work;
use crate::error::Result;
use crate::server::roles;

/// Lets a suspended tenant's connections in again. Its roles get their passwords anew: whoever is logged in as one of them
/// may have changed it, which keeps the routers out.
pub(crate) async fn resume(work: &Work) -> Result<()> {
    let place = Place::find(work).await?;
    let (id, key_version) = (&place.tenant.id, place.tenant.key_version);
    let mut steps = Steps::of(work);
    let put_roles = roles::put_tenant_roles(&place.registry, &work.context.key, id, key_version);
    steps.run("roles", put_roles).await?;
    steps.run("open", open(work, &place, &[Some("suspended")])).await?;
    work.set_state("done", None).await
}
