//! Figures of one tenant: what its clients did at this router since it started.
//!
//! They are counted in cells of the tenant's worker, so counting costs next to nothing; whoever wants to know asks the
//! worker. Figures of a tenant that goes cold are kept for a while, for so many tenants; the figures of older ones are
//! only in a sum, so that memory has a bound and nothing that was counted is lost.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use shard_map::TenantId;

use crate::tenant::Tenant;
use crate::worker::Worker;

/// Cold tenants whose figures a worker keeps one by one.
const COLD_MAX: usize = 10_000;
/// Part of a tenant's activity that fades each second: what it did a minute ago counts half as much.
const FADING: f64 = 0.0115;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    Transactions,
    Statements,
    BytesIn,
    BytesOut,
    TransactionMicros,
    Waits,
    WaitMicros,
    Errors,
}

impl Figure {
    pub(crate) const COUNT: usize = 8;
    pub(crate) const ALL: [Self; Self::COUNT] = [
        Self::Transactions,
        Self::Statements,
        Self::BytesIn,
        Self::BytesOut,
        Self::TransactionMicros,
        Self::Waits,
        Self::WaitMicros,
        Self::Errors,
    ];

    /// Its name in the console and in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Transactions => "transactions",
            Self::Statements => "statements",
            Self::BytesIn => "bytes_in",
            Self::BytesOut => "bytes_out",
            Self::TransactionMicros => "transaction_us",
            Self::Waits => "waits",
            Self::WaitMicros => "wait_us",
            Self::Errors => "errors",
        }
    }
}

/// Figures at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Figures([u64; Figure::COUNT]);

impl Figures {
    pub(crate) fn get(&self, figure: Figure) -> u64 {
        self.0[figure as usize]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// How much they have grown since.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut grown = *self;
        for (now, before) in grown.0.iter_mut().zip(before.0) {
            *now = now.saturating_sub(before);
        }
        grown
    }
}

/// A tenant's figures as they grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    now: [Cell<u64>; Figure::COUNT],
    /// As they were when a scrape last took them.
    taken: Cell<Figures>,
    /// As they were at the router's last report.
    reported: Cell<Figures>,
    /// Transaction time when activity was last looked at, and the activity.
    looked_at: Cell<u64>,
    activity: Cell<f64>,
}

impl Counters {
    pub(crate) fn add(&self, figure: Figure, more: u64) {
        let cell = &self.now[figure as usize];
        cell.set(cell.get().wrapping_add(more));
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures(std::array::from_fn(|i| self.now[i].get()))
    }

    /// All of it, which the caller goes on with.
    pub(crate) fn take(&self) -> Self {
        Self {
            now: std::array::from_fn(|i| Cell::new(self.now[i].take())),
            taken: Cell::new(self.taken.take()),
            reported: Cell::new(self.reported.take()),
            looked_at: Cell::new(self.looked_at.take()),
            activity: Cell::new(self.activity.take()),
        }
    }

    /// What has grown since the last call.
    pub(crate) fn take_grown(&self) -> Figures {
        let now = self.figures();
        now.since(&self.taken.replace(now))
    }

    /// What has grown since the last report.
    pub(crate) fn take_reported(&self) -> Figures {
        let now = self.figures();
        now.since(&self.reported.replace(now))
    }

    /// How busy its clients keep servers lately: a measure to compare tenants by.
    pub(crate) fn activity(&self) -> f64 {
        self.activity.get()
    }

    /// Brings the activity up to date; call it once a second.
    pub(crate) fn fade(&self) {
        let now = self.figures();
        // A transaction counts, however short it was.
        let spent = now.get(Figure::TransactionMicros) + now.get(Figure::Transactions);
        let more = spent.saturating_sub(self.looked_at.replace(spent));
        if more > 0 || self.activity.get() > 0.0 {
            // Far below 2^53; what fades below one is nothing.
            let activity = self.activity.get() * (1.0 - FADING) + more as f64;
            self.activity.set(if activity < 1.0 { 0.0 } else { activity });
        }
    }
}

/// Figures of tenants that have neither clients nor connections at a worker any more.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    kept: HashMap<TenantId, Counters>,
    order: VecDeque<TenantId>,
    /// The sum of those that are not kept one by one.
    rest: Figures,
    /// What grew in them that no scrape has taken.
    untaken: Figures,
}

impl Cold {
    /// A tenant goes cold.
    pub(crate) fn put(&mut self, tenant: TenantId, counters: Counters) {
        self.kept.insert(tenant.clone(), counters);
        self.order.push_back(tenant);
        while self.order.len() > COLD_MAX {
            // One that came back meanwhile and went again is only early.
            let oldest = self.order.pop_front().and_then(|tenant| self.kept.remove(&tenant));
            if let Some(counters) = oldest {
                self.rest.add(&counters.figures());
                self.untaken.add(&counters.take_grown());
            }
        }
    }

    /// A tenant comes back.
    pub(crate) fn take(&mut self, tenant: &TenantId) -> Counters {
        self.kept.remove(tenant).unwrap_or_default()
    }

    pub(crate) fn get(&self, tenant: &TenantId) -> Option<&Counters> {
        self.kept.get(tenant)
    }

    pub(crate) fn tenants(&self) -> impl Iterator<Item = &TenantId> {
        self.kept.keys()
    }

    pub(crate) fn rest(&self) -> Figures {
        self.rest
    }

    /// What has grown in the rest since the last call.
    pub(crate) fn take_untaken(&mut self) -> Figures {
        std::mem::take(&mut self.untaken)
    }

    /// Brings activities up to date.
    pub(crate) fn fade(&self) {
        self.kept.values().for_each(Counters::fade);
    }
}

impl Worker {
    /// A tenant of this worker, if it is warm here.
    pub(crate) fn warm(&self, id: &TenantId) -> Option<Rc<Tenant>> {
        self.tenants.borrow().get(id).cloned()
    }

    /// What was counted for a tenant, whether it is warm or not.
    pub(crate) fn figures(&self, id: &TenantId) -> Figures {
        match self.warm(id) {
            Some(tenant) => tenant.counters.figures(),
            None => self.cold.borrow().get(id).map(Counters::figures).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> TenantId {
        TenantId::new(&format!("t{n}")).unwrap()
    }

    fn counted(transactions: u64) -> Counters {
        let counters = Counters::default();
        counters.add(Figure::Transactions, transactions);
        counters
    }

    #[test]
    fn nothing_that_was_counted_is_lost_when_tenants_go_cold() {
        let mut cold = Cold::default();
        let all = COLD_MAX + 10;
        for n in 0..all {
            cold.put(id(n), counted(1));
        }
        assert_eq!(cold.tenants().count(), COLD_MAX);
        assert_eq!(cold.rest().get(Figure::Transactions), 10);
        assert_eq!(cold.take_untaken().get(Figure::Transactions), 10);
        assert_eq!(cold.take_untaken(), Figures::default());
        assert_eq!(cold.take(&id(0)).figures(), Figures::default(), "one of the oldest");
        assert_eq!(cold.take(&id(all - 1)).figures().get(Figure::Transactions), 1);
        assert!(cold.get(&id(all - 1)).is_none());
    }

    #[test]
    fn a_tenant_that_comes_and_goes_stays_within_the_bound() {
        let mut cold = Cold::default();
        for _ in 0..3 * COLD_MAX {
            let counters = cold.take(&id(1));
            counters.add(Figure::Transactions, 1);
            cold.put(id(1), counters);
        }
        assert!(cold.order.len() <= COLD_MAX);
        let kept = cold.get(&id(1)).map_or(0, |counters| counters.figures().get(Figure::Transactions));
        assert_eq!(kept + cold.rest().get(Figure::Transactions), 3 * COLD_MAX as u64);
    }

    #[test]
    fn what_a_scrape_takes_is_what_grew() {
        let counters = counted(5);
        assert_eq!(counters.take_grown().get(Figure::Transactions), 5);
        assert_eq!(counters.take_grown(), Figures::default());
        counters.add(Figure::Transactions, 2);
        assert_eq!(counters.take_grown().get(Figure::Transactions), 2);
        assert_eq!(counters.figures().get(Figure::Transactions), 7);
    }

    #[test]
    fn activity_fades() {
        let counters = counted(100);
        counters.fade();
        assert!((counters.activity() - 100.0).abs() < 0.1);
        (0..60).for_each(|_| counters.fade());
        assert!((40.0..60.0).contains(&counters.activity()), "{}", counters.activity());
        (0..1000).for_each(|_| counters.fade());
        assert!(counters.activity() == 0.0);
    }
}
