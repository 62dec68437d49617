//! What this machine offers a fleet: Postgres programs, a user to run them as, and a way to tie children to us.
//!
//! Postgres refuses to run as root, so root's fleet runs it as another user. That user may have no way to the fleet's
//! directory (below /root, or made by `mktemp -d`). Nobody's directory but our own is opened up for it: the server is
//! handed its directory as an open file, and told to find it in /proc/self/fd.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::cli::failure::Failure;

/// Oldest major version of Postgres that a fleet runs on.
const MAJOR_MIN: u32 = 15;
/// The programs that a fleet needs: servers, and what moves use.
const PROGRAMS: [&str; 4] = ["postgres", "initdb", "pg_dump", "pg_restore"];
/// Those that a single server needs.
const SERVER_PROGRAMS: [&str; 2] = ["postgres", "initdb"];
/// Handed-down directories get numbers from here on, clear of those that wrapper scripts use.
const HANDED_DOWN_MIN: i32 = 20;

/// What this machine offers.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    /// Folder of the Postgres programs.
    pub(crate) bin: PathBuf,
    /// Their major version.
    pub(crate) major: u32,
    /// Who runs Postgres; `None` for the current user.
    pub(crate) account: Option<Account>,
    /// Servers that have programs of their own: their folder and major version.
    of_servers: BTreeMap<String, (PathBuf, u32)>,
}

/// An unprivileged user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A child that is about to be started, with what must stay open until it is.
pub(crate) struct Launch {
    pub(crate) command: tokio::process::Command,
    /// The directory that is handed down.
    _directory: Option<OwnedFd>,
}

impl Launch {
    /// A launch that hands nothing down.
    pub(crate) fn plain(command: tokio::process::Command) -> Self {
        Self { command, _directory: None }
    }
}

impl Host {
    /// Looks around.
    pub(crate) fn find(pg_bin: Option<&Path>, of_servers: &[(String, PathBuf)]) -> anyhow::Result<Self> {
        match Command::new("setpriv").arg("--version").stdin(Stdio::null()).output() {
            Ok(output) if output.status.success() => {}
            _ => {
                return Err(Failure::failed("setpriv is missing, or not the one of util-linux")
                    .hint("install the package util-linux")
                    .into());
            }
        }
        let (bin, major) = find_programs(pg_bin)?;
        let account = rustix::process::geteuid().is_root().then(find_account).transpose()?;
        let named = |(server, bin): &(String, PathBuf)| {
            Ok((server.clone(), named_programs("--server-pg-bin", bin, &SERVER_PROGRAMS)?))
        };
        let of_servers = of_servers.iter().map(named).collect::<anyhow::Result<_>>()?;
        Ok(Self { bin, major, account, of_servers })
    }

    /// The same with the programs of one server.
    pub(crate) fn of_server(&self, name: &str) -> Self {
        let mut host = self.clone();
        if let Some((bin, major)) = self.of_servers.get(name) {
            (host.bin, host.major) = (bin.clone(), *major);
        }
        host
    }

    /// Our own binary, in another role. It is killed when we are.
    pub(crate) fn own(&self, args: &[&str]) -> Launch {
        let mut command = tokio::process::Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(own_program()).args(args);
        // What configures our children is in their files; the caller's variables must not reach them.
        for (name, _) in std::env::vars_os() {
            let ours = |prefix: &str| name.to_str().is_some_and(|name| name.starts_with(prefix));
            if ours("TENANTRY_ROUTER_") || ours("TENANTRY_CONTROL_") || ours("PG") {
                command.env_remove(&name);
            }
        }
        Launch::plain(command)
    }

    /// A Postgres program, at work in `home`; `args` makes its arguments from the path by which it reaches that.
    /// A server shuts down when we die.
    pub(crate) fn postgres(
        &self,
        program: &str,
        home: &Path,
        args: impl FnOnce(&str) -> Vec<String>,
    ) -> anyhow::Result<Launch> {
        let mut command = tokio::process::Command::new("setpriv");
        command.args(["--pdeathsig", "INT"]);
        let (mut path, mut directory) = (home.to_string_lossy().into_owned(), None);
        if let Some(account) = &self.account {
            command.args([format!("--reuid={}", account.uid), format!("--regid={}", account.gid)]);
            command.arg("--clear-groups");
            if !account.reaches(home) {
                let open = hand_down(home).with_context(|| format!("opening {}", home.display()))?;
                path = format!("/proc/self/fd/{}", open.as_raw_fd());
                directory = Some(open);
            }
        }
        command.arg("--").arg(self.bin.join(program)).args(args(&path)).current_dir("/");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG") || name.starts_with("TENANTRY_")) {
                command.env_remove(&name);
            }
        }
        // A server that streams from another looks for certificates in its home: not in ours, which it may not read.
        command.env("HOME", &path);
        Ok(Launch { command, _directory: directory })
    }

    /// Makes the Postgres user the owner of a file or directory of ours.
    pub(crate) fn give(&self, path: &Path) -> anyhow::Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid))
            .with_context(|| format!("giving {} to Postgres's user", path.display()))
    }
}

impl Account {
    /// Whether it can follow this path. Access lists are not looked at: they could only turn a no into a yes.
    fn reaches(&self, path: &Path) -> bool {
        path.ancestors().all(|directory| {
            directory.metadata().is_ok_and(|meta| {
                let mode = meta.permissions().mode();
                let bit = match (meta.uid() == self.uid, meta.gid() == self.gid) {
                    (true, _) => 0o100,
                    (_, true) => 0o010,
                    _ => 0o001,
                };
                mode & bit != 0
            })
        })
    }
}

/// Our own binary: the one at its usual place, also when it was replaced there since we started; else, when there is none
/// any more, the one that runs.
pub(crate) fn own_program() -> PathBuf {
    let running = || PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    let Ok(path) = std::env::current_exe() else { return running() };
    // The kernel's word for a file that was replaced or removed.
    let place = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    [Some(path), place].into_iter().flatten().find(|path| path.is_file()).unwrap_or_else(running)
}

/// Opens a directory so that a child started next inherits it.
fn hand_down(home: &Path) -> std::io::Result<OwnedFd> {
    let open = rustix::io::fcntl_dupfd_cloexec(File::open(home)?, HANDED_DOWN_MIN)?;
    // No other thread starts programs, so nobody else inherits it.
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty())?;
    Ok(open)
}

/// `postgres` where there is one, as packages make it; else `nobody`.
fn find_account() -> anyhow::Result<Account> {
    let users = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
    ["postgres", "nobody"].iter().find_map(|name| account_of(&users, name)).ok_or_else(|| {
        Failure::failed("Postgres does not run as root, and there is no user postgres or nobody to run it as")
            .hint("make one: useradd --system postgres")
            .into()
    })
}

fn account_of(users: &str, name: &str) -> Option<Account> {
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (uid, gid) = (fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        (fields[0] == name && uid != 0).then_some(Account { uid, gid })
    })
}

fn find_programs(pg_bin: Option<&Path>) -> anyhow::Result<(PathBuf, u32)> {
    let named = pg_bin.map(|bin| ("--pg-bin", bin.to_owned())).or_else(|| {
        std::env::var_os("TENANTRY_PG_BIN").filter(|v| !v.is_empty()).map(|v| ("TENANTRY_PG_BIN", v.into()))
    });
    if let Some((place, bin)) = named {
        return named_programs(place, &bin, &PROGRAMS);
    }
    let mut last = "not found in /usr/lib/postgresql/*/bin nor in PATH".to_owned();
    for bin in usual_places() {
        match complete(&bin, &PROGRAMS) {
            Ok(major) => return Ok((bin, major)),
            Err(why) => last = format!("{}: {why}", bin.display()),
        }
    }
    Err(Failure::failed(format!("Postgres {MAJOR_MIN} or newer is missing ({last})"))
        .hint("install its server and client programs (Debian: apt install postgresql), or name their folder with --pg-bin")
        .into())
}

/// The folder that somebody named, and the major version of the programs in it.
fn named_programs(place: &str, bin: &Path, programs: &[&str]) -> anyhow::Result<(PathBuf, u32)> {
    let bin = std::path::absolute(bin)?;
    let major = complete(&bin, programs).map_err(|why| {
        Failure::failed(format!("{place} {}: {why}", bin.display()))
            .hint(format!("it must hold {} of version {MAJOR_MIN} or newer", programs.join(", ")))
    })?;
    Ok((bin, major))
}

/// Debian's folders, newest first, then those of the PATH.
fn usual_places() -> Vec<PathBuf> {
    let mut packaged: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    packaged.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // The server, not psql: Debian's psql on the PATH is a script, alone in its folder. Links are followed because
    // Postgres finds its own files next to its programs.
    let in_path = std::env::split_paths(&path)
        .filter_map(|folder| folder.join("postgres").canonicalize().ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    packaged.into_iter().map(|(_, bin)| bin).chain(in_path).collect()
}

/// The major version of the programs in a folder, or what is wrong with them.
fn complete(bin: &Path, programs: &[&str]) -> Result<u32, String> {
    for program in programs {
        let meta = bin.join(program).metadata().map_err(|error| match error.kind() {
            ErrorKind::NotFound => format!("no {program} there"),
            _ => format!("{program}: {error}"),
        })?;
        if meta.permissions().mode() & 0o111 == 0 {
            return Err(format!("{program} is not executable"));
        }
    }
    let output = Command::new(bin.join("postgres")).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("postgres: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let major = control::major_of(&text).and_then(|major| u32::try_from(major).ok());
    let major = major.ok_or_else(|| "postgres --version is not understood".to_owned())?;
    if major < MAJOR_MIN { Err(format!("Postgres {major} is too old")) } else { Ok(major) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_read_and_root_is_none() {
        let users =
            "root:x:0:0::/root:/bin/sh\npostgres:x:101:104:a,,,:/var:/bin/sh\nnobody:x:0:0::/:/bin/false\n";
        assert_eq!(account_of(users, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(account_of(users, "nobody"), None);
        assert_eq!(account_of(users, "absent"), None);
    }
}
