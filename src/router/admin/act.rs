//! What an administrator does to a tenant at this router: PAUSE, RESUME, KILL.
//!
//! A pause holds beside whatever the map says, until RESUME or the router's end, also when its command was answered
//! with an error or its session is gone: who pauses before work on a server must not find clients there again because a
//! terminal was closed. It is this router's only: others are asked by themselves.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shard_map::TenantId;

use crate::admin::AdminError;
use crate::admin::command::Deed;
use crate::ask::ask;
use crate::session::client::End;
use crate::shared::Shared;
use crate::tenant::Tenant;
use crate::worker::Worker;

/// How often it is looked whether something has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long clients that are ended may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Clients that an error names.
const NAMED_MAX: usize = 10;

/// Does it, and gives what there is to tell.
pub(crate) async fn act(
    shared: &Arc<Shared>,
    deed: Deed,
    tenant: &str,
    user: &str,
) -> Result<Option<String>, AdminError> {
    let unknown = || AdminError::unknown_tenant(tenant);
    let id = TenantId::new(tenant).map_err(|_| unknown())?;
    if !shared.map.read().tenants.contains_key(&id) {
        return Err(unknown());
    }
    tracing::info!(user, tenant = %id, command = deed.name(), "a command of an administrator");
    match deed {
        Deed::Pause => pause(shared, id).await.map(|()| None),
        Deed::Resume => resume(shared, id).await.map(|()| None),
        Deed::Kill => kill(shared, id).await.map(Some),
    }
}

async fn pause(shared: &Arc<Shared>, id: TenantId) -> Result<(), AdminError> {
    let worker = shared.worker_of(&id);
    let time = shared.config().pause_timeout;
    let deadline = Instant::now() + time;
    let tenant = id.clone();
    ask(shared, worker, move |worker| worker.tenant(&tenant).pause()).await?;
    loop {
        let tenant = id.clone();
        let look = move |worker: &Rc<Worker>| {
            worker.warm(&tenant).map(|tenant| (tenant.under_way(), busy(&tenant))).unwrap_or_default()
        };
        let (under_way, clients) = ask(shared, worker, look).await?;
        if under_way == 0 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(still_runs(&id, under_way, &clients, time));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Some of the clients that have a connection, as an error names them.
fn busy(tenant: &Tenant) -> Vec<String> {
    let clients = tenant.clients.borrow();
    let busy = clients.values().filter(|client| client.target().is_some() && !client.is_parked_and_pinned());
    busy.take(NAMED_MAX).map(|client| format!("{} ({})", client.id, client.user)).collect()
}

fn still_runs(id: &TenantId, under_way: usize, clients: &[String], time: Duration) -> AdminError {
    let message =
        format!("tenant \"{id}\" is paused, but after {time:?} not all of its transactions have ended");
    let hint =
        format!("New ones wait. PAUSE {id} waits again, KILL {id} ends them, RESUME {id} ends the pause.");
    let mut error = AdminError::new("55006", message, hint);
    error.detail = Some(format!("{under_way} connections in use, by clients {}.", clients.join(", ")));
    error
}

async fn resume(shared: &Arc<Shared>, id: TenantId) -> Result<(), AdminError> {
    let tenant = id.clone();
    let was_paused = ask(shared, shared.worker_of(&id), move |worker| {
        worker.warm(&tenant).is_some_and(|tenant| tenant.resume())
    });
    if was_paused.await? {
        return Ok(());
    }
    let message = format!("tenant \"{id}\" is not paused");
    Err(AdminError::new("55000", message, "SHOW HOLDS lists tenants that are paused at this router."))
}

async fn kill(shared: &Arc<Shared>, id: TenantId) -> Result<String, AdminError> {
    let worker = shared.worker_of(&id);
    let tenant = id.clone();
    let end_all = move |worker: &Rc<Worker>| {
        let Some(tenant) = worker.warm(&tenant) else { return Vec::new() };
        // Connections that come back are closed, too.
        tenant.renew_connections();
        let clients: Vec<_> = tenant.clients.borrow().values().cloned().collect();
        clients.iter().for_each(|client| client.end(End::Killed));
        clients.iter().map(|client| client.id).collect()
    };
    let killed = ask(shared, worker, end_all).await?;
    let count = killed.len();
    let killed = Arc::new(killed);
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let ids = killed.clone();
        let left = ask(shared, worker, move |worker| {
            let clients = worker.clients.borrow();
            ids.iter().filter(|id| clients.contains_key(id)).count()
        });
        match left.await? {
            0 => return Ok(format!("{count} clients of tenant \"{id}\" were ended")),
            left if Instant::now() >= deadline => {
                let message = format!("{left} of {count} clients of tenant \"{id}\" are still there");
                return Err(AdminError::new(
                    "55006",
                    message,
                    "They were told to end; SHOW CLIENTS lists them.",
                ));
            }
            _ => tokio::time::sleep(LOOK).await,
        }
    }
}
