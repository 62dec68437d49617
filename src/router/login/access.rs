//! What a user with the right password gets.
//!
//! A user that may not reach a tenant must not learn whether it exists: both cases are answered like a wrong password, and
//! as soon. So this is decided when the password was proven right, but before the client is told so. Who may reach every
//! tenant, or is named for just this one, learns nothing new from the truth and is told it. The log has the reason in any
//! case.

use std::time::{Duration, Instant, SystemTime};

use shard_map::labels::Labels;
use shard_map::{Refusal, Route, Tenant, TenantId, TenantState, User};
use wire::startup::Startup;

use super::names::Names;
use super::settings::Settings;
use crate::admin::{self, AdminLogin, Right};
use crate::config::RouterConfig;
use crate::error::ClientError;
use crate::registry;
use crate::session::Login;
use crate::shared::Shared;
use crate::state::APPLICATION_NAME;

/// How long a login waits for a tenant that is being made; half of the time for a login, if that is less.
const CREATING_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it looks whether that has come to an end.
const CREATING_POLL: Duration = Duration::from_millis(100);

/// Lets a user in to the console, if it asks for that and may. For anybody else the console is a tenant that is not there.
pub(super) fn console(names: &Names, startup: &Startup, config: &RouterConfig) -> Option<AdminLogin> {
    let user = names.user.as_ref().filter(|_| names.tenant == admin::DATABASE)?;
    let right = Right::of(&user.name, config)?;
    let application_name = startup.get(APPLICATION_NAME).unwrap_or_default().to_owned();
    Some(AdminLogin { user: user.name.clone(), right, application_name })
}

/// Lets a user in to the tenant that it asks for, or not.
pub(super) async fn decide(names: Names, settings: Settings, shared: &Shared) -> Result<Login, ClientError> {
    let Names { user_name, user, tenant: wanted } = names;
    let wrong = || ClientError::Password(user_name.clone());
    let user = user.ok_or_else(wrong)?;
    let id = TenantId::new(&wanted);
    let may_know = match &id {
        Ok(id) => user.tenants.matches(id, &Labels::default()),
        Err(_) => user.tenants.is_all(),
    };
    let unknown = || {
        tracing::info!(
            user = user.name,
            tenant = wanted,
            "a user asks for a tenant that is not there for it"
        );
        if may_know { ClientError::NoTenant(wanted.clone()) } else { wrong() }
    };
    let id = id.map_err(|_| unknown())?;
    // Only for who may know: it takes time, and that tells.
    if may_know && !shared.map.is_followed() {
        discover(&id, shared).await?;
    }
    // A look at the catalog takes time, too.
    let is_there =
        if may_know { comes_to_reach(&user, &id, shared).await? } else { reaches(&user, &id, shared)? };
    if !is_there {
        return Err(unknown());
    }
    let pool_mode = settings.pool_mode.unwrap_or(user.pool_mode);
    Ok(Login {
        user: user.name,
        tenant: id,
        access: user.access,
        pool_mode,
        settings: settings.values,
        minor: settings.minor,
    })
}

/// Whether the tenant is there, and for this user; one that was made a moment ago included, or that is just being made.
async fn comes_to_reach(user: &User, id: &TenantId, shared: &Shared) -> Result<bool, ClientError> {
    let deadline = Instant::now() + CREATING_TIMEOUT.min(shared.config().login_timeout / 2);
    let mut looked = false;
    loop {
        let found = reaches(user, id, shared);
        let is_settled = match &found {
            Ok(is_there) => *is_there || looked,
            Err(ClientError::Creating(_)) => Instant::now() >= deadline,
            Err(_) => true,
        };
        if is_settled || !shared.map.is_followed() {
            return found;
        }
        if looked {
            tokio::time::sleep(CREATING_POLL).await;
        }
        shared.looks.anew().await;
        looked = true;
    }
}

/// Whether the tenant is there, and for this user.
fn reaches(user: &User, id: &TenantId, shared: &Shared) -> Result<bool, ClientError> {
    let map = shared.map.read();
    let Some(known) = map.tenants.get(id).filter(|tenant| user.tenants.matches(id, &tenant.labels)) else {
        return Ok(false);
    };
    match map.route(&known.id, SystemTime::now()) {
        // A server that is not known yet may be soon: the queue has a limit.
        Route::Forward(..) | Route::Hold(..) | Route::Refuse(Refusal::UnknownServer) => Ok(true),
        Route::Refuse(Refusal::UnknownTenant | Refusal::Deleted) => Ok(false),
        Route::Refuse(refusal) => Err(ClientError::refusal(refusal, id.as_str())),
    }
}

/// Asks the registries for a tenant that the map does not know, or only as one that is being made, when there is no
/// catalog that would tell.
async fn discover(id: &TenantId, shared: &Shared) -> Result<(), ClientError> {
    let known = shared.map.read().tenants.get(id).cloned();
    if known.as_ref().is_some_and(|tenant| tenant.state != TenantState::Creating) {
        return Ok(());
    }
    let Some((server, epoch)) = registry::find(shared, id).await else {
        return if known.is_some() { Ok(()) } else { Err(ClientError::NoMap) };
    };
    tracing::info!(tenant = %id, server = %server.name, "found a tenant that the map does not know as open");
    let known = known.unwrap_or_else(|| Tenant {
        id: id.clone(),
        server: server.name.clone(),
        epoch,
        state: TenantState::Open,
        labels: [].into(),
        key_version: 1,
        schema_version: None,
        quota: None,
        read_only: false,
    });
    let tenant = Tenant { server: server.name.clone(), epoch, state: TenantState::Open, ..known };
    shared.map.discover(server, tenant);
    Ok(())
}
