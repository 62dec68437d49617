//! A server's connections over all tenants and workers: never more than the map allows.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shard_map::ServerName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One server's budget.
pub(crate) struct Budget {
    free: Arc<Semaphore>,
    limit: AtomicUsize,
    /// Connections to give up without replacement, since the limit was lowered below what is in use.
    excess: AtomicUsize,
}

/// The right to one connection.
pub(crate) struct Permit {
    budget: Arc<Budget>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let taken =
            self.budget.excess.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
        if let (Ok(_), Some(permit)) = (taken, self.permit.take()) {
            permit.forget();
        }
    }
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limit)),
            limit: AtomicUsize::new(limit),
            excess: AtomicUsize::new(0),
        }
    }

    fn set_limit(&self, limit: usize) {
        let before = self.limit.swap(limit, Ordering::AcqRel);
        if limit > before {
            let mut more = limit - before;
            let owed = self
                .excess
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| Some(n.saturating_sub(more)));
            more -= owed.unwrap_or(0).min(more);
            self.free.add_permits(more);
        } else if limit < before {
            let forgotten = self.free.forget_permits(before - limit);
            self.excess.fetch_add(before - limit - forgotten, Ordering::AcqRel);
        }
    }

    /// A permit, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let permit = self.free.clone().try_acquire_owned().ok()?;
        Some(Permit { budget: self.clone(), permit: Some(permit) })
    }

    /// A permit as soon as one is free, in order of asking.
    pub(crate) async fn take(self: &Arc<Self>) -> Option<Permit> {
        // The semaphore is never closed, so this is never `None`.
        let permit = self.free.clone().acquire_owned().await.ok()?;
        Some(Permit { budget: self.clone(), permit: Some(permit) })
    }
}

/// The budgets of all servers.
#[derive(Default)]
pub(crate) struct Budgets(Mutex<HashMap<ServerName, Arc<Budget>>>);

impl Budgets {
    /// The budget of a server, with this limit from now on.
    pub(crate) fn get(&self, server: &ServerName, limit: u32) -> Arc<Budget> {
        let limit = limit as usize;
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let budget = budgets.entry(server.clone()).or_insert_with(|| Arc::new(Budget::new(limit))).clone();
        budget.set_limit(limit);
        budget
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_can_be_lowered_below_what_is_in_use() {
        let budgets = Budgets::default();
        let name = ServerName::new("a").unwrap();
        let budget = budgets.get(&name, 3);
        let mut taken: Vec<_> = (0..3).map(|_| budget.try_take().unwrap()).collect();
        assert!(budget.try_take().is_none());
        budgets.get(&name, 1);
        taken.pop();
        taken.pop();
        assert!(budget.try_take().is_none());
        taken.pop();
        let one = budget.try_take();
        assert!(one.is_some() && budget.try_take().is_none());
        budgets.get(&name, 2);
        assert!(budget.try_take().is_some());
    }
}
