//! Who gets a server's next connection, and who gives one up for it: weighted max-min fairness over tenants.
//!
//! A plain structure that decides and is told: no clock, no lock, no I/O. What it promises: a tenant below its minimum
//! comes first; then whoever has the least for its weight; then whoever waits longest. Nobody who waits with nothing waits
//! longer than the others' turns, as long as transactions end.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use shard_map::TenantId;

/// How long a connection serves its tenant, at least, while others that have none wait. Shorter, and a server with more
/// tenants than connections would do little but start processes.
pub(crate) const TURN: Duration = Duration::from_millis(100);
/// A turn is longer for a tenant of more weight, up to this.
const TURN_MAX: Duration = Duration::from_secs(1);
/// How long a connection must be unused before one who has less may have it: more than a pause between two transactions
/// of a busy client.
pub(crate) const IDLE_GRACE: Duration = Duration::from_millis(10);
/// The same for one who has more already: a tenant that is seldom active does not connect each time anew because another
/// never has enough.
pub(crate) const IDLE_KEEP: Duration = Duration::from_secs(1);
/// Makes whole numbers of connections for each weight comparable.
const LOAD_SCALE: usize = 1_000_000;

/// A connection that its tenant can do without for a moment: it is between two transactions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offer {
    /// How long the tenant has had it.
    pub(crate) had: Duration,
    /// How long it was unused; nothing, if it served until now.
    pub(crate) idle: Option<Duration>,
    /// Whether the tenant's own first waiter could use it.
    pub(crate) useful: bool,
}

/// What is to become of a connection that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict<W> {
    /// Its tenant keeps it.
    Keep,
    /// It is closed, and nobody gets another for it: there are too many.
    GiveUp,
    /// It is closed, and this tenant's waiter may open one in its place.
    PassOn(TenantId, W),
}

/// One server's connections as divided among tenants; `W` is how to reach one who waits.
pub(crate) struct Shares<W> {
    limit: usize,
    minimum: usize,
    out: usize,
    waiting: usize,
    next_number: u64,
    tenants: HashMap<TenantId, Share<W>>,
    /// Tenants that wait, the neediest first: there may be thousands, and each transaction's end asks for it.
    needs: BTreeMap<Need, TenantId>,
}

/// How much a tenant that waits needs one more, the neediest first: whether it has its minimum, what it has for its
/// weight, and the number of its first waiter, which is its alone.
type Need = (bool, usize, u64);

struct Share<W> {
    weight: u32,
    held: usize,
    waiting: VecDeque<(u64, W)>,
    /// As it is noted.
    need: Option<Need>,
}

impl<W> Share<W> {
    /// What it would have for its weight, with so many.
    fn load(&self, held: usize) -> usize {
        held * LOAD_SCALE / self.weight.max(1) as usize
    }

    fn turn(&self) -> Duration {
        (TURN * self.weight).min(TURN_MAX)
    }
}

impl<W> Shares<W> {
    pub(crate) fn new(limit: usize) -> Self {
        let (tenants, needs) = (HashMap::new(), BTreeMap::new());
        Self { limit, minimum: 0, out: 0, waiting: 0, next_number: 0, tenants, needs }
    }

    /// Connections over all tenants, and those that each tenant gets before others get more.
    pub(crate) fn set(&mut self, limit: usize, minimum: usize) {
        self.limit = limit;
        if std::mem::replace(&mut self.minimum, minimum) != minimum {
            let waiting: Vec<_> = self.needs.values().cloned().collect();
            waiting.iter().for_each(|tenant| self.has_changed(tenant));
        }
    }

    /// Whether tenants should offer what they can do without.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting > 0 || self.out > self.limit
    }

    fn share(&mut self, tenant: &TenantId, weight: u32) -> &mut Share<W> {
        let share = self.tenants.entry(tenant.clone()).or_insert_with(|| Share {
            weight,
            held: 0,
            waiting: VecDeque::new(),
            need: None,
        });
        share.weight = weight;
        share
    }

    /// Takes a connection, if one is free and nobody waits; `false` when not.
    pub(crate) fn take(&mut self, tenant: &TenantId, weight: u32) -> bool {
        let free = self.waiting == 0 && self.out < self.limit;
        if free {
            self.out += 1;
            self.share(tenant, weight).held += 1;
        }
        free
    }

    /// Waits for a connection; gives the number by which to withdraw.
    pub(crate) fn wait(&mut self, tenant: &TenantId, weight: u32, waiter: W) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.waiting += 1;
        self.share(tenant, weight).waiting.push_back((number, waiter));
        self.has_changed(tenant);
        number
    }

    /// Waits no more; nothing, if it was granted meanwhile.
    pub(crate) fn withdraw(&mut self, tenant: &TenantId, number: u64) {
        if let Some(share) = self.tenants.get_mut(tenant)
            && let Some(at) = share.waiting.iter().position(|(waits, _)| *waits == number)
        {
            share.waiting.remove(at);
            self.waiting -= 1;
            self.has_changed(tenant);
        }
    }

    /// Takes back a connection that is closed.
    pub(crate) fn put_back(&mut self, tenant: &TenantId) {
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.held -= 1;
            self.out -= 1;
            self.has_changed(tenant);
        }
    }

    /// Gives a free connection to whoever is next.
    pub(crate) fn grant(&mut self) -> Option<(TenantId, W)> {
        if self.out >= self.limit {
            return None;
        }
        let next = self.neediest()?.clone();
        let waiter = self.serve(&next)?;
        self.out += 1;
        Some((next, waiter))
    }

    /// Decides about a connection that a tenant offers, and notes whose it is from now on.
    pub(crate) fn offer(&mut self, tenant: &TenantId, offer: Offer) -> Verdict<W> {
        if self.out > self.limit {
            self.put_back(tenant);
            return Verdict::GiveUp;
        }
        let Some(next) = self.neediest().filter(|next| self.gives_way(tenant, next, offer)).cloned() else {
            return Verdict::Keep;
        };
        let Some(waiter) = self.serve(&next) else {
            return Verdict::Keep;
        };
        if let Some(share) = self.tenants.get_mut(tenant) {
            share.held -= 1;
        }
        self.has_changed(tenant);
        Verdict::PassOn(next, waiter)
    }

    fn neediest(&self) -> Option<&TenantId> {
        self.needs.first_key_value().map(|(_, tenant)| tenant)
    }

    fn gives_way(&self, from: &TenantId, to: &TenantId, offer: Offer) -> bool {
        let (Some(giver), Some(taker)) = (self.tenants.get(from), self.tenants.get(to)) else {
            return false;
        };
        let turn_over = offer.had >= giver.turn();
        if from == to {
            // Its own waiter needs another role's connection.
            return !offer.useful && (turn_over || offer.idle.is_some_and(|idle| idle >= IDLE_GRACE));
        }
        let above_minimum = giver.held > self.minimum;
        let below_minimum = taker.held < self.minimum;
        if !above_minimum && !below_minimum && taker.held > 0 {
            return false;
        }
        let fairer =
            above_minimum && (below_minimum || giver.load(giver.held - 1) >= taker.load(taker.held + 1));
        // With more tenants than connections, all get their turn.
        let by_turns = taker.held == 0 && turn_over;
        let grace = if taker.load(taker.held + 1) <= giver.load(giver.held) { IDLE_GRACE } else { IDLE_KEEP };
        fairer || by_turns || offer.idle.is_some_and(|idle| idle >= grace)
    }

    /// Takes a tenant's first waiter out of the line: a connection is its own now.
    fn serve(&mut self, tenant: &TenantId) -> Option<W> {
        let share = self.tenants.get_mut(tenant)?;
        let (_, waiter) = share.waiting.pop_front()?;
        share.held += 1;
        self.waiting -= 1;
        self.has_changed(tenant);
        Some(waiter)
    }

    /// Notes what a tenant needs, after what it has or waits for has changed; forgets one that has and wants nothing.
    fn has_changed(&mut self, tenant: &TenantId) {
        let Some(share) = self.tenants.get_mut(tenant) else {
            return;
        };
        let first = share.waiting.front();
        let need = first.map(|(number, _)| (share.held >= self.minimum, share.load(share.held), *number));
        if share.need != need {
            if let Some(before) = std::mem::replace(&mut share.need, need) {
                self.needs.remove(&before);
            }
            if let Some(need) = need {
                self.needs.insert(need, tenant.clone());
            }
        }
        if share.held == 0 && share.waiting.is_empty() {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests;
