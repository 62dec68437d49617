//! What all threads of a router share.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, Guard};
use shard_map::{MasterKey, TenantId};
use tokio::sync::{Semaphore, mpsc};

use crate::admin::Console;
use crate::config::RouterConfig;
use crate::failures::Failures;
use crate::gate::HoldReady;
use crate::listener::Logins;
use crate::looks::Looks;
use crate::map::SharedMap;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::places::Places;
use crate::pool::{Breakers, Budgets, Terms};
use crate::process::Process;
use crate::tls::Tls;
use crate::worker::WorkerMessage;

/// One for a router, from its start to its end.
pub(crate) struct Shared {
    /// As it is now: a reload puts another in its place.
    pub(crate) config: ArcSwap<RouterConfig>,
    pub(crate) name: String,
    pub(crate) map: SharedMap,
    pub(crate) metrics: Metrics,
    pub(crate) master_key: MasterKey,
    /// From which verifiers of unknown users are made.
    pub(crate) login_secret: [u8; 32],
    pub(crate) tls: Tls,
    pub(crate) places: Arc<Places>,
    pub(crate) failures: Failures,
    pub(crate) looks: Looks,
    /// Turns at looking for a tenant at other servers.
    pub(crate) searches: Semaphore,
    pub(crate) budgets: Budgets,
    pub(crate) breakers: Breakers,
    /// Routers that live at present, this one included: a server's connections are divided among them.
    pub(crate) routers_live: AtomicUsize,
    pub(crate) workers: Vec<mpsc::Sender<WorkerMessage>>,
    pub(crate) holds: mpsc::Sender<HoldReady>,
    pub(crate) peers: Peers,
    pub(crate) process: Process,
    /// Logins under way.
    pub(crate) logins: Logins,
    /// Whether it takes clients.
    pub(crate) serving: AtomicBool,
    pub(crate) console: Console,
}

impl Shared {
    /// The configuration as it is now.
    pub(crate) fn config(&self) -> Guard<Arc<RouterConfig>> {
        self.config.load()
    }

    /// Changes what is logged, until the next reload; or says why it can't.
    pub(crate) fn set_log_filter(&self, filter: &str) -> Result<(), String> {
        (self.process.set_log_filter)(filter)
    }

    /// By what servers' connections are divided at present.
    pub(crate) fn terms(&self) -> Terms {
        Terms {
            routers: self.routers_live.load(Ordering::Relaxed),
            minimum: self.config().connections_per_tenant_min,
        }
    }

    /// Ends the login that has taken longest.
    pub(crate) fn end_oldest_login(&self) {
        if self.logins.end_oldest() {
            self.metrics.logins.with_label_values(&["ended"]).inc();
        }
    }

    /// Something failed, for want of a file descriptor most likely.
    pub(crate) fn descriptors_are_short(&self) {
        if self.logins.relieve() {
            self.metrics.logins.with_label_values(&["ended"]).inc();
        }
    }

    /// The worker that a tenant belongs to.
    pub(crate) fn worker_of(&self, tenant: &TenantId) -> usize {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        // Less than the number of workers, so it fits.
        (hasher.finish() % self.workers.len() as u64) as usize
    }
}
