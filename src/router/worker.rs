//! A worker: one thread, one runtime, and all that belongs to its tenants.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use shard_map::{Route, ServerName, TenantId};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::ask::Question;
use crate::cancel::CancelRequest;
use crate::clock::Clock;
use crate::error::ClientError;
use crate::gate::HoldReady;
use crate::listener::Door;
use crate::metrics::local::LocalMetrics;
use crate::peers;
use crate::pool::{ServerConnection, steward};
use crate::relay::Buffers;
use crate::report::{Heeded, LockedOut};
use crate::session::client::{Client, End};
use crate::session::{self, NewClient};
use crate::shared::Shared;
use crate::stats::Cold;
use crate::stream::Detached;
use crate::tenant::Tenant;

/// Messages that a worker has not read yet.
pub(crate) const INBOX_MAX: usize = 4096;
/// How long a worker that ends waits for its last tasks.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a worker that is to end looks whether the others can, too.
const END_LOOK: Duration = Duration::from_millis(50);
/// How often a worker looks for what is to be closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// To a worker.
pub(crate) enum WorkerMessage {
    /// A client that has logged in.
    Client(Box<NewClient<Detached>>),
    /// Accept here until the token is cancelled; the other tells whether that is still so.
    Open(Door, CancellationToken, TaskTrackerToken),
    /// Somebody asks to cancel what a client is running.
    Cancel(CancelRequest),
    /// The map has something new about a tenant.
    Tenant(TenantId),
    /// The map has something new about everything.
    Everything,
    /// A user is gone from the map.
    NoUser(String),
    /// Somebody waits for a connection to this server; asked of so many workers already.
    Evict { server: ServerName, asked: usize },
    /// Something is to be looked up or done on the worker's own thread.
    Ask(Question),
    /// Lets clients go, or ends them.
    Drain(End),
    /// No more clients come: finish when there is none.
    Shutdown,
    /// Stop, finished or not.
    Abort,
}

/// One worker's own.
pub(crate) struct Worker {
    index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) buffers: Buffers,
    pub(crate) metrics: LocalMetrics,
    pub(crate) clock: Clock,
    /// How far the router is in its drain.
    ending: Cell<Option<End>>,
    /// No more clients come.
    is_closed_to_clients: Cell<bool>,
    /// No more tasks are run.
    pub(crate) closing: Cell<bool>,
    aborted: Cell<bool>,
    /// Told when a client is gone.
    gone: Notify,
    pub(crate) tenants: RefCell<HashMap<TenantId, Rc<Tenant>>>,
    /// Figures of tenants that were here.
    pub(crate) cold: RefCell<Cold>,
    pub(crate) clients: RefCell<HashMap<u32, Rc<Client>>>,
    next_id: Cell<u32>,
    /// Tenants that are not here, and whose hold could not be acknowledged yet.
    unacknowledged: RefCell<BTreeSet<TenantId>>,
    pub(crate) locked_out: LockedOut,
    /// When its load was last reported.
    pub(crate) load_reported: Cell<Instant>,
    /// Whose transactions are not counted among those that a copy may slow down, and whose figures are told.
    pub(crate) heeded: RefCell<Arc<Heeded>>,
    evict_rests: steward::Rests,
    /// Turns in which handshakes of TLS are computed: one at a time.
    pub(crate) handshakes: Rc<Semaphore>,
    /// The shortest time that a quota of its tenants has set to statements, or had since the last sweep.
    pub(crate) statement_timeout_min: Cell<Option<Duration>>,
    tasks: TaskTracker,
    /// Those that are waited for.
    last: TaskTracker,
}

impl Worker {
    fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        Rc::new(Self {
            index,
            metrics: LocalMetrics::new(&shared.metrics),
            shared,
            buffers: Buffers::default(),
            clock: Clock::new(),
            ending: Cell::new(None),
            is_closed_to_clients: Cell::new(false),
            closing: Cell::new(false),
            aborted: Cell::new(false),
            gone: Notify::new(),
            tenants: RefCell::default(),
            cold: RefCell::default(),
            clients: RefCell::default(),
            next_id: Cell::new(0),
            unacknowledged: RefCell::default(),
            heeded: RefCell::default(),
            locked_out: LockedOut::default(),
            load_reported: Cell::new(Instant::now()),
            evict_rests: steward::Rests::default(),
            handshakes: Rc::new(Semaphore::new(1)),
            statement_timeout_min: Cell::default(),
            tasks: TaskTracker::new(),
            last: TaskTracker::new(),
        })
    }

    /// Runs a task that ends with the worker, wherever it is.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(task);
    }

    /// Runs a task that the worker waits for at its end.
    pub(crate) fn spawn_to_end(&self, task: impl Future<Output = ()> + 'static) {
        self.last.spawn_local(task);
    }

    /// A tenant of this worker.
    pub(crate) fn tenant(self: &Rc<Self>, id: &TenantId) -> Rc<Tenant> {
        if let Some(warm) = self.warm(id) {
            return warm;
        }
        let counters = self.cold.borrow_mut().take(id);
        let tenant = Tenant::new(id.clone(), self.clone(), counters);
        self.tenants.borrow_mut().insert(id.clone(), tenant.clone());
        tenant
    }

    /// Its tenants as they are now.
    pub(crate) fn tenants(&self) -> Vec<Rc<Tenant>> {
        self.tenants.borrow().values().cloned().collect()
    }

    /// A process id that no client of this router has: the remainder of its local part by the number of
    /// workers is this worker.
    fn fresh_id(&self) -> Result<u32, ClientError> {
        let workers = self.shared.workers.len() as u32;
        let most = peers::LOCAL_MAX / workers - 1;
        for _ in 0..most {
            let next = self.next_id.get() % most + 1;
            self.next_id.set(next);
            let id = self.shared.peers.process_id(next * workers + self.index as u32);
            if !self.clients.borrow().contains_key(&id) {
                return Ok(id);
            }
        }
        Err(ClientError::WorkerFull(most))
    }

    /// Takes a client that has logged in to the worker of its tenant: this one, or another.
    pub(crate) async fn welcome(self: &Rc<Self>, new: Box<NewClient>) {
        let index = self.shared.worker_of(&new.login.tenant);
        if index == self.index {
            return self.begin(new);
        }
        match new.detach() {
            // A worker that is gone has shut down: the client finds its connection closed.
            Ok(new) => drop(self.shared.workers[index].send(WorkerMessage::Client(Box::new(new))).await),
            Err(error) => tracing::error!(%error, "can't hand over a client's socket"),
        }
    }

    fn begin(self: &Rc<Self>, new: Box<NewClient>) {
        let id = match self.fresh_id() {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "a client is sent away: there is no process id left for it");
                self.shared.metrics.refused(&error);
                return self.spawn(session::refuse(new, error));
            }
        };
        let tenant = self.tenant(&new.login.tenant);
        let client = Rc::new(Client::new(id, &new.login, new.address));
        self.clients.borrow_mut().insert(client.id, client.clone());
        tenant.clients.borrow_mut().insert(client.id, client.clone());
        if let Some(end) = self.ending.get() {
            client.end(end);
        }
        // Dropped while it logged in: the message about that found no client here.
        if !self.shared.map.read().users.contains_key(&client.user) {
            client.end(End::UserDropped);
        }
        let worker = self.clone();
        self.spawn(async move {
            session::run(new, client.clone(), tenant.clone()).await;
            worker.clients.borrow_mut().remove(&client.id);
            tenant.clients.borrow_mut().remove(&client.id);
            tenant.settle();
            worker.gone.notify_one();
        });
    }

    fn tenant_changed(self: &Rc<Self>, id: &TenantId) {
        let known = self.tenants.borrow().get(id).cloned();
        match known {
            Some(tenant) => tenant.refresh(),
            None => {
                // Nothing of it is here: a hold is in force at once.
                let hold = match self.shared.map.read().route(id, std::time::SystemTime::now()) {
                    Route::Hold(_, hold) => hold.id,
                    _ => return,
                };
                if !self.hold_ready(HoldReady { tenant: id.clone(), hold, pinned: 0 }) {
                    self.unacknowledged.borrow_mut().insert(id.clone());
                }
            }
        }
    }

    fn everything_changed(self: &Rc<Self>) {
        for tenant in self.tenants() {
            tenant.refresh();
        }
        let mine: Vec<_> = {
            let map = self.shared.map.read();
            map.holds.keys().filter(|id| self.shared.worker_of(id) == self.index).cloned().collect()
        };
        for id in mine {
            if !self.tenants.borrow().contains_key(&id) {
                self.tenant_changed(&id);
            }
        }
        let clients: Vec<_> = self.clients.borrow().values().cloned().collect();
        let map = self.shared.map.read();
        for client in clients {
            if !map.users.contains_key(&client.user) {
                client.end(End::UserDropped);
            }
        }
    }

    /// Passes on that a hold is in force; `false` when that was not possible and must be tried again.
    pub(crate) fn hold_ready(&self, ready: HoldReady) -> bool {
        self.shared.holds.try_send(ready).is_ok()
    }

    /// Asks for a connection of some tenant to this server to be closed, this worker's first.
    pub(crate) fn evict(&self, server: &ServerName) {
        self.evict_or_pass_on(server, 0);
    }

    fn evict_or_pass_on(&self, server: &ServerName, asked: usize) {
        let begun = Instant::now();
        // Everybody asks who waits for a server that is full, and again: another worker may have time to look.
        let looks = self.evict_rests.is_over(server, begun);
        let is_found = looks && self.evict_oldest(server);
        if looks {
            self.evict_rests.begin(server, begun, Instant::now());
        }
        if is_found || asked + 1 >= self.shared.workers.len() {
            return;
        }
        let next = &self.shared.workers[(self.index + 1) % self.shared.workers.len()];
        // An inbox that is full is one that will be asked again: who waits asks several times a second.
        drop(next.try_send(WorkerMessage::Evict { server: server.clone(), asked: asked + 1 }));
    }

    fn evict_oldest(&self, server: &ServerName) -> bool {
        let tenants = self.tenants.borrow();
        let on_server = tenants.values().filter_map(|tenant| {
            let idle = tenant.idle.borrow();
            let oldest = idle.first().filter(|connection| connection.place.server.name == *server)?;
            Some((oldest.idle_since, tenant))
        });
        let Some((_, tenant)) = on_server.min_by_key(|(since, _)| *since) else {
            return false;
        };
        let oldest = tenant.idle.borrow_mut().remove(0);
        ServerConnection::close(oldest);
        true
    }

    fn sweep(self: &Rc<Self>) {
        let unacknowledged = std::mem::take(&mut *self.unacknowledged.borrow_mut());
        unacknowledged.iter().for_each(|id| self.tenant_changed(id));
        // Routers come and go, and the configuration may be another.
        self.shared.budgets.divide(self.shared.terms());
        let tenants = self.tenants();
        let now = self.clock.look();
        self.evict_rests.sweep(now);
        let limit = now.checked_sub(self.shared.config().idle_server_timeout);
        let mut shortest = None;
        for tenant in tenants {
            if let Some(limit) = limit {
                tenant.sweep(limit);
            }
            if tenant.is_held() {
                tenant.settle();
            }
            tenant.counters.fade();
            if tenant.is_cold() {
                self.tenants.borrow_mut().remove(&tenant.id);
                self.cold.borrow_mut().put(tenant.id.clone(), tenant.counters.take());
            } else {
                shortest = [shortest, tenant.quota.get().statement_timeout].into_iter().flatten().min();
            }
        }
        self.statement_timeout_min.set(shortest);
        self.cold.borrow().fade();
        self.metrics.flush();
    }

    fn drain(&self, end: End) {
        self.ending.set(Some(end));
        for client in self.clients.borrow().values() {
            client.end(end);
        }
        for tenant in self.tenants.borrow().values() {
            tenant.close_idle();
        }
    }

    fn handle(self: &Rc<Self>, message: WorkerMessage) {
        match message {
            WorkerMessage::Client(new) => match new.attach() {
                Ok(new) => self.begin(Box::new(new)),
                Err(error) => tracing::error!(%error, "can't take over a client's socket"),
            },
            WorkerMessage::Open(door, closing, open) => {
                let worker = self.clone();
                self.spawn(async move {
                    door.run(&worker, closing).await;
                    drop(open);
                });
            }
            WorkerMessage::Cancel(request) => self.cancel(request),
            WorkerMessage::Tenant(id) => self.tenant_changed(&id),
            WorkerMessage::Everything => self.everything_changed(),
            WorkerMessage::NoUser(name) => {
                for client in self.clients.borrow().values().filter(|client| client.user == name) {
                    client.end(End::UserDropped);
                }
            }
            WorkerMessage::Evict { server, asked } => self.evict_or_pass_on(&server, asked),
            WorkerMessage::Ask(question) => question(self),
            WorkerMessage::Drain(end) => self.drain(end),
            WorkerMessage::Shutdown => self.is_closed_to_clients.set(true),
            WorkerMessage::Abort => self.aborted.set(true),
        }
    }
}

/// Runs a worker until it was told to shut down and its clients are gone.
pub(crate) async fn run(index: usize, shared: Arc<Shared>, mut inbox: mpsc::Receiver<WorkerMessage>) {
    let worker = Worker::new(index, shared);
    worker.spawn(steward::run(worker.clone()));
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    let mut time_limits = std::pin::pin!(worker.clone().watch_time_limits());
    loop {
        tokio::select! {
            () = &mut time_limits => {}
            message = inbox.recv() => match message {
                Some(message) => worker.handle(message),
                None => break,
            },
            _ = sweep.tick() => worker.sweep(),
            () = worker.gone.notified(), if worker.is_closed_to_clients.get() => {}
            () = tokio::time::sleep(END_LOOK), if worker.is_closed_to_clients.get() => {}
        }
        // All together: holds are for this router as a whole, and each worker has its tenants' to acknowledge.
        let finished =
            worker.is_closed_to_clients.get() && worker.shared.places.all_are_free() && inbox.is_empty();
        if finished || worker.aborted.get() {
            break;
        }
    }
    // What is under way to the servers: cancel requests, which must not be lost.
    worker.last.close();
    drop(tokio::time::timeout(LAST_TIMEOUT, worker.last.wait()).await);
    worker.closing.set(true);
    worker.tenants.borrow_mut().clear();
    worker.metrics.flush();
}
