//! Opens one connection for a tenant's queue, however long that takes while somebody waits.
//!
//! All that can be in the way is dealt with here, once a tenant and not once a client: the server's budget, a server
//! that is down, a tenant that has moved. It ends when it has a connection or nobody waits any more.

use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::ClientError;
use crate::gate::Asked;
use crate::pool::breaker::{Attempt, Trouble};
use crate::pool::budget::Permit;
use crate::pool::connect::{ConnectError, connect};
use crate::pool::connection::{Place, ServerConnection};
use crate::tenant::Tenant;

/// Pause after the first failure; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(1000);
/// How often a wait looks whether anybody still waits for its outcome.
const LOOK: Duration = Duration::from_millis(200);

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
        never = tenant.search() => match never {},
    };
    drop(opening);
    match opened {
        Some(connection) => {
            tenant.worker.clock.look();
            tenant.release(connection);
        }
        None => tenant.settle(),
    }
}

async fn attempts(tenant: &Rc<Tenant>) -> Option<Box<ServerConnection>> {
    let mut pause = PAUSE;
    loop {
        let WayIn { place, permit, attempt } = way_in(tenant).await?;
        let access = tenant.first_waiter()?;
        let error = match connect(tenant, &place, access, permit).await {
            Ok(connection) => {
                attempt.answered();
                tenant.failure.replace(None);
                tenant.worker.locked_out.forget(&tenant.id);
                return Some(connection);
            }
            Err(error) => error,
        };
        tracing::debug!(tenant = %tenant.id, server = %place.server.name, %error, "no connection");
        match error {
            // The breaker says when to try again.
            ConnectError::Down(why) => {
                attempt.failed(Trouble::Down, &why);
                continue;
            }
            ConnectError::Starting(why) => {
                attempt.failed(Trouble::Starting, &why);
                continue;
            }
            ConnectError::NoDescriptor(why) => {
                drop(attempt);
                tracing::debug!(tenant = %tenant.id, why, "can't connect to a server");
                tenant.failure.replace(Some(ClientError::NoDescriptor));
                tenant.worker.shared.descriptors_are_short();
            }
            ConnectError::Full(_) => {
                attempt.answered();
                tenant.failure.replace(None);
                tenant.worker.evict(&place.server.name);
            }
            ConnectError::Refused(message) => {
                attempt.answered();
                tracing::warn!(tenant = %tenant.id, server = %place.server.name, message, "no connection");
                tenant.failure.replace(Some(ClientError::ServerLogin(tenant.id.to_string())));
            }
            ConnectError::NotHere(_) | ConnectError::Login(_) | ConnectError::Password(_) => {
                attempt.answered();
                refused(tenant, &place, error).await?;
            }
        }
        tokio::time::sleep(pause.mul_f64(0.5 + rand::random::<f64>())).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What it takes to connect.
struct WayIn {
    place: Rc<Place>,
    permit: Permit,
    attempt: Attempt,
}

/// Waits until a connection may be tried: by the breaker first, so that nobody holds a permit for a server that is down.
async fn way_in(tenant: &Rc<Tenant>) -> Option<WayIn> {
    loop {
        tenant.first_waiter()?;
        if !tenant.is_open() {
            return None;
        }
        let place = tenant.place()?;
        let pass = while_awaited(tenant, place.breaker.pass()).await?;
        let permit = permit(tenant, &place).await?;
        if let Some(attempt) = while_awaited(tenant, place.breaker.begin(pass)).await? {
            return Some(WayIn { place, permit, attempt });
        }
    }
}

/// Waits for the server's budget.
async fn permit(tenant: &Rc<Tenant>, place: &Rc<Place>) -> Option<Permit> {
    let weight = tenant.weight.get();
    if let Some(permit) = place.budget.try_take(&tenant.id, weight) {
        return Some(permit);
    }
    let begun = Instant::now();
    let permit = while_awaited(tenant, place.budget.wait(&tenant.id, weight)).await?;
    place.metrics.budget_wait.observe(begun.elapsed().as_secs_f64());
    permit
}

/// Waits for something as long as somebody waits for a connection.
async fn while_awaited<T>(tenant: &Rc<Tenant>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        if let Ok(outcome) = tokio::time::timeout(LOOK, &mut future).await {
            return Some(outcome);
        }
        tenant.first_waiter()?;
    }
}

/// A server that is there and does not let the tenant in: its registry may know why. Nothing, if there is no point in
/// trying again.
async fn refused(tenant: &Rc<Tenant>, place: &Rc<Place>, error: ConnectError) -> Option<()> {
    let name = tenant.id.to_string();
    let is_locked_out = matches!(error, ConnectError::Password(_));
    let failed = match error {
        ConnectError::Login(message) | ConnectError::Password(message) => {
            tracing::error!(tenant = %tenant.id, server = %place.server.name, message, "login refused");
            ClientError::ServerLogin(name)
        }
        _ => ClientError::ServerDown(name),
    };
    match tenant.ask_registry(place).await {
        Asked::Follow => return None,
        // Here, says the registry, yet the login fails: waiting does not help.
        Asked::Here if matches!(failed, ClientError::ServerLogin(_)) => {
            if is_locked_out {
                tenant.worker.locked_out.note(&tenant.id);
            }
            tenant.fail_waiters(&failed);
            return None;
        }
        Asked::Here | Asked::Wait => {}
    }
    tenant.failure.replace(Some(failed));
    Some(())
}
