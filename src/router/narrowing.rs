//! Who is held soon is narrowed before: fewer and fewer of the tenant's server connections are used until the hold begins, and
//! more and more after it.
//!
//! The end of a connection, and a login even more, costs its server milliseconds of a core. With all of them at once, right when
//! a hold begins and when it ends, the tenant's clients would wait for that, too; and for many transactions that run at once
//! and share the cores, longer than for a few. `benches/run hold` measures it.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use crate::tenant::{Gate, Tenant};

/// A hold is not put off for longer, whatever the clock says of whoever announced it.
const NARROWING_MAX: Duration = Duration::from_millis(100);
/// By so much the connections in use are divided, and so many are left at least.
const DIVISOR: usize = 4;
const LEFT_MIN: usize = 2;
/// After the hold there are more connections every so often, until after so many steps there may be all.
const WIDENING_PAUSE: Duration = Duration::from_millis(20);
const WIDENING_STEPS: usize = 16;

impl Tenant {
    /// Puts a hold off until it begins: the gate is as it was until then, and the tenant is narrowed.
    pub(crate) fn put_off(self: &Rc<Self>, gate: Gate) -> Gate {
        let Gate::Held(holding) = &gate else { return gate };
        let (hold, left) = holding.announced();
        if let Some(narrowing) = self.narrowing.get() {
            let waits = narrowing.hold == hold && Instant::now() < narrowing.until;
            return if waits { Gate::Open } else { gate };
        }
        if left.is_zero() || !matches!(*self.gate.borrow(), Gate::Open) {
            return gate;
        }
        let kept = self.clients.borrow().values().filter(|client| client.keeps_connection()).count();
        let open = self.open.get() + self.opening.get();
        let least = least(open.saturating_sub(self.idle.borrow().len()), kept);
        let narrowing =
            Narrowing { hold, until: Instant::now() + left.min(NARROWING_MAX), most: open.max(least) };
        self.narrowing.set(Some(narrowing));
        self.worker.spawn(around_hold(self.clone(), narrowing, least));
        Gate::Open
    }
}

/// How many connections are left when the hold begins, of those in use; `kept` of them stay with their clients.
fn least(in_use: usize, kept: usize) -> usize {
    kept + (in_use.saturating_sub(kept) / DIVISOR).max(LEFT_MIN)
}

/// How many there may be a pause later; none, if that is all that the tenant may have.
fn wider(most: usize, all: usize) -> Option<usize> {
    let wider = most + all.div_ceil(WIDENING_STEPS);
    (wider < all).then_some(wider)
}

/// Fewer connections than usual, for a hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Narrowing {
    hold: i64,
    /// When the hold begins.
    until: Instant,
    /// Connections that may be used now.
    pub(crate) most: usize,
}

/// Narrows the tenant until the hold begins, and widens it when it has ended.
async fn around_hold(tenant: Rc<Tenant>, mut narrowing: Narrowing, least: usize) {
    let begun = Instant::now();
    let steps = u32::try_from(narrowing.most - least).unwrap_or(u32::MAX);
    // In half of the time, so that what was under way with more has ended, too.
    let pause = narrowing.until.saturating_duration_since(begun) / 2 / steps.max(1);
    for step in 1..=steps {
        narrowing.most -= 1;
        tenant.narrowing.set(Some(narrowing));
        if tenant.open.get() > narrowing.most {
            tenant.close_longest_idle();
        }
        sleep_until((begun + pause * step).into()).await;
    }
    sleep_until(narrowing.until.into()).await;
    tenant.refresh();
    loop {
        while_held(&tenant).await;
        tokio::time::sleep(WIDENING_PAUSE).await;
        let wider = wider(narrowing.most, tenant.connections_allowed());
        let next = wider.map(|most| Narrowing { most, ..narrowing });
        tenant.narrowing.set(next);
        tenant.settle();
        let Some(next) = next else { return };
        narrowing = next;
    }
}

async fn while_held(tenant: &Tenant) {
    loop {
        let changed = tenant.changed.notified();
        if !tenant.is_held() {
            return;
        }
        changed.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_and_never_less_than_two_beside_what_clients_keep() {
        assert_eq!([(0, 0), (1, 0), (16, 0), (400, 0)].map(|(used, kept)| least(used, kept)), [2, 2, 4, 100]);
        // Fifteen sessions that keep theirs, and what other clients share.
        assert_eq!([(15, 15), (19, 15), (35, 15)].map(|(used, kept)| least(used, kept)), [17, 17, 20]);
    }

    #[test]
    fn all_are_back_within_so_many_steps() {
        for all in [1, 2, 17, 20, 31, 200, 10_000] {
            let steps = std::iter::successors(Some(LEFT_MIN), |most| wider(*most, all)).count();
            assert!(steps <= WIDENING_STEPS, "{all}: {steps}");
        }
    }
}
