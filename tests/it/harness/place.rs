//! A directory for a fleet, and the processes that work on it. Both are gone when it is dropped, or when we are told to
//! end; and should we be killed, the kernel tells the fleets.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Pid, Signal, kill_process};

use super::lock;
use super::wait::until_blocking;

/// Lines of each log that a failed test shows.
const TAIL_LINES: usize = 30;

/// Memory that all fleets of a run have enough with, and as much again for everything else.
const ROOM_MIB: u64 = 12 << 10;

/// Every directory that was made, until it is removed.
static PLACES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Where directories are made: in memory, where a cluster's hundreds of small files cost less, if that has room for
/// all fleets of a run; where `TMPDIR` says; else where temporary files go.
fn home() -> PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let memory = Path::new("/dev/shm");
        let has_room = || {
            let free_kib = fs::read_to_string("/proc/meminfo").ok()?;
            let free_kib = free_kib.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
            let free_kib: u64 = free_kib.trim().strip_suffix(" kB")?.parse().ok()?;
            let files = rustix::fs::statvfs(memory).ok()?;
            Some(free_kib >> 10 >= ROOM_MIB && (files.f_bavail * files.f_frsize) >> 20 >= ROOM_MIB)
        };
        match has_room() {
            Some(true) if std::env::var_os("TMPDIR").is_none() => memory.into(),
            _ => std::env::temp_dir(),
        }
    })
    .clone()
}

/// A directory that others may enter, as the user that runs Postgres must.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn make() -> Result<Self, String> {
        // Nothing new is made while somebody cleans up for good.
        let mut places = lock(&PLACES);
        let made = || {
            let path = tempfile::Builder::new().prefix("tenantry-it-").tempdir_in(home())?.keep();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            path.canonicalize()
        };
        let path = made().map_err(|error| format!("a temporary directory: {error}"))?;
        places.push(path.clone());
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it now.
    pub(super) fn remove(&self) {
        clear(&self.0);
        lock(&PLACES).retain(|place| *place != self.0);
    }
}

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if lock(&PLACES).contains(&self.0) {
            self.remove();
        }
    }
}

/// Ends what works on a directory, and removes it.
fn clear(path: &Path) {
    // Several looks: a supervisor that is killed late may have started one more.
    let ended = until_blocking("processes to end", || {
        let found = leftovers(path);
        for pid in found.keys() {
            let _ = kill_process(*pid, Signal::KILL);
        }
        found.is_empty().then_some(())
    });
    forget_segments(path);
    let removed = fs::remove_dir_all(path);
    if let (Err(error), _) | (_, Err(error)) = (ended, removed.map_err(|error| error.to_string())) {
        eprintln!("{}: {error}", path.display());
    }
}

/// Removes the shared memory of servers that were killed: the next start would, and there is none. Its identifier is the
/// second word of line 7 of `postmaster.pid`.
fn forget_segments(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let Ok(text) = fs::read_to_string(entry.path().join("data/postmaster.pid")) else { continue };
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            let _ = Command::new("ipcrm").args(["--shmem-id", id]).status();
        }
    }
}

/// Processes that work in a directory or have it on their command line.
pub(crate) fn leftovers(path: &Path) -> HashMap<Pid, String> {
    let own = std::process::id().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let found = processes.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| *name != own)?;
        let pid = Pid::from_raw(name.parse().ok()?)?;
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let works_there = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(path));
        (works_there || line.contains(path.to_str()?)).then_some((pid, line))
    });
    found.collect()
}

/// What is left of directories, and of processes on them.
pub(super) fn all_leftovers() -> Vec<String> {
    let describe = |place: &PathBuf| format!("{}: {:?}", place.display(), leftovers(place).into_values());
    lock(&PLACES).iter().map(describe).collect()
}

/// The ends of a fleet's logs.
pub(super) fn log_tails(path: &Path) -> String {
    let logs = fs::read_dir(path.join("log")).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut text = String::new();
    for log in logs.chain([path.join("dev.log")]) {
        let content = fs::read(&log).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().collect();
        text.push_str(&format!("--- {}\n", log.display()));
        for line in &lines[lines.len().saturating_sub(TAIL_LINES)..] {
            text.push_str(&format!("{line}\n"));
        }
    }
    text
}

/// A command to start, and where its child goes.
type Order = (Command, Sender<std::io::Result<Child>>);

/// Starts a program that ends when this process does, however it does.
pub(super) fn spawn_tied(program: &Path, prepare: impl FnOnce(&mut Command)) -> std::io::Result<Child> {
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    // The kernel ties a child to the thread that started it, and tests' threads end before the fleet does.
    let starter = STARTER.get_or_init(|| {
        let (orders, receiver) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    prepare(&mut command);
    let (answer, answered) = channel();
    lock(starter).send((command, answer)).map_err(std::io::Error::other)?;
    answered.recv().map_err(std::io::Error::other)?
}

/// Cleans up when somebody stops the tests.
pub(super) fn watch_signals() {
    std::thread::spawn(|| {
        super::block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            let places = lock(&PLACES);
            places.iter().for_each(|place| clear(place));
            std::process::exit(130);
        });
    });
}
