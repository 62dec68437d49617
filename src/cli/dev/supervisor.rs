//! Keeps the parts of a fleet running, and stops them in an orderly way.
//!
//! Each part is a process and a task that owns it: starts it, starts it again when it dies, with growing pauses, and
//! ends it when told. Children are in process groups of their own, so that Ctrl-C at the terminal reaches us alone and
//! the order of stopping is ours.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::host::Launch;

/// First pause before a part is started again.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A part that ran this long starts with the first pause again.
const STEADY: Duration = Duration::from_secs(3);
/// How long a signal is given when there is a hurry.
const HURRIED: Duration = Duration::from_secs(1);
/// How long a killed process may take to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Signals that end a part, each with how long it is given; SIGKILL comes after the last.
pub(crate) type Ending = &'static [(Signal, Duration)];

/// A router: drains, then ends without waiting for clients.
pub(crate) const ROUTER_ENDING: Ending =
    &[(Signal::TERM, Duration::from_secs(10)), (Signal::TERM, Duration::from_secs(2))];
/// A control plane: ends its workers between two steps.
pub(crate) const CONTROL_ENDING: Ending = &[(Signal::TERM, Duration::from_secs(10))];
/// A server: fast shutdown, then an immediate one, which costs a replay of its log at the next start.
pub(crate) const POSTGRES_ENDING: Ending =
    &[(Signal::INT, Duration::from_secs(30)), (Signal::QUIT, Duration::from_secs(5))];

/// What a part is and how it is started.
pub(crate) struct Spec {
    pub(crate) name: String,
    pub(crate) log: PathBuf,
    pub(crate) ending: Ending,
    pub(crate) launch: Box<dyn Fn() -> anyhow::Result<Launch> + Send + Sync>,
}

/// What a part is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum Order {
    Run,
    Stop,
    Hurry,
}

/// A part that is kept running.
pub(crate) struct Part {
    name: String,
    orders: watch::Sender<Order>,
    exits: watch::Receiver<u32>,
    task: JoinHandle<()>,
}

impl Part {
    /// Starts it.
    pub(crate) fn start(spec: Spec) -> Self {
        let (orders, heard) = watch::channel(Order::Run);
        let (count, exits) = watch::channel(0);
        let name = spec.name.clone();
        let task = tokio::spawn(keep_running(spec, heard, count));
        Self { name, orders, exits, task }
    }

    /// How often it exited although it was to run.
    pub(crate) fn exits(&self) -> u32 {
        *self.exits.borrow()
    }

    /// Ends it; sooner when `hurry` says so.
    pub(crate) async fn stop(mut self, hurry: &watch::Receiver<bool>) {
        let mut hurry = hurry.clone();
        self.orders.send_replace(Order::Stop);
        tokio::select! {
            _ = &mut self.task => return,
            Ok(_) = hurry.wait_for(|hurry| *hurry) => {}
        }
        self.orders.send_replace(Order::Hurry);
        if self.task.await.is_err() {
            eprintln!("{}: stopping it failed", self.name);
        }
    }
}

/// Ends several parts at once.
pub(crate) async fn stop_all(parts: Vec<Part>, hurry: &watch::Receiver<bool>) {
    let mut stopping = tokio::task::JoinSet::new();
    for part in parts {
        let hurry = hurry.clone();
        stopping.spawn(async move { part.stop(&hurry).await });
    }
    while stopping.join_next().await.is_some() {}
}

async fn keep_running(spec: Spec, mut orders: watch::Receiver<Order>, exits: watch::Sender<u32>) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let ended = match spawn(&spec) {
            Ok(mut child) => {
                let ended = tokio::select! {
                    status = child.wait() => Some(status),
                    _ = orders.wait_for(|order| *order >= Order::Stop) => None,
                };
                match ended {
                    None => return end(&spec, &mut child, &mut orders).await,
                    Some(Ok(status)) => status.to_string(),
                    Some(Err(error)) => error.to_string(),
                }
            }
            Err(error) => format!("{error:#}"),
        };
        if begun.elapsed() >= STEADY {
            pause = PAUSE_MIN;
        }
        exits.send_modify(|exits| *exits += 1);
        eprintln!(
            "{} ended ({ended}); starting it again in {pause:?}; its log: {}",
            spec.name,
            spec.log.display()
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = orders.wait_for(|order| *order >= Order::Stop) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn spawn(spec: &Spec) -> anyhow::Result<Child> {
    let mut launch = (spec.launch)()?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&spec.log)
        .with_context(|| format!("opening {}", spec.log.display()))?;
    launch
        .command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", spec.name))
}

async fn end(spec: &Spec, child: &mut Child, orders: &mut watch::Receiver<Order>) {
    for (signal, patience) in spec.ending {
        send(child, *signal);
        tokio::select! {
            _ = child.wait() => return,
            () = tokio::time::sleep(*patience) => {}
            () = hurried(orders) => {}
        }
    }
    eprintln!("{} does not stop; killing it", spec.name);
    send(child, Signal::KILL);
    let _ = tokio::time::timeout(KILL_TIMEOUT, child.wait()).await;
}

/// Resolves a little while after the order to hurry came.
async fn hurried(orders: &mut watch::Receiver<Order>) {
    if orders.wait_for(|order| *order == Order::Hurry).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(HURRIED).await;
}

fn send(child: &Child, signal: Signal) {
    // No id: it has been waited for, and there is nothing left to signal.
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}
