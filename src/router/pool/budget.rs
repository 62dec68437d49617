//! A server's connections over all tenants and workers: never more than the map allows, fairly divided.
//!
//! It is touched when connections are opened and closed, and while somebody waits. Otherwise all that a transaction sees of
//! it is one flag. A permit lives until the server has let go of its connection, so that the next one finds room there.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use shard_map::{ServerName, TenantId};
use tokio::sync::{Notify, oneshot};

use crate::pool::shares::{Offer, Shares, Verdict};

type Waiter = oneshot::Sender<Permit>;

/// One server's budget.
pub(crate) struct Budget {
    shares: Mutex<Shares<Waiter>>,
    wanted: AtomicBool,
    /// Told when somebody begins to wait, for any server.
    wanting: Arc<Notify>,
}

/// What becomes of a permit when its connection is gone.
enum Fate {
    /// It is free for whoever is next.
    Free,
    /// It was taken off the tenant already, as there are too many.
    GivenUp,
    /// It was promised.
    Promised(Waiter),
}

/// The right to one connection.
pub(crate) struct Permit {
    budget: Arc<Budget>,
    tenant: TenantId,
    fate: Fate,
}

impl Permit {
    fn new(budget: Arc<Budget>, tenant: TenantId) -> Self {
        Self { budget, tenant, fate: Fate::Free }
    }

    /// The budget that it is of.
    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Offers the connection to others who wait; `true` when it must be closed for one of them.
    pub(crate) fn offer(&mut self, offer: Offer) -> bool {
        if !matches!(self.fate, Fate::Free) {
            return true;
        }
        let verdict = self.budget.change(|shares| shares.offer(&self.tenant, offer));
        match verdict {
            Verdict::Keep => return false,
            Verdict::GiveUp => self.fate = Fate::GivenUp,
            Verdict::PassOn(to, waiter) => {
                self.tenant = to;
                self.fate = Fate::Promised(waiter);
            }
        }
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.fate, Fate::GivenUp) {
            Fate::GivenUp => {}
            // If the waiter is gone, the permit comes back and is dropped here: free.
            Fate::Promised(waiter) => {
                drop(waiter.send(Permit::new(self.budget.clone(), self.tenant.clone())));
            }
            Fate::Free => {
                self.budget.change(|shares| shares.put_back(&self.tenant));
                self.budget.grant();
            }
        }
    }
}

/// A place in the line for a permit; dropped, it is left.
pub(crate) struct InLine {
    budget: Arc<Budget>,
    tenant: TenantId,
    number: u64,
    granted: oneshot::Receiver<Permit>,
}

impl Future for InLine {
    type Output = Option<Permit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.granted).poll(cx).map(Result::ok)
    }
}

impl Drop for InLine {
    fn drop(&mut self) {
        self.budget.change(|shares| shares.withdraw(&self.tenant, self.number));
    }
}

impl Budget {
    fn new(wanting: Arc<Notify>) -> Self {
        Self { shares: Mutex::new(Shares::new(0)), wanted: AtomicBool::new(false), wanting }
    }

    fn shares(&self) -> MutexGuard<'_, Shares<Waiter>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody waits for a connection that others have. A guess: it may change any time.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Shares<Waiter>) -> T) -> T {
        let mut shares = self.shares();
        let outcome = change(&mut shares);
        self.wanted.store(shares.is_wanted(), Ordering::Relaxed);
        outcome
    }

    /// Hands out what is free. Outside the lock: who went away meanwhile gives it back at once.
    fn grant(self: &Arc<Self>) {
        while let Some((tenant, waiter)) = self.change(Shares::grant) {
            drop(waiter.send(Permit::new(self.clone(), tenant)));
        }
    }

    fn set(self: &Arc<Self>, limit: usize, minimum: usize) {
        self.change(|shares| shares.set(limit, minimum));
        self.grant();
        if self.is_wanted() {
            self.wanting.notify_waiters();
        }
    }

    /// A permit, if one is free and nobody waits.
    pub(crate) fn try_take(self: &Arc<Self>, tenant: &TenantId, weight: u32) -> Option<Permit> {
        let taken = self.change(|shares| shares.take(tenant, weight));
        taken.then(|| Permit::new(self.clone(), tenant.clone()))
    }

    /// A place in the line for a permit.
    pub(crate) fn wait(self: &Arc<Self>, tenant: &TenantId, weight: u32) -> InLine {
        let (waiter, granted) = oneshot::channel();
        let number = self.change(|shares| shares.wait(tenant, weight, waiter));
        let place = InLine { budget: self.clone(), tenant: tenant.clone(), number, granted };
        self.grant();
        self.wanting.notify_waiters();
        place
    }
}

/// By what a router divides servers' connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    /// Routers that share a server.
    pub(crate) routers: usize,
    /// Connections that each tenant gets before others get more.
    pub(crate) minimum: usize,
}

impl Terms {
    fn limit(self, max_connections: u32) -> usize {
        (max_connections as usize / self.routers.max(1)).max(1)
    }
}

/// The budgets of all servers.
#[derive(Default)]
pub(crate) struct Budgets {
    budgets: Mutex<HashMap<ServerName, (u32, Arc<Budget>)>>,
    wanting: Arc<Notify>,
}

impl Budgets {
    fn budgets(&self) -> MutexGuard<'_, HashMap<ServerName, (u32, Arc<Budget>)>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The budget of a server, with these limits from now on.
    pub(crate) fn get(&self, server: &ServerName, max_connections: u32, terms: Terms) -> Arc<Budget> {
        let mut budgets = self.budgets();
        let made = || (max_connections, Arc::new(Budget::new(self.wanting.clone())));
        let (known, budget) = budgets.entry(server.clone()).or_insert_with(made);
        *known = max_connections;
        budget.set(terms.limit(max_connections), terms.minimum);
        budget.clone()
    }

    /// Divides all servers' connections by these terms from now on.
    pub(crate) fn divide(&self, terms: Terms) {
        for (max_connections, budget) in self.budgets().values() {
            budget.set(terms.limit(*max_connections), terms.minimum);
        }
    }

    /// Those that somebody waits for.
    pub(crate) fn wanted(&self) -> Vec<Arc<Budget>> {
        let budgets = self.budgets();
        budgets.values().filter(|(_, budget)| budget.is_wanted()).map(|(_, budget)| budget.clone()).collect()
    }

    /// Told when somebody begins to wait.
    pub(crate) fn wanting(&self) -> &Notify {
        &self.wanting
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ALONE: Terms = Terms { routers: 1, minimum: 0 };

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn used_up() -> Offer {
        Offer { had: Duration::from_secs(60), idle: None, useful: false }
    }

    #[test]
    fn a_limit_can_be_lowered_below_what_is_in_use() {
        let budgets = Budgets::default();
        let name = ServerName::new("a").unwrap();
        let budget = budgets.get(&name, 3, ALONE);
        let one = tenant("one");
        let mut taken: Vec<_> = (0..3).map(|_| budget.try_take(&one, 1).unwrap()).collect();
        assert!(budget.try_take(&one, 1).is_none() && !budget.is_wanted());
        budgets.divide(Terms { routers: 3, minimum: 0 });
        assert!(budget.is_wanted());
        assert!(taken[0].offer(used_up()) && taken[1].offer(used_up()) && !taken[2].offer(used_up()));
        taken.clear();
        let last = budget.try_take(&one, 1);
        assert!(last.is_some() && budget.try_take(&one, 1).is_none());
        budgets.get(&name, 6, Terms { routers: 3, minimum: 0 });
        assert!(budget.try_take(&one, 1).is_some());
    }

    #[tokio::test]
    async fn what_is_passed_on_arrives_when_the_connection_is_gone() {
        let budget = Budgets::default().get(&ServerName::new("a").unwrap(), 1, ALONE);
        let mut taken = budget.try_take(&tenant("one"), 1).unwrap();
        let mut waiting = budget.wait(&tenant("two"), 1);
        assert!(taken.offer(used_up()));
        assert!(poll(&mut waiting).is_none(), "the server has not let go yet");
        drop(taken);
        let passed = poll(&mut waiting).unwrap();
        assert!(budget.try_take(&tenant("one"), 1).is_none());
        drop(passed);
        assert!(budget.try_take(&tenant("one"), 1).is_some());
    }

    #[tokio::test]
    async fn nothing_is_lost_on_those_who_went_away() {
        let budget = Budgets::default().get(&ServerName::new("a").unwrap(), 1, ALONE);
        let mut taken = budget.try_take(&tenant("one"), 1).unwrap();
        let promised = budget.wait(&tenant("two"), 1);
        let withdrawn = budget.wait(&tenant("three"), 1);
        let mut waiting = budget.wait(&tenant("four"), 1);
        drop(withdrawn);
        assert!(taken.offer(used_up()));
        drop(promised);
        drop(taken);
        assert!(poll(&mut waiting).is_some());
    }

    fn poll(waiting: &mut InLine) -> Option<Permit> {
        match Pin::new(waiting).poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(permit) => permit,
            Poll::Pending => None,
        }
    }
}
