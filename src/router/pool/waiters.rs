//! Who gets a tenant's next free connection: whoever has waited longest.

use std::rc::Rc;
use std::time::{Duration, Instant};

use shard_map::Access;
use tokio::sync::oneshot;

use crate::error::ClientError;
use crate::pool::breaker::Trouble;
use crate::pool::connection::ServerConnection;
use crate::tenant::{Gate, Tenant};

/// A connection, or why there is none.
pub(crate) type Grant = Result<Granted, ClientError>;

/// A connection on its way to who waits. One that nobody takes any more goes back to the others.
pub(crate) struct Granted(Option<Box<ServerConnection>>);

impl Granted {
    /// It has arrived.
    pub(crate) fn take(mut self) -> Option<Box<ServerConnection>> {
        self.0.take()
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            match connection.tenant() {
                Some(tenant) => tenant.release(connection),
                None => connection.close(),
            }
        }
    }
}

/// A transaction that waits for a connection.
pub(crate) struct Waiter {
    pub(crate) access: Access,
    since: Instant,
    sender: oneshot::Sender<Grant>,
}

impl Tenant {
    /// An idle connection, if nobody else waits for one.
    pub(crate) fn take_idle(&self, access: Access) -> Option<Box<ServerConnection>> {
        if !self.is_open() || !self.waiting.borrow().is_empty() {
            return None;
        }
        self.pop_idle(access)
    }

    fn pop_idle(&self, access: Access) -> Option<Box<ServerConnection>> {
        loop {
            let mut connection = {
                let mut idle = self.idle.borrow_mut();
                let at = idle.iter().rposition(|connection| connection.access == access)?;
                idle.remove(at)
            };
            // The borrow is over here: a dead connection may be closed.
            if connection.is_alive(&self.worker.buffers) {
                connection.set_idle(false, &self.worker.clock);
                return Some(connection);
            }
            connection.close();
        }
    }

    /// Waits in the queue.
    pub(crate) fn enqueue(self: &Rc<Self>, access: Access) -> Result<oneshot::Receiver<Grant>, ClientError> {
        if self.waiting.borrow().len() >= self.worker.shared.config().queue_max {
            return Err(ClientError::QueueFull);
        }
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().push_back(Waiter { access, since: Instant::now(), sender });
        self.settle();
        Ok(receiver)
    }

    /// Takes back a connection that is clean and between transactions.
    pub(crate) fn release(self: &Rc<Self>, mut connection: Box<ServerConnection>) {
        connection.side.rest(&self.worker.buffers);
        let usable = connection.generation == self.generation.get()
            && connection.cancel.under_way.get() == 0
            && !connection.cancel.spoiled.get()
            && self.is_open()
            && self.narrowing.get().is_none_or(|narrowing| self.open.get() <= narrowing.most)
            && !connection.gives_way(|access| self.could_use(access));
        if usable {
            connection.set_idle(true, &self.worker.clock);
            self.idle.borrow_mut().push(connection);
            if self.waiting.borrow().is_empty() {
                return;
            }
        } else {
            connection.close();
        }
        self.settle();
    }

    /// Gives up a connection whose state is unknown.
    pub(crate) fn discard(self: &Rc<Self>, connection: Box<ServerConnection>) {
        connection.close();
        self.settle();
    }

    /// Brings waiters, connections and the gate in line, after any of them changed.
    pub(crate) fn settle(self: &Rc<Self>) {
        let refusal = match &*self.gate.borrow() {
            Gate::Refused(refusal) => Some(*refusal),
            _ => None,
        };
        if let Some(refusal) = refusal {
            self.close_idle();
            return self.fail_waiters(&ClientError::refusal(refusal, self.id.as_str()));
        }
        if self.is_held() {
            self.close_idle();
            return self.acknowledge_hold();
        }
        self.grant_idle();
        self.start_openers();
    }

    fn grant_idle(&self) {
        let mut at = 0;
        loop {
            let access = {
                let mut waiting = self.waiting.borrow_mut();
                // Who went away in the meantime leaves the queue here.
                while waiting.get(at).is_some_and(|waiter| waiter.sender.is_closed()) {
                    waiting.remove(at);
                }
                match waiting.get(at) {
                    Some(waiter) => waiter.access,
                    None => return,
                }
            };
            if self.idle.borrow().is_empty() {
                return;
            }
            let Some(connection) = self.pop_idle(access) else {
                at += 1;
                continue;
            };
            let Some(waiter) = self.waiting.borrow_mut().remove(at) else {
                return;
            };
            self.worker.shared.metrics.queue_wait.observe(waiter.since.elapsed().as_secs_f64());
            let unsent = waiter.sender.send(Ok(Granted(Some(connection)))).err();
            if let Some(mut connection) = unsent.and_then(Result::ok).and_then(Granted::take) {
                connection.set_idle(true, &self.worker.clock);
                self.idle.borrow_mut().push(connection);
            }
        }
    }

    fn start_openers(self: &Rc<Self>) {
        let most = self.connections_max();
        let wanted = self.waiting.borrow().len();
        if wanted == 0 {
            return;
        }
        // A connection with another access that nobody uses gives way.
        if self.open.get() + self.opening.get() >= most && self.opening.get() == 0 {
            self.close_longest_idle();
        }
        while self.opening.get() < wanted.min(most.saturating_sub(self.open.get())) {
            self.opening.set(self.opening.get() + 1);
            let tenant = self.clone();
            self.worker.spawn(super::opener::open(tenant));
        }
    }

    /// Takes the connection out that is unused since `since`, if it is to be given up.
    pub(crate) fn take_unused(
        &self,
        since: Instant,
        give_up: impl FnOnce(&mut ServerConnection) -> bool,
    ) -> Option<Box<ServerConnection>> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().position(|connection| connection.idle_since == since)?;
        give_up(&mut idle[at]).then(|| idle.remove(at))
    }

    /// Why a client that waited for so long gets no connection.
    pub(crate) fn why_none(&self, waited: Duration) -> ClientError {
        if let Some(failure) = self.failure.borrow().clone() {
            return failure;
        }
        let name = || self.id.to_string();
        match self.place().and_then(|place| place.breaker.trouble()) {
            Some(Trouble::Down) => ClientError::ServerDown(name()),
            Some(Trouble::Starting) => ClientError::ServerStarting(name()),
            None => ClientError::QueueTimeout(waited),
        }
    }

    /// Refuses everybody who waits.
    pub(crate) fn fail_waiters(&self, error: &ClientError) {
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        for waiter in waiting {
            // Who went away needs no answer.
            drop(waiter.sender.send(Err(error.clone())));
        }
    }

    /// Closes the connection that was idle for longest, if there is one.
    pub(crate) fn close_longest_idle(&self) {
        let longest = {
            let mut idle = self.idle.borrow_mut();
            (!idle.is_empty()).then(|| idle.remove(0))
        };
        if let Some(longest) = longest {
            longest.close();
        }
    }

    /// Closes what is idle.
    pub(crate) fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        idle.into_iter().for_each(ServerConnection::close);
    }

    /// Whether whoever waits first could use such a connection.
    fn could_use(&self, access: Access) -> bool {
        let waiting = self.waiting.borrow();
        waiting.iter().find(|waiter| !waiter.sender.is_closed()).is_some_and(|waiter| waiter.access == access)
    }

    /// Who waits first, and as what.
    pub(crate) fn first_waiter(&self) -> Option<Access> {
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|waiter| !waiter.sender.is_closed());
        waiting.front().map(|waiter| waiter.access)
    }
}
