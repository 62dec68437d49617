//! Who is held soon is narrowed before: fewer and fewer of the tenant's server connections are used until the hold begins, and
//! more and more after it.
//!
//! The end of a connection, and a login even more, costs its server milliseconds of a core. With all of them at once, right when
//! a hold begins and when it ends, the tenant's clients would wait for that, too; and for many transactions that run at once
//! and share the cores, longer than for a few. `benches/run hold` measures it.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use shard_map::Hold;
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
    /// Whether this hold is yet to begin here. The first time that it is asked, the narrowing begins.
    pub(crate) fn awaits(self: &Rc<Self>, hold: &Hold) -> bool {
        if let Some(narrowing) = self.narrowing.get() {
            return narrowing.hold == hold.id && Instant::now() < narrowing.until;
        }
        let left = hold.begins_in(SystemTime::now()).min(NARROWING_MAX);
        if left.is_zero() || !matches!(*self.gate.borrow(), Gate::Open) {
            return false;
        }
        // Pinned sessions keep theirs.
        let least = self.parked_and_pinned() + (self.under_way() / DIVISOR).max(LEFT_MIN);
        let most = self.open.get().max(least);
        let narrowing = Narrowing { hold: hold.id, until: Instant::now() + left, most };
        self.narrowing.set(Some(narrowing));
        self.worker.spawn(around_hold(self.clone(), narrowing, least));
        true
    }
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
        let all = tenant.connections_allowed();
        narrowing.most += (all / WIDENING_STEPS).max(1);
        let is_wide = narrowing.most >= all;
        tenant.narrowing.set((!is_wide).then_some(narrowing));
        tenant.settle();
        if is_wide {
            return;
        }
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
