//! A tenant on its worker: where it is, whether its transactions may begin, its connections, queue and statements.
//!
//! All of it is the worker's alone, so nothing here takes a lock. A tenant without clients and connections is not kept.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use shard_map::labels::Labels;
use shard_map::policy::Quota;
use shard_map::{Access, Refusal, Route, TenantId};
use tokio::sync::Notify;
use wire::scram::SaltedKeys;

use crate::error::ClientError;
use crate::gate::Holding;
use crate::narrowing::Narrowing;
use crate::pool::waiters::Waiter;
use crate::pool::{CancelTarget, Place, ServerConnection};
use crate::prepared::StatementCache;
use crate::search::Pacing;
use crate::session::client::Client;
use crate::state::{Params, Settings};
use crate::stats::{Counters, Figure};
use crate::worker::Worker;

/// Most sets of startup settings whose reported parameters are kept.
const PARAMS_MAX: usize = 100;

/// The label that says a tenant's weight, and what it may be.
const WEIGHT_LABEL: &str = "weight";
const WEIGHTS: std::ops::RangeInclusive<u32> = 1..=100;

/// Whether new transactions may begin.
pub(crate) enum Gate {
    /// They may.
    Open,
    /// They wait.
    Held(Holding),
    /// They are refused.
    Refused(Refusal),
}

/// One tenant.
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    pub(crate) worker: Rc<Worker>,
    pub(crate) gate: RefCell<Gate>,
    place: RefCell<Option<Rc<Place>>>,
    /// Its part of a server's connections, beside other tenants'.
    pub(crate) weight: Cell<u32>,
    /// Since when an administrator lets no transaction begin.
    pub(crate) paused: Cell<Option<Instant>>,
    /// Grows when the place changes, or the role that clients get: a connection of an earlier one is not used again.
    pub(crate) generation: Cell<u64>,
    /// What it may use, as the map has it.
    pub(crate) quota: Cell<Quota>,
    /// Over its size.
    pub(crate) read_only: Cell<bool>,
    /// Version of the schema, as the map has it.
    schema_version: Cell<Option<i32>>,
    /// Grows when the schema changes, or a plan was found to be invalid: statements are prepared anew, each before its next use.
    pub(crate) plans: Cell<u64>,
    /// Told when gate or place change.
    pub(crate) changed: Notify,
    /// Longest unused first.
    #[allow(clippy::vec_box, reason = "they are handed on in their boxes")]
    pub(crate) idle: RefCell<Vec<Box<ServerConnection>>>,
    pub(crate) open: Cell<usize>,
    pub(crate) opening: Cell<usize>,
    pub(crate) waiting: RefCell<VecDeque<Waiter>>,
    /// While it has fewer connections than usual.
    pub(crate) narrowing: Cell<Option<Narrowing>>,
    /// Why the last attempt to connect failed.
    pub(crate) failure: RefCell<Option<ClientError>>,
    /// When it may be looked for at other servers.
    pub(crate) pacing: Pacing,
    /// When the last hold ended.
    pub(crate) held_until: Cell<Option<Instant>>,
    pub(crate) clients: RefCell<HashMap<u32, Rc<Client>>>,
    pub(crate) statements: RefCell<StatementCache>,
    pub(crate) salted: RefCell<[Option<SaltedKeys>; 3]>,
    params: RefCell<HashMap<(Access, String), Rc<Params>>>,
    last_params: RefCell<Rc<Params>>,
    last_settings: RefCell<Rc<Settings>>,
    pub(crate) counters: Counters,
}

impl Tenant {
    /// A tenant as the map has it now.
    pub(crate) fn new(id: TenantId, worker: Rc<Worker>, counters: Counters) -> Rc<Self> {
        let tenant = Rc::new(Self {
            id,
            worker,
            gate: RefCell::new(Gate::Refused(Refusal::UnknownTenant)),
            place: RefCell::default(),
            weight: Cell::new(1),
            paused: Cell::new(None),
            generation: Cell::new(0),
            schema_version: Cell::new(None),
            quota: Cell::default(),
            read_only: Cell::new(false),
            plans: Cell::new(0),
            changed: Notify::new(),
            idle: RefCell::default(),
            open: Cell::new(0),
            opening: Cell::new(0),
            waiting: RefCell::default(),
            narrowing: Cell::new(None),
            failure: RefCell::default(),
            pacing: Pacing::default(),
            held_until: Cell::new(None),
            clients: RefCell::default(),
            statements: RefCell::default(),
            salted: RefCell::default(),
            params: RefCell::default(),
            last_params: RefCell::default(),
            last_settings: RefCell::default(),
            counters,
        });
        tenant.refresh();
        tenant
    }

    /// Looks the tenant up in the map again and acts on what is different.
    pub(crate) fn refresh(self: &Rc<Self>) {
        let shared = &self.worker.shared;
        let (gate, place, read_only) = {
            let map = shared.map.read();
            let server = map.tenants.get(&self.id).and_then(|tenant| {
                let server = map.servers.get(&tenant.server)?;
                Some((server.clone(), tenant.key_version))
            });
            let schema_version = map.tenants.get(&self.id).and_then(|tenant| tenant.schema_version);
            if self.schema_version.replace(schema_version) != schema_version {
                self.plans.set(self.plans.get() + 1);
            }
            let quota = map.tenants.get(&self.id).zip(server.as_ref());
            let quota = quota.map(|(tenant, (server, _))| tenant.quota_on(server)).unwrap_or_default();
            self.quota.set(quota);
            let shortest = [quota.statement_timeout, self.worker.statement_timeout_min.get()];
            self.worker.statement_timeout_min.set(shortest.into_iter().flatten().min());
            let read_only = map.tenants.get(&self.id).is_some_and(|tenant| tenant.read_only);
            self.weight.set(map.tenants.get(&self.id).map_or(1, |tenant| weight(&tenant.labels)));
            let place = server.map(|(server, key_version)| {
                let metrics = self.worker.metrics.server(&shared.metrics, server.name.as_str());
                Rc::new(Place {
                    budget: shared.budgets.get(&server.name, server.max_connections, shared.terms()),
                    breaker: shared.breakers.get(&server.name, &metrics.up),
                    metrics,
                    server,
                    key_version,
                })
            });
            let now = SystemTime::now();
            let gate = match map.route(&self.id, now) {
                Route::Forward(..) => Gate::Open,
                Route::Hold(_, hold) => Gate::Held(Holding::new(hold, now)),
                Route::Refuse(refusal) => Gate::Refused(refusal),
            };
            (gate, place, read_only)
        };
        let gate = self.put_off(gate);
        let has_other_role = self.read_only.replace(read_only) != read_only;
        if has_other_role {
            self.renew_connections();
        }
        let (has_moved, has_turned) = (self.set_place(place), self.set_gate(gate));
        if has_moved || has_turned || has_other_role {
            self.tell_changed();
        } else {
            // A limit may be another: for those who wait, and nobody else.
            self.settle();
        }
    }

    /// The access that a client with this one has at present: while the tenant is over its size, its clients log in to the
    /// server as the role that only reads, so that it is Postgres which refuses to write.
    pub(crate) fn granted(&self, access: Access) -> Access {
        if self.read_only.get() { Access::Readonly } else { access }
    }

    /// Server connections that it may have here now.
    pub(crate) fn connections_max(&self) -> usize {
        let most = self.connections_allowed();
        self.narrowing.get().map_or(most, |narrowing| most.min(narrowing.most))
    }

    /// Those that it may have at usual times: its quota, within the configuration's limit.
    pub(crate) fn connections_allowed(&self) -> usize {
        let most = self.worker.shared.config().connections_per_tenant_max;
        self.quota.get().connections.map_or(most, |quota| most.min(quota as usize))
    }

    /// Lets everybody look again who waits for the gate or relies on it.
    pub(crate) fn tell_changed(self: &Rc<Self>) {
        self.changed.notify_waiters();
        for client in self.clients.borrow().values() {
            client.wake();
        }
        self.settle();
    }

    /// Puts it at a place; gives whether it was at another.
    fn set_place(&self, place: Option<Rc<Place>>) -> bool {
        let same = match (&*self.place.borrow(), &place) {
            (Some(old), Some(new)) => old.is_same(new),
            (None, None) => true,
            _ => false,
        };
        if same {
            return false;
        }
        *self.place.borrow_mut() = place;
        self.params.borrow_mut().clear();
        self.failure.replace(None);
        self.pacing.reset();
        self.renew_connections();
        true
    }

    /// Lets no connection of now serve another transaction.
    pub(crate) fn renew_connections(&self) {
        self.generation.set(self.generation.get() + 1);
        self.close_idle();
    }

    /// Where it is, if the map knows.
    pub(crate) fn place(&self) -> Option<Rc<Place>> {
        self.place.borrow().clone()
    }

    /// Why its clients must go, if they must.
    pub(crate) fn refusal(&self) -> Option<ClientError> {
        match &*self.gate.borrow() {
            Gate::Refused(refusal) => Some(ClientError::refusal(*refusal, self.id.as_str())),
            _ => None,
        }
    }

    /// Whether new transactions wait: for a move, or for an administrator.
    pub(crate) fn is_held(&self) -> bool {
        self.is_paused() || matches!(*self.gate.borrow(), Gate::Held(_))
    }

    /// Whether new transactions may begin.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_paused() && matches!(*self.gate.borrow(), Gate::Open)
    }

    /// The parameters that a server reports to a client with this access and these startup settings, once known.
    pub(crate) fn known_params(&self, access: Access, settings: &str) -> Option<Rc<Params>> {
        self.params.borrow().get(&(access, settings.to_owned())).cloned()
    }

    /// Keeps what a server reported.
    pub(crate) fn know_params(&self, access: Access, settings: String, params: &Rc<Params>) {
        let mut known = self.params.borrow_mut();
        if known.len() >= PARAMS_MAX {
            known.clear();
        }
        known.insert((access, settings), params.clone());
    }

    /// The same parameters in one place in memory, so that comparing them is cheap.
    pub(crate) fn intern(&self, params: Rc<Params>) -> Rc<Params> {
        let mut last = self.last_params.borrow_mut();
        if **last != *params {
            *last = params;
        }
        last.clone()
    }

    /// The same for settings that sessions begin with.
    pub(crate) fn intern_settings(&self, settings: Rc<Settings>) -> Rc<Settings> {
        let mut last = self.last_settings.borrow_mut();
        if **last != *settings {
            *last = settings;
        }
        last.clone()
    }

    /// The client that has the server connection with this process id, or had it last.
    pub(crate) fn client_behind(&self, process_id: u32) -> Option<u32> {
        let holder = |target: &CancelTarget| (target.process_id == process_id).then(|| target.holder.get());
        let clients = self.clients.borrow();
        let held = clients.values().find_map(|client| client.target().and_then(|target| holder(&target)));
        held.or_else(|| self.idle.borrow().iter().find_map(|connection| holder(&connection.cancel)))
    }

    /// Closes what was unused since before `limit` or has died.
    pub(crate) fn sweep(self: &Rc<Self>, limit: Instant) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        if idle.is_empty() {
            return;
        }
        let (mut kept, mut closed) = (Vec::with_capacity(idle.len()), 0);
        for mut connection in idle {
            if connection.idle_since < limit || !connection.is_alive(&self.worker.buffers) {
                connection.close();
                closed += 1;
            } else {
                kept.push(connection);
            }
        }
        *self.idle.borrow_mut() = kept;
        if closed > 0 {
            self.settle();
        }
    }

    /// Counts an error that one of its clients got.
    pub(crate) fn count_error(&self, sqlstate: &str) {
        self.worker.shared.metrics.error(sqlstate);
        self.counters.add(Figure::Errors, 1);
    }

    /// Counts a refusal of the router's own.
    pub(crate) fn count_refusal(&self, error: &ClientError) {
        self.worker.shared.metrics.refused(error);
        self.counters.add(Figure::Errors, 1);
    }

    /// Whether there is anything to keep it for.
    pub(crate) fn is_cold(&self) -> bool {
        self.open.get() == 0
            && self.opening.get() == 0
            && self.clients.borrow().is_empty()
            && self.waiting.borrow().is_empty()
            && self.narrowing.get().is_none()
            && !self.is_paused()
            && (!self.is_held() || self.refusal().is_some())
    }
}

/// A tenant's weight by its labels; 1, if they say none that is allowed.
fn weight(labels: &Labels) -> u32 {
    let given = labels.get(WEIGHT_LABEL).and_then(|text| text.parse().ok());
    given.filter(|weight| WEIGHTS.contains(weight)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_that_is_not_allowed_is_the_usual_one() {
        let of = |text: &str| weight(&[(WEIGHT_LABEL.to_owned(), text.to_owned())].into());
        assert_eq!(["1", "100", "0", "101", "-5", "heavy"].map(of), [1, 100, 1, 1, 1, 1]);
        assert_eq!(weight(&Labels::default()), 1);
    }
}
