//! Runs the tests: on the fleet that they share, on one of their own, or on none.
//!
//! However a test ends, its processes and files are gone afterwards; and the last test of all looks whether they are.

mod browser;
pub(crate) mod checker;
mod cli;
mod clusters;
mod deaths;
mod doubles;
mod fleet;
pub(crate) mod ledger;
mod metrics;
pub(crate) mod net;
mod place;
pub(crate) mod programs;
pub(crate) mod prometheus;
pub(crate) mod raw;
mod router;
pub(crate) mod runbook;
mod sql;
pub(crate) mod store;
pub(crate) mod tls;
mod wait;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use libtest_mimic::{Arguments, Failed, Trial};

pub(crate) use browser::Browser;
pub(crate) use cli::{Output, PROGRAM, command, tenantry};
pub(crate) use doubles::{HandControl, SecondControl};
pub(crate) use fleet::{Fleet, NEWER, signal};
pub(crate) use metrics::Metrics;
pub(crate) use place::{Place, leftovers};
pub(crate) use router::{Router, news};
pub(crate) use sql::{Sql, code, connect, connect_url, message};
pub(crate) use wait::{DEADLINE, until};

/// Tests at once. Most of their time is spent waiting for a server.
const THREADS: usize = 7;
/// Fleets beside the shared one at once.
const OWN_FLEETS_MAX: usize = 3;

/// A test, and what it needs.
pub(crate) struct Test {
    name: String,
    need: Need,
}

enum Need {
    Nothing(Box<dyn FnOnce() + Send>),
    Shared(Box<dyn FnOnce(&Fleet) + Send>),
    Own(StartFleet, Box<dyn FnOnce(&mut Fleet) + Send>),
}

type StartFleet = fn() -> Result<Fleet, String>;

impl Test {
    /// A test that starts by itself what it needs.
    pub(crate) fn plain(name: String, test: impl AsyncFnOnce() + Send + 'static) -> Self {
        Self { name, need: Need::Nothing(Box::new(move || block_on(test()))) }
    }

    /// A test on the fleet that all share.
    pub(crate) fn shared(name: String, test: impl AsyncFnOnce(&Fleet) + Send + 'static) -> Self {
        Self { name, need: Need::Shared(Box::new(move |fleet| block_on(test(fleet)))) }
    }

    /// A test that has a fleet to itself.
    pub(crate) fn own(name: String, test: impl AsyncFnOnce(&mut Fleet) + Send + 'static) -> Self {
        Self { name, need: Need::Own(Fleet::start, Box::new(move |fleet| block_on(test(fleet)))) }
    }

    /// A test that has a fleet to itself whose servers are of different versions of Postgres.
    pub(crate) fn versions(name: String, test: impl AsyncFnOnce(&mut Fleet) + Send + 'static) -> Self {
        Self { name, need: Need::Own(Fleet::start_versions, Box::new(move |fleet| block_on(test(fleet)))) }
    }
}

/// Lists a file's tests, each after what it needs: `plain`, `shared`, `own` or `versions`.
macro_rules! trials {
    ($($(#[$when:meta])? $need:ident $test:ident),* $(,)?) => {
        pub(crate) fn trials() -> Vec<$crate::harness::Test> {
            let area = module_path!().rsplit("::").next().unwrap_or_default();
            vec![$($(#[$when])? $crate::harness::Test::$need(format!("{area}::{}", stringify!($test)), $test)),*]
        }
    };
}
pub(crate) use trials;

fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    runtime.block_on(local.run_until(test));
}

/// Runs all that the command line selects.
pub(crate) fn run(areas: Vec<Vec<Test>>) -> ExitCode {
    place::watch_signals();
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let under_way = Arc::new(());
    let tests = spread(areas.into_iter().flatten().collect());
    let mut trials: Vec<Trial> = tests.into_iter().map(|test| trial(test, under_way.clone())).collect();
    trials.push(Trial::test("harness::nothing_is_left_behind", move || nothing_is_left_behind(&under_way)));
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The last test has done it, unless it was not selected.
    drop(stop_shared());
    clusters::remove();
    conclusion.exit_code()
}

/// Puts those with a fleet of their own between the others: as only a few of them run at once, a row of them would keep
/// threads waiting that others could use.
fn spread(tests: Vec<Test>) -> Vec<Test> {
    let (own, others): (Vec<_>, Vec<_>) =
        tests.into_iter().partition(|test| matches!(test.need, Need::Own(..)));
    let between = others.len() / own.len().max(1);
    let mut others = others.into_iter();
    let mut all = Vec::new();
    for test in own {
        all.push(test);
        all.extend(others.by_ref().take(between));
    }
    all.extend(others);
    all
}

fn trial(test: Test, under_way: Arc<()>) -> Trial {
    Trial::test(test.name.clone(), move || {
        let _under_way = under_way;
        // The queue of those with a fleet of their own is not their time.
        let _turn = matches!(test.need, Need::Own(..)).then(Turn::take);
        let _clock = Clock { name: test.name, begun: Instant::now() };
        match test.need {
            Need::Nothing(run) => run(),
            Need::Shared(run) => {
                let fleet = shared()?;
                with_logs(fleet, || run(fleet));
            }
            Need::Own(start, run) => {
                let mut fleet = start()?;
                let logs = fleet.place().clone();
                with_logs(&logs, || run(&mut fleet));
                fleet.stop()?;
            }
        }
        Ok(())
    })
}

/// Tells how long a test took, for whoever wants to know where the time goes.
struct Clock {
    name: String,
    begun: Instant,
}

impl Drop for Clock {
    fn drop(&mut self) {
        if std::env::var_os("TENANTRY_TEST_TIMES").is_some() {
            eprintln!("{:6.1} s  {}", self.begun.elapsed().as_secs_f64(), self.name);
        }
    }
}

/// A test that fails says what the fleet said meanwhile; and last, as that is long, once more why it failed.
fn with_logs(place: &impl AsRef<std::path::Path>, run: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("{}\nfailed: {}", place::log_tails(place.as_ref()), said(&*panic));
        resume_unwind(panic);
    }
}

/// What a panic says.
pub(crate) fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let said = panic.downcast_ref::<String>().map(String::as_str);
    said.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default()
}

static SHARED: OnceLock<Result<Mutex<Option<&'static Fleet>>, String>> = OnceLock::new();

/// The fleet that tests share, started when the first of them needs it.
fn shared() -> Result<&'static Fleet, Failed> {
    let started = SHARED.get_or_init(|| {
        Fleet::start().map(|fleet| Mutex::new(Some(&*Box::leak(Box::new(fleet))))).map_err(|e| e.to_string())
    });
    let started = started.as_ref().map_err(|why| Failed::from(format!("the shared fleet: {why}")))?;
    lock(started).ok_or_else(|| "the shared fleet was stopped".into())
}

fn stop_shared() -> Result<(), String> {
    let Some(Ok(shared)) = SHARED.get() else { return Ok(()) };
    lock(shared).take().map_or(Ok(()), Fleet::end)
}

/// Waits for all other tests; then looks whether stopping leaves a process or a file.
fn nothing_is_left_behind(under_way: &Arc<()>) -> Result<(), Failed> {
    while Arc::strong_count(under_way) > 1 {
        std::thread::sleep(wait::PAUSE);
    }
    stop_shared()?;
    clusters::remove();
    let left = place::all_leftovers();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:#?}").into()) }
}

/// One of the few turns for a fleet beside the shared one.
struct Turn;

static TURNS: (Mutex<usize>, Condvar) = (Mutex::new(OWN_FLEETS_MAX), Condvar::new());

impl Turn {
    fn take() -> Self {
        let (left, changed) = &TURNS;
        let mut left = lock(left);
        while *left == 0 {
            left = changed.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        *left -= 1;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&TURNS.0) += 1;
        TURNS.1.notify_one();
    }
}

/// A lock that a failed test may have held.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
