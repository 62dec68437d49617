//! The console: `psql` at the database `tenantry`, as administrators of other poolers know it.
//!
//! A session of it belongs to no tenant and no worker: it runs beside the listener, and asks workers for what it shows.
//! What it does not do: change the map, which is the control plane's.

mod act;
mod command;
mod config;
mod error;
mod extended;
mod help;
mod rows;
mod session;
mod show;

use std::sync::Arc;

use bytes::BytesMut;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use error::AdminError;
pub(crate) use show::{REST, state};

use crate::config::RouterConfig;
use crate::error::ClientError;
use crate::shared::Shared;
use crate::stream::Detached;

/// The database that stands for the console. No tenant can have this name: it is reserved.
pub(crate) const DATABASE: &str = "tenantry";
/// Sessions at a time.
const SESSIONS_MAX: usize = 32;

/// What a user of the console may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

impl Right {
    /// What a user may do, if it may anything.
    pub(crate) fn of(user: &str, config: &RouterConfig) -> Option<Self> {
        let is_in = |users: &[String]| users.iter().any(|listed| listed == user);
        if is_in(&config.admin_users) {
            Some(Self::Admin)
        } else {
            is_in(&config.stats_users).then_some(Self::Stats)
        }
    }
}

/// A user of the console who has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdminLogin {
    pub(crate) user: String,
    pub(crate) right: Right,
    pub(crate) application_name: String,
}

/// One of them, on its way from its login.
pub(crate) struct NewAdmin {
    pub(crate) stream: Detached,
    /// What it sent after its login.
    pub(crate) early: BytesMut,
    /// What is to be said to it first.
    pub(crate) greeting: BytesMut,
    pub(crate) login: AdminLogin,
    pub(crate) place: OwnedSemaphorePermit,
}

/// The console's sessions.
pub(crate) struct Console {
    places: Arc<Semaphore>,
    sessions: TaskTracker,
    stopping: CancellationToken,
    runtime: Handle,
}

impl Console {
    /// A console whose sessions run on the caller's runtime, not on that of the worker where they logged in.
    pub(crate) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(SESSIONS_MAX)),
            sessions: TaskTracker::new(),
            stopping: CancellationToken::new(),
            runtime: Handle::current(),
        }
    }

    /// A place for one more session.
    pub(crate) fn place(&self) -> Result<OwnedSemaphorePermit, ClientError> {
        self.places.clone().try_acquire_owned().map_err(|_| ClientError::ConsoleFull(SESSIONS_MAX))
    }

    /// Runs a session.
    pub(crate) fn begin(&self, new: NewAdmin, shared: Arc<Shared>) {
        self.sessions.spawn_on(session::run(new, shared, self.stopping.clone()), &self.runtime);
    }

    /// Ends all sessions.
    pub(crate) async fn close(&self) {
        self.stopping.cancel();
        self.sessions.close();
        self.sessions.wait().await;
    }
}
