//! Before a move is on record: whether it may start. Whoever starts one asks here, an operator's request as well as the
//! leader that empties a server.

use shard_map::{Server, ServerName, ServerState, TenantId, TenantState};

use super::preflight::{self, Preflight};
use crate::context::Context;
use crate::error::{Error, Result};

/// A move that was looked at.
pub(crate) struct Checked {
    pub(crate) id: TenantId,
    pub(crate) source: Server,
    pub(crate) target: Server,
    pub(crate) found: Preflight,
}

/// Looks at the tenant and both servers; a dry run for longer, so that it can tell more.
///
/// # Errors
/// [`Error::Refused`] when there is nothing to look at: it is there already, does not serve, or the target takes nobody.
pub(crate) async fn check(
    context: &Context,
    id: &TenantId,
    to: &ServerName,
    is_dry: bool,
) -> Result<Checked> {
    let tenant = context.catalog.tenant(id).await?.tenant;
    let target = context.server(to).await?;
    if tenant.server == *to {
        return Err(Error::refused(
            format!("tenant {id} is on server {to} already"),
            "choose another server",
        ));
    }
    if tenant.state != TenantState::Open {
        let message = format!("tenant {id} is {}; only an open tenant can be moved", tenant.state.as_str());
        return Err(Error::Refused { message, hint: None });
    }
    if target.state == ServerState::Draining {
        return Err(Error::refused(format!("server {to} is draining"), "choose another server"));
    }
    let source = context.server(&tenant.server).await?;
    let found = preflight::run(context, id, (&source, &target), is_dry).await?;
    Ok(Checked { id: id.clone(), source, target, found })
}

impl Checked {
    /// Refuses if anything stands in the way, with all of it.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub(crate) fn may_start(&self) -> Result<()> {
        let errors: Vec<_> = self.found.errors().collect();
        if errors.is_empty() {
            return Ok(());
        }
        let what: Vec<_> = errors.iter().map(|finding| finding.what.as_str()).collect();
        let remedies: Vec<_> = errors.iter().map(|finding| finding.remedy.as_str()).collect();
        let message =
            format!("tenant {} can't be moved to {}: {}", self.id, self.target.name, what.join("; "));
        Err(Error::refused(message, remedies.join("; ")))
    }
}
