//! What others on the worker see of a session: its key, its pins, whether it runs something, and a way to wake it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};

use shard_map::TenantId;
use subtle::ConstantTimeEq as _;
use wire::sql::Pins;

use crate::error::ClientError;
use crate::pool::CancelTarget;
use crate::session::Login;

/// Why a session must end at its next quiet point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The router stops.
    ShuttingDown,
    /// Its user is gone.
    UserDropped,
}

/// A session, as others see it.
pub(crate) struct Client {
    pub(crate) id: u32,
    pub(crate) user: String,
    pub(crate) tenant: TenantId,
    pub(crate) key: Box<[u8]>,
    pub(crate) pins: Cell<Pins>,
    /// Keeps a server connection and runs nothing.
    pub(crate) parked: Cell<bool>,
    /// Runs something on its connection.
    pub(crate) busy: Cell<bool>,
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
    pub(crate) fn new(id: u32, login: &Login) -> Self {
        let key: [u8; KEY_BYTES_LONG] = rand::random();
        let length = if login.minor >= 2 { KEY_BYTES_LONG } else { KEY_BYTES };
        Self {
            id,
            user: login.user.clone(),
            tenant: login.tenant.clone(),
            key: key[..length].into(),
            pins: Cell::new(Pins::NONE),
            parked: Cell::new(false),
            busy: Cell::new(false),
            target: RefCell::default(),
            end: Cell::new(None),
            woken: Cell::new(false),
            waker: RefCell::default(),
        }
    }

    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.key.ct_eq(key).into()
    }

    /// What to cancel, if it is running anything at this moment.
    pub(crate) fn running(&self) -> Option<Rc<CancelTarget>> {
        self.target.borrow().clone().filter(|_| self.busy.get())
    }

    pub(crate) fn set_target(&self, target: Option<Rc<CancelTarget>>) {
        *self.target.borrow_mut() = target;
        self.parked.set(false);
    }

    pub(crate) fn is_parked_and_pinned(&self) -> bool {
        self.parked.get() && !self.pins.get().is_empty()
    }

    /// Ends the session at its next quiet point.
    pub(crate) fn end(&self, end: End) {
        self.end.set(Some(end));
        self.wake();
    }

    /// Why the session must end, if it must.
    pub(crate) fn ending(&self) -> Option<ClientError> {
        Some(match self.end.get()? {
            End::ShuttingDown => ClientError::ShuttingDown,
            End::UserDropped => ClientError::UserDropped(self.user.clone()),
        })
    }

    /// Lets the session look around.
    pub(crate) fn wake(&self) {
        self.woken.set(true);
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// Whether it was woken since the last call; registers for the next time.
    pub(crate) fn poll_woken(&self, cx: &Context<'_>) -> bool {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.woken.replace(false)
    }
}
