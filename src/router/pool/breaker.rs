//! A breaker for each server: a server that does not answer is tried by one login at a time, not by all that wait.
//!
//! It learns from the logins that tenants make anyway, and while nobody makes one, from probes. Open, it lets a probe through after growing pauses, and everybody as
//! soon as one is answered; and at all times it lets only a few log in together, so that a server that comes back is not
//! run over. A server that answers anything, if only that it is full, is up. What it does not see is a server that stops
//! in the middle of its connections' work: that is for the limits on queries.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use shard_map::ServerName;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Failures in a row after which a server is taken for dead: a single one may be an accident.
const FAILURES_MAX: u32 = 3;
/// Pause before the first probe; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Logins under way at a server at a time: each costs it a process and a password check.
const LOGINS_MAX: usize = 8;

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It does not answer.
    Down,
    /// It says that it is starting up, or shutting down.
    Starting,
}

/// What the last logins told about a server.
#[derive(Debug, Default)]
struct Health {
    failures: u32,
    /// When the first of them was.
    since: Option<Instant>,
    trouble: Option<Trouble>,
    /// While it is open: the last pause, and when the next probe may go.
    open: Option<(Duration, Instant)>,
}

impl Health {
    /// Notes a failure; `jitter` stretches the pause, so that routers do not probe together.
    fn failed(&mut self, trouble: Trouble, is_probe: bool, now: Instant, jitter: f64) {
        self.trouble = Some(trouble);
        self.failures += 1;
        self.since.get_or_insert(now);
        let pause = match self.open {
            // It was under way when the breaker opened, and tells nothing new.
            Some(_) if !is_probe => return,
            Some((pause, _)) => (pause * 2).min(PAUSE_MAX),
            // What the server says itself needs no second word.
            None if trouble == Trouble::Starting || self.failures >= FAILURES_MAX => PAUSE,
            None => return,
        };
        self.open = Some((pause, now + pause.mul_f64(jitter)));
    }

    fn next_probe(&self) -> Option<Instant> {
        self.open.map(|(_, next)| next)
    }
}

/// One server's breaker, for all tenants and workers.
pub(crate) struct Breaker {
    server: ServerName,
    health: Mutex<Health>,
    /// Told when it closes.
    closed: Notify,
    /// Who has it may probe.
    probe: Arc<Semaphore>,
    logins: Arc<Semaphore>,
    up: IntGauge,
}

/// That the breaker had nothing against a login; or that this login is the probe.
pub(crate) struct Pass(Option<OwnedSemaphorePermit>);

/// A login under way. Dropped, it tells nothing about the server.
pub(crate) struct Attempt {
    breaker: Arc<Breaker>,
    pass: Pass,
    /// Held for its drop.
    _login: OwnedSemaphorePermit,
}

impl Breaker {
    fn new(server: ServerName, up: IntGauge) -> Self {
        up.set(1);
        Self {
            server,
            health: Mutex::default(),
            closed: Notify::new(),
            probe: Arc::new(Semaphore::new(1)),
            logins: Arc::new(Semaphore::new(LOGINS_MAX)),
            up,
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_probe(&self) -> Option<Instant> {
        self.health().next_probe()
    }

    /// What was wrong at the last login, if anything was.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        self.health().trouble
    }

    /// How long it does not answer by now, if it does not.
    pub(crate) fn down_for(&self) -> Option<Duration> {
        let health = self.health();
        health.since.filter(|_| health.trouble == Some(Trouble::Down)).map(|since| since.elapsed())
    }

    /// Waits until a login makes sense: the breaker is closed, or it is this one's turn to probe.
    pub(crate) async fn pass(self: &Arc<Self>) -> Pass {
        loop {
            let mut closed = pin!(self.closed.notified());
            closed.as_mut().enable();
            if self.next_probe().is_none() {
                return Pass(None);
            }
            tokio::select! {
                biased;
                () = closed => {}
                probe = self.turn_to_probe() => if probe.is_some() {
                    return Pass(probe);
                }
            }
        }
    }

    async fn turn_to_probe(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        let turn = self.probe.clone().acquire_owned().await.ok()?;
        loop {
            let next = self.next_probe()?;
            if next <= Instant::now() {
                return Some(turn);
            }
            tokio::time::sleep_until(next.into()).await;
        }
    }

    /// Waits for one of the few places to log in; nothing, if the breaker opened meanwhile.
    pub(crate) async fn begin(self: &Arc<Self>, pass: Pass) -> Option<Attempt> {
        let login = self.logins.clone().acquire_owned().await.ok()?;
        let may_go = pass.0.is_some() || self.next_probe().is_none();
        may_go.then(|| Attempt { breaker: self.clone(), pass, _login: login })
    }

    /// The probe that somebody should have made this long ago; none if there is none, or somebody makes it.
    fn forgotten(self: &Arc<Self>, overdue: Duration) -> Option<Attempt> {
        self.next_probe().filter(|next| next.elapsed() > overdue)?;
        let turn = self.probe.clone().try_acquire_owned().ok()?;
        let login = self.logins.clone().try_acquire_owned().ok()?;
        Some(Attempt { breaker: self.clone(), pass: Pass(Some(turn)), _login: login })
    }
}

impl Attempt {
    pub(crate) fn server(&self) -> &ServerName {
        &self.breaker.server
    }

    /// The server answered, whatever it said.
    pub(crate) fn answered(self) {
        let before = std::mem::take(&mut *self.breaker.health());
        if before.open.is_some() {
            tracing::info!(server = %self.breaker.server, "the server is back");
            self.breaker.up.set(1);
            self.breaker.closed.notify_waiters();
        }
    }

    /// The server did not answer, or is not ready; `why` is for the log.
    pub(crate) fn failed(self, trouble: Trouble, why: &str) {
        let jitter = 0.5 + rand::random::<f64>();
        let is_probe = self.pass.0.is_some();
        let mut health = self.breaker.health();
        let was_open = health.open.is_some();
        health.failed(trouble, is_probe, Instant::now(), jitter);
        let opened = !was_open && health.open.is_some();
        drop(health);
        if opened {
            tracing::warn!(server = %self.breaker.server, why, "the server takes no logins; its tenants' transactions wait");
            self.breaker.up.set(0);
        }
    }
}

/// The breakers of all servers.
#[derive(Default)]
pub(crate) struct Breakers(Mutex<HashMap<ServerName, Arc<Breaker>>>);

impl Breakers {
    /// The breaker of a server; `up` is where it shows its state.
    pub(crate) fn get(&self, server: &ServerName, up: &IntGauge) -> Arc<Breaker> {
        let mut breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || Arc::new(Breaker::new(server.clone(), up.clone()));
        breakers.entry(server.clone()).or_insert_with(made).clone()
    }

    /// Servers that take no logins just now, by name.
    pub(crate) fn open(&self) -> Vec<String> {
        let breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open = breakers.values().filter(|breaker| breaker.next_probe().is_some());
        let mut names: Vec<String> = open.map(|breaker| breaker.server.to_string()).collect();
        names.sort();
        names
    }

    /// Probes that nobody has made who should have, this long ago.
    pub(crate) fn forgotten(&self, overdue: Duration) -> Vec<Attempt> {
        let breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.values().filter_map(|breaker| breaker.forgotten(overdue)).collect()
    }

    /// Whether a server was tried and does not answer.
    pub(crate) fn is_down(&self, server: &ServerName) -> bool {
        let breakers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        breakers.get(server).is_some_and(|breaker| breaker.trouble() == Some(Trouble::Down))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_a_few_failures_and_probes_ever_more_seldom() {
        let mut health = Health::default();
        let now = Instant::now();
        for _ in 1..FAILURES_MAX {
            health.failed(Trouble::Down, false, now, 1.0);
            assert_eq!((health.next_probe(), health.trouble), (None, Some(Trouble::Down)));
        }
        health.failed(Trouble::Down, false, now, 1.0);
        assert_eq!(health.next_probe(), Some(now + PAUSE));
        health.failed(Trouble::Down, false, now, 1.0);
        assert_eq!(health.next_probe(), Some(now + PAUSE), "late news change nothing");
        for doubled in [2, 4, 8] {
            health.failed(Trouble::Down, true, now, 1.0);
            assert_eq!(health.next_probe(), Some(now + PAUSE * doubled));
        }
        for _ in 0..100 {
            health.failed(Trouble::Down, true, now, 1.5);
        }
        assert_eq!(health.next_probe(), Some(now + PAUSE_MAX.mul_f64(1.5)));
    }

    #[test]
    fn a_server_that_says_that_it_starts_is_believed_at_once() {
        let mut health = Health::default();
        health.failed(Trouble::Starting, false, Instant::now(), 1.0);
        assert!(health.next_probe().is_some());
    }

    #[tokio::test]
    async fn one_probes_for_all_and_all_go_on_when_it_is_answered() {
        let up = IntGauge::new("up", "up").unwrap();
        let breaker = Arc::new(Breaker::new(ServerName::new("a").unwrap(), up.clone()));
        for _ in 0..FAILURES_MAX {
            let pass = breaker.pass().await;
            breaker.begin(pass).await.unwrap().failed(Trouble::Down, "test");
        }
        assert_eq!(up.get(), 0);
        let probe = breaker.pass().await;
        let mut other = pin!(breaker.pass());
        let soon = Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, &mut other).await.is_err(), "one at a time");
        breaker.begin(probe).await.unwrap().answered();
        assert!(other.await.0.is_none());
        assert_eq!((up.get(), breaker.trouble()), (1, None));
    }
}
