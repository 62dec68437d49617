//! Looks for a tenant at other servers when its own can't say where it is, and no catalog does.
//!
//! A tenant that moved leaves the news at its source. When that has died since, a router that was cut off from the catalog
//! has nobody to ask but the rest: one of them has the tenant on record. This costs every server a login, so each tenant
//! is looked for ever more seldom, and few at a time; and never while the catalog is followed, which knows better.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::gate::Asked;
use crate::pool::Place;
use crate::registry;
use crate::tenant::Tenant;

/// How long a server does not answer before its tenants are looked for.
const DOWN_LEAST: Duration = Duration::from_secs(2);
/// How often a wait looks whether that is so.
const LOOK: Duration = Duration::from_millis(500);
/// Pause after the first search for a tenant; it doubles up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Tenants that a router looks for at a time.
pub(crate) const SEARCHES_MAX: usize = 4;

/// When a tenant may be looked for next.
#[derive(Default)]
pub(crate) struct Pacing(Cell<Option<(Instant, Duration)>>);

impl Pacing {
    /// Whether it is time; if so, the next time is later.
    fn turn(&self, now: Instant) -> bool {
        let pause = match self.0.get() {
            Some((next, _)) if now < next => return false,
            Some((_, pause)) => (pause * 2).min(PAUSE_MAX),
            None => PAUSE,
        };
        self.0.set(Some((now + pause, pause)));
        true
    }

    /// Begins anew.
    pub(crate) fn reset(&self) {
        self.0.set(None);
    }
}

impl Tenant {
    /// Looks for the tenant for as long as its server does not answer. Without end: where it is found, its place changes,
    /// which ends whatever waits beside this.
    pub(crate) async fn search(self: &Rc<Self>) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(LOOK).await;
            if let Some(place) = self.place()
                && place.breaker.down_for().is_some_and(|time| time >= DOWN_LEAST)
            {
                self.look_elsewhere(&place).await;
            }
        }
    }

    /// Asks the other servers' registries, unless the catalog is followed, they were asked just now, or enough are asked.
    pub(crate) async fn look_elsewhere(self: &Rc<Self>, place: &Rc<Place>) -> Asked {
        let shared = &self.worker.shared;
        if shared.map.is_followed() {
            return Asked::Wait;
        }
        // While others are looked for, this one keeps its turn: whoever waits for it asks again.
        let Ok(_search) = shared.searches.try_acquire() else { return Asked::Wait };
        if !self.pacing.turn(Instant::now()) {
            return Asked::Wait;
        }
        match registry::find_moved(shared, &self.id, &place.server.name).await {
            Some(moved) => self.follow(&moved, place),
            None => Asked::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_looked_for_at_once_and_then_ever_more_seldom() {
        let (pacing, begun) = (Pacing::default(), Instant::now());
        let after = |seconds| pacing.turn(begun + Duration::from_secs(seconds));
        assert!(after(0) && !after(0) && after(1) && !after(2) && after(3) && !after(6) && after(7));
        for hours in 1..10 {
            assert!(after(hours * 3600));
        }
        assert!(!after(9 * 3600 + 29) && after(9 * 3600 + 30));
        pacing.reset();
        assert!(after(9 * 3600 + 31));
    }
}
