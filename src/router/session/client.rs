//! What others on the worker see of a session: its key, its pins, whether it runs something, and a way to wake it.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use shard_map::{Access, PoolMode, TenantId};
use subtle::ConstantTimeEq as _;
use wire::sql::Pins;

use crate::clock::Clock;
use crate::error::ClientError;
use crate::pool::CancelTarget;
use crate::session::Login;
use crate::time_limits::Doing;

/// Why, and so when, a session must end; the more pressing later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// The router drains: when the client has been silent for a moment between two transactions.
    Draining,
    /// The router has drained for long: at the next quiet point.
    ShuttingDown,
    /// Its user is gone: at the next quiet point.
    UserDropped,
    /// A query took longer than this, and its server did not heed the request to cancel it.
    QueryTimeout(Duration),
    /// Its transaction took longer than this.
    TransactionTimeout(Duration),
    /// It was idle in a transaction for longer than this.
    IdleTransaction(Duration),
    /// An administrator ends it, whatever it does.
    Killed,
    /// The router stops.
    Stopped,
}

impl End {
    /// Whether it does not wait for a quiet point: what stands behind the last that does.
    fn is_at_once(self) -> bool {
        self > Self::UserDropped
    }
}

/// A session, as others see it.
pub(crate) struct Client {
    pub(crate) id: u32,
    pub(crate) user: String,
    pub(crate) tenant: TenantId,
    pub(crate) key: Box<[u8]>,
    pub(crate) pins: Cell<Pins>,
    mode: PoolMode,
    /// Keeps a server connection and runs nothing.
    pub(crate) parked: Cell<bool>,
    /// Runs something on its connection.
    busy: Cell<bool>,
    /// Since when it does, or does not.
    since: Cell<Instant>,
    /// When its transaction began.
    pub(crate) began: Cell<Option<Instant>>,
    /// The time limit that what it runs is over, once that is being cancelled.
    pub(crate) overdue: Cell<Option<Duration>>,
    /// Since when it has waited to go on, if it does.
    pub(crate) waiting: Cell<Option<Instant>>,
    pub(crate) access: Access,
    pub(crate) address: IpAddr,
    pub(crate) connected: Instant,
    target: RefCell<Option<Rc<CancelTarget>>>,
    end: Cell<Option<End>>,
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Bytes of a cancel key: protocol 3.0 has room for 4.
const KEY_BYTES: usize = 4;
/// Bytes of a cancel key from protocol 3.2 on.
const KEY_BYTES_LONG: usize = 32;

impl Client {
    pub(crate) fn new(id: u32, login: &Login, address: IpAddr) -> Self {
        let key: [u8; KEY_BYTES_LONG] = rand::random();
        let length = if login.minor >= 2 { KEY_BYTES_LONG } else { KEY_BYTES };
        Self {
            id,
            user: login.user.clone(),
            tenant: login.tenant.clone(),
            key: key[..length].into(),
            pins: Cell::new(Pins::NONE),
            mode: login.pool_mode,
            parked: Cell::new(false),
            busy: Cell::new(false),
            since: Cell::new(Instant::now()),
            began: Cell::new(None),
            overdue: Cell::new(None),
            waiting: Cell::new(None),
            access: login.access,
            address,
            connected: Instant::now(),
            target: RefCell::default(),
            end: Cell::new(None),
            woken: Cell::new(false),
            waker: RefCell::default(),
        }
    }

    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.key.ct_eq(key).into()
    }

    /// The connection that it has, if it has one.
    pub(crate) fn target(&self) -> Option<Rc<CancelTarget>> {
        self.target.borrow().clone()
    }

    /// What to cancel, if it is running anything at this moment.
    pub(crate) fn running(&self) -> Option<Rc<CancelTarget>> {
        self.target.borrow().clone().filter(|_| self.busy.get())
    }

    /// Notes whether it runs something.
    pub(crate) fn set_busy(&self, busy: bool, clock: &Clock) {
        if self.busy.replace(busy) != busy {
            self.since.set(clock.now());
            self.overdue.set(None);
        }
    }

    /// Notes an answer: the time of what it asked next counts from here.
    pub(crate) fn answered(&self, clock: &Clock) {
        if self.busy.get() {
            self.since.set(clock.now());
            self.overdue.set(None);
        }
    }

    /// What it is doing, if it is in a transaction.
    pub(crate) fn doing(&self) -> Option<Doing> {
        let began = self.began.get()?;
        Some(Doing { began, is_busy: self.busy.get(), since: self.since.get() })
    }

    pub(crate) fn set_target(&self, target: Option<Rc<CancelTarget>>) {
        *self.target.borrow_mut() = target;
        self.parked.set(false);
    }

    pub(crate) fn is_parked_and_pinned(&self) -> bool {
        self.parked.get() && !self.pins.get().is_empty()
    }

    /// Whether it keeps its server connection between transactions.
    pub(crate) fn keeps_connection(&self) -> bool {
        self.target.borrow().is_some() && (self.mode == PoolMode::Session || !self.pins.get().is_empty())
    }

    /// Ends the session when this says so.
    pub(crate) fn end(&self, end: End) {
        self.end.set(self.end.get().max(Some(end)));
        self.wake();
    }

    /// Whether it runs something.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Why the session must end at its next quiet point, if it must.
    pub(crate) fn ending(&self) -> Option<ClientError> {
        match self.end.get()? {
            End::Draining => None,
            End::ShuttingDown | End::Stopped => Some(ClientError::ShuttingDown),
            End::UserDropped => Some(ClientError::UserDropped(self.user.clone())),
            End::QueryTimeout(time) => Some(ClientError::QueryTimeout(time)),
            End::TransactionTimeout(time) => Some(ClientError::TransactionTimeout(time)),
            End::IdleTransaction(time) => Some(ClientError::IdleTransaction(time)),
            End::Killed => Some(ClientError::Killed),
        }
    }

    /// Whether the session ends as soon as the client is silent.
    pub(crate) fn is_draining(&self) -> bool {
        self.end.get() == Some(End::Draining)
    }

    /// The same, if it must end at once.
    pub(crate) fn ending_at_once(&self) -> Option<ClientError> {
        self.end.get().filter(|end| end.is_at_once()).and_then(|_| self.ending())
    }

    /// Lets the session look around.
    pub(crate) fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Has it woken by this, which is one and the same to its end.
    pub(crate) fn wake_by(&self, waker: &Waker) {
        *self.waker.borrow_mut() = Some(waker.clone());
    }

    /// Whether it was woken since the last call.
    pub(crate) fn was_woken(&self) -> bool {
        self.woken.replace(false)
    }
}
