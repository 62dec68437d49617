//! Who is set aside while a server is emptied because his move could not even start. Only the leader knows, and forgets it
//! with its term: the next one finds out anew. Who was set aside because a move failed is on record, as that move.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shard_map::{ServerName, TenantId};

/// After so long, who was set aside is tried again.
pub(super) const SET_ASIDE_FOR: Duration = Duration::from_mins(10);
/// The same, if the reason may pass by itself.
const PASSING_FOR: Duration = Duration::from_secs(15);
/// Tries in a row after which a reason is not believed to pass soon.
const PASSING_TRIES_MAX: u32 = 4;

/// Why a tenant's move did not start.
#[derive(Debug, Clone)]
pub(super) struct Aside {
    pub(super) why: String,
    pub(super) remedy: String,
    /// Such as a server that did not answer in time.
    pub(super) may_pass: bool,
    tries: u32,
    at: Instant,
}

impl Aside {
    pub(super) fn new(why: String, remedy: String, may_pass: bool, at: Instant) -> Self {
        Self { why, remedy, may_pass, tries: 1, at }
    }

    /// Whether it is tried again soon, so that there is no need yet to bother anybody.
    pub(super) fn is_passing(&self) -> bool {
        self.may_pass && self.tries < PASSING_TRIES_MAX
    }

    /// How long until it is tried again; none when it is due.
    pub(super) fn tried_again_in(&self, now: Instant) -> Option<Duration> {
        let pause = if self.is_passing() { PASSING_FOR } else { SET_ASIDE_FOR };
        pause.checked_sub(now.saturating_duration_since(self.at)).filter(|left| !left.is_zero())
    }
}

/// What is known of one server's tenants.
#[derive(Debug, Clone, Default)]
pub(super) struct OfServer {
    pub(super) tenants: HashMap<TenantId, Aside>,
    /// Failures before this count no more: an operator said that all are to be tried again.
    pub(super) anew_since: Option<Instant>,
}

/// What the leader knows, by server.
#[derive(Default)]
pub(crate) struct Asides(Mutex<HashMap<ServerName, OfServer>>);

impl Asides {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerName, OfServer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everybody is tried again at once.
    pub(crate) fn begin_anew(&self, server: &ServerName) {
        let fresh = OfServer { tenants: HashMap::new(), anew_since: Some(Instant::now()) };
        self.lock().insert(server.clone(), fresh);
    }

    pub(super) fn of(&self, server: &ServerName) -> OfServer {
        self.lock().get(server).cloned().unwrap_or_default()
    }

    pub(super) fn set(&self, server: &ServerName, tenant: &TenantId, mut aside: Aside) {
        let mut all = self.lock();
        let tenants = &mut all.entry(server.clone()).or_default().tenants;
        if let Some(before) = tenants.get(tenant).filter(|before| before.may_pass && aside.may_pass) {
            aside.tries = before.tries.saturating_add(1);
        }
        tenants.insert(tenant.clone(), aside);
    }

    pub(super) fn forget(&self, server: &ServerName, tenant: &TenantId) {
        if let Some(of) = self.lock().get_mut(server) {
            of.tenants.remove(tenant);
        }
    }

    /// Keeps only what is of these servers, and of each only these tenants.
    pub(super) fn retain(&self, servers: &[ServerName]) {
        self.lock().retain(|name, _| servers.contains(name));
    }

    pub(super) fn retain_tenants(&self, server: &ServerName, is_there: impl Fn(&TenantId) -> bool) {
        if let Some(of) = self.lock().get_mut(server) {
            of.tenants.retain(|tenant, _| is_there(tenant));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    #[test]
    fn who_was_refused_is_tried_again_after_ten_minutes_and_at_once_if_an_operator_says_so() {
        let (asides, server, tenant) = (Asides::default(), name::<ServerName>("pg-1"), name("acme"));
        let at = Instant::now();
        asides.set(&server, &tenant, Aside::new("large objects".into(), "move them".into(), false, at));
        let aside = asides.of(&server).tenants[&tenant].clone();
        assert_eq!(aside.tried_again_in(at + Duration::from_mins(9)), Some(Duration::from_mins(1)));
        assert_eq!(aside.tried_again_in(at + SET_ASIDE_FOR), None);
        asides.begin_anew(&server);
        assert!(asides.of(&server).tenants.is_empty());
    }

    #[test]
    fn what_may_pass_is_tried_again_soon_and_then_no_oftener_than_the_rest() {
        let (asides, server, tenant) = (Asides::default(), name::<ServerName>("pg-1"), name("acme"));
        let at = Instant::now();
        let away = || Aside::new("pg-2 does not answer".into(), "see to it".into(), true, at);
        for _ in 1..PASSING_TRIES_MAX {
            asides.set(&server, &tenant, away());
            assert_eq!(asides.of(&server).tenants[&tenant].tried_again_in(at), Some(PASSING_FOR));
        }
        asides.set(&server, &tenant, away());
        assert_eq!(asides.of(&server).tenants[&tenant].tried_again_in(at), Some(SET_ASIDE_FOR));
    }
}
