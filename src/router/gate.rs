//! Holds: a tenant's new transactions wait, running ones finish, and the control plane is told when none is left.
//!
//! A hold is a lease. When it runs out and nobody released it, the registry of the server where the tenant was decides.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use shard_map::{Hold, TenantId};

use crate::pool::Place;
use crate::registry::{self, Moved, Record};
use crate::tenant::{Gate, Tenant};

/// Pause between questions to a registry that can't say yet.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// Questions after a lease's end, before the gate opens and each connection attempt asks for itself.
const ASKS_MAX: usize = 10;

/// A hold in force.
pub(crate) struct Holding {
    id: i64,
    until: SystemTime,
    since: Instant,
    acknowledged: bool,
    /// How long until it begins, when the map told it.
    begins_in: Duration,
}

impl Holding {
    pub(crate) fn new(hold: &Hold, now: SystemTime) -> Self {
        let until = UNIX_EPOCH + Duration::from_millis(u64::try_from(hold.expires_at_ms).unwrap_or(0));
        let begins_in = hold.begins_in(now);
        Self { id: hold.id, until, since: Instant::now(), acknowledged: false, begins_in }
    }

    /// Its number, and how long until it begins.
    pub(crate) fn announced(&self) -> (i64, Duration) {
        (self.id, self.begins_in)
    }

    fn left(&self) -> Duration {
        self.until.duration_since(SystemTime::now()).unwrap_or_default()
    }
}

/// To the task that tells the catalog: nothing of the tenant is running here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HoldReady {
    pub(crate) tenant: TenantId,
    pub(crate) hold: i64,
    pub(crate) pinned: i32,
}

/// What came of asking a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The tenant has moved, and so has the map.
    Follow,
    /// It is where it was thought to be.
    Here,
    /// Not known yet.
    Wait,
}

impl Tenant {
    /// Opens, holds or closes the gate; gives whether it was otherwise before.
    pub(crate) fn set_gate(self: &Rc<Self>, mut gate: Gate) -> bool {
        let metrics = &self.worker.shared.metrics;
        let mut current = self.gate.borrow_mut();
        let mut begins = None;
        let is_same = match (&*current, &gate) {
            (Gate::Open, Gate::Open) => true,
            (Gate::Held(old), Gate::Held(new)) => old.id == new.id,
            (Gate::Refused(old), Gate::Refused(new)) => old == new,
            _ => false,
        };
        match (&*current, &mut gate) {
            (Gate::Held(old), Gate::Held(new)) if old.id == new.id => {
                new.since = old.since;
                new.acknowledged = old.acknowledged;
                if new.until != old.until {
                    begins = Some((new.id, new.left()));
                }
            }
            (Gate::Held(old), Gate::Held(new)) => {
                new.since = old.since;
                begins = Some((new.id, new.left()));
            }
            (Gate::Held(old), _) => {
                metrics.holds.dec();
                self.held_until.set(Some(Instant::now()));
                metrics.hold_duration.observe(old.since.elapsed().as_secs_f64());
            }
            (_, Gate::Held(new)) => {
                metrics.holds.inc();
                begins = Some((new.id, new.left()));
            }
            _ => {}
        }
        *current = gate;
        drop(current);
        if let Some((hold, left)) = begins {
            self.worker.spawn(outlast(self.clone(), hold, left));
        }
        !is_same
    }

    /// An administrator lets no transaction begin, beside what the map says.
    pub(crate) fn pause(self: &Rc<Self>) {
        self.paused.set(self.paused.get().or_else(|| Some(Instant::now())));
        self.tell_changed();
    }

    /// Ends a pause; `false` when there was none.
    pub(crate) fn resume(self: &Rc<Self>) -> bool {
        let was_paused = self.paused.take().is_some();
        if was_paused {
            self.tell_changed();
        }
        was_paused
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused.get().is_some()
    }

    /// Sessions that keep their connection and are at rest.
    fn parked_and_pinned(&self) -> usize {
        self.clients.borrow().values().filter(|client| client.is_parked_and_pinned()).count()
    }

    /// Connections on which something runs, or may.
    pub(crate) fn under_way(&self) -> usize {
        let idle = self.idle.borrow().len() + self.parked_and_pinned();
        (self.open.get() + self.opening.get()).saturating_sub(idle)
    }

    /// The hold in force: its number, since when, how much longer, whether it was acknowledged.
    pub(crate) fn hold(&self) -> Option<(i64, Instant, Duration, bool)> {
        match &*self.gate.borrow() {
            Gate::Held(holding) => Some((holding.id, holding.since, holding.left(), holding.acknowledged)),
            _ => None,
        }
    }

    /// Tells the catalog that the hold is in force, once only pinned sessions at rest have a connection.
    pub(crate) fn acknowledge_hold(&self) {
        let pinned = self.parked_and_pinned();
        if self.open.get() + self.opening.get() > pinned {
            return;
        }
        let mut gate = self.gate.borrow_mut();
        let Gate::Held(holding) = &mut *gate else {
            return;
        };
        if !holding.acknowledged {
            let pinned = i32::try_from(pinned).unwrap_or(i32::MAX);
            let ready = HoldReady { tenant: self.id.clone(), hold: holding.id, pinned };
            holding.acknowledged = self.worker.hold_ready(ready);
        }
    }

    /// For how long the tenant is held yet.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        match &*self.gate.borrow() {
            Gate::Held(holding) => Some(holding.left()),
            _ => None,
        }
    }

    fn is_held_by(&self, hold: i64) -> bool {
        matches!(&*self.gate.borrow(), Gate::Held(holding) if holding.id == hold)
    }

    /// Asks the registry of the server where the tenant was thought to be, and follows it.
    pub(crate) async fn ask_registry(self: &Rc<Self>, place: &Rc<Place>) -> Asked {
        let shared = &self.worker.shared;
        let record = match registry::ask(&place.server, shared, &self.id).await {
            Ok(record) => record,
            Err(error) => {
                tracing::debug!(tenant = %self.id, %error, "the registry does not say where the tenant is");
                return self.look_elsewhere(place).await;
            }
        };
        match record {
            Record::Open(_) => Asked::Here,
            Record::Sealed(moved) => self.follow(&moved, place),
            // A map that is older than the registry's memory of the tenant, or a registry that was lost.
            Record::None => self.look_elsewhere(place).await,
            Record::Arriving | Record::Closed => Asked::Wait,
        }
    }

    /// Follows a tenant to where a registry says that it is.
    pub(crate) fn follow(self: &Rc<Self>, moved: &Moved, place: &Rc<Place>) -> Asked {
        if self.worker.shared.map.follow(&self.id, moved) {
            tracing::info!(tenant = %self.id, server = %moved.server, epoch = %moved.epoch, "followed a move that the map did not tell");
        }
        self.refresh();
        let now_at = self.place();
        if now_at.is_some_and(|now_at| !now_at.is_same(place)) { Asked::Follow } else { Asked::Wait }
    }
}

/// Waits for the end of a hold's lease; then the registry says where the tenant is.
async fn outlast(tenant: Rc<Tenant>, hold: i64, left: Duration) {
    tokio::time::sleep(left).await;
    for _ in 0..ASKS_MAX {
        // Released or replaced: the usual end. An extended lease has another task.
        if !tenant.is_held_by(hold) || tenant.held_for().is_some_and(|left| !left.is_zero()) {
            return;
        }
        let Some(place) = tenant.place() else { break };
        if tenant.ask_registry(&place).await != Asked::Wait {
            break;
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
    tracing::warn!(tenant = %tenant.id, hold, "a hold ran out without a release");
    tenant.refresh();
}
