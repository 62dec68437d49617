//! Opens one connection for a tenant's queue, however long that takes while somebody waits.
//!
//! All that can be in the way is dealt with here, once a tenant and not once a client: the server's budget, a server
//! that is down, a tenant that has moved. It ends when it has a connection or nobody waits any more.

use std::rc::Rc;
use std::time::Duration;

use crate::error::ClientError;
use crate::gate::Asked;
use crate::pool::budget::Permit;
use crate::pool::connect::{ConnectError, connect};
use crate::pool::connection::Place;
use crate::tenant::{Gate, Tenant};

/// Pause after the first failure; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(1000);
/// How often a wait for the server's budget looks whether anybody still waits.
const BUDGET_LOOK: Duration = Duration::from_millis(200);

struct Opening(Rc<Tenant>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(self.0.opening.get() - 1);
    }
}

/// Opens a connection and gives it to the tenant's pool.
pub(crate) async fn open(tenant: Rc<Tenant>) {
    let opening = Opening(tenant.clone());
    let changed = tenant.changed.notified();
    let opened = tokio::select! {
        // A change first: what is ready beside it was opened for the place before.
        biased;
        () = changed => None,
        opened = attempts(&tenant) => opened,
    };
    drop(opening);
    match opened {
        Some(connection) => tenant.release(connection),
        None => tenant.settle(),
    }
}

async fn attempts(tenant: &Rc<Tenant>) -> Option<Box<super::ServerConnection>> {
    let mut pause = PAUSE;
    loop {
        let access = tenant.first_waiter()?;
        if !matches!(*tenant.gate.borrow(), Gate::Open) {
            return None;
        }
        let place = tenant.place()?;
        let permit = permit(tenant, &place).await?;
        let error = match connect(tenant, &place, access, permit).await {
            Ok(connection) => {
                tenant.failure.replace(None);
                return Some(connection);
            }
            Err(error) => error,
        };
        tracing::debug!(tenant = %tenant.id, server = %place.server.name, %error, "no connection");
        let name = tenant.id.to_string();
        match error {
            ConnectError::Down(_) => drop(tenant.failure.replace(Some(ClientError::ServerDown(name)))),
            ConnectError::Full(_) => {
                tenant.failure.replace(None);
                tenant.worker.evict(&place.server.name);
            }
            ConnectError::NotHere(_) | ConnectError::Login(_) => {
                let failed = match error {
                    ConnectError::Login(message) => {
                        tracing::error!(tenant = %tenant.id, server = %place.server.name, message, "login refused");
                        ClientError::ServerLogin(name)
                    }
                    _ => ClientError::ServerDown(name),
                };
                match tenant.ask_registry(&place).await {
                    Asked::Follow => return None,
                    Asked::Wait => {}
                    // Here, says the registry, yet the login fails: waiting does not help.
                    Asked::Here if matches!(failed, ClientError::ServerLogin(_)) => {
                        tenant.fail_waiters(&failed);
                        return None;
                    }
                    Asked::Here => {}
                }
                tenant.failure.replace(Some(failed));
            }
        }
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Waits for the server's budget while somebody waits for a connection.
async fn permit(tenant: &Rc<Tenant>, place: &Rc<Place>) -> Option<Permit> {
    if let Some(permit) = place.budget.try_take() {
        return Some(permit);
    }
    let mut taking = std::pin::pin!(place.budget.take());
    loop {
        tenant.worker.evict(&place.server.name);
        if let Ok(permit) = tokio::time::timeout(BUDGET_LOOK, &mut taking).await {
            return permit;
        }
        tenant.first_waiter()?;
    }
}
