//! Postgres's own programs, for what only they know: a schema as SQL.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use catalog::tls::TlsOptions;
use futures_util::{Stream, TryStreamExt as _};
use shard_map::{MasterKey, Server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::stream;
use super::throttle::Throttle;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::{CONTROL_ROLE, Connection};

/// How long one run may take; a build of large indexes takes hours.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(48 * 3600);
/// Bytes that are taken from a program's output at once.
const PIECE_BYTES: usize = 64 << 10;
/// How much of a program's complaint is kept.
const COMPLAINT_LINES: usize = 3;

/// The version from which on `pg_restore` can't work for an older server.
pub(crate) const POSTGRES_17: i32 = 17;

/// Where Debian puts each major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// What takes a program's output, piece by piece.
pub(crate) trait Sink: Send {
    /// Takes a piece; returns when it has room for another one.
    fn take(&mut self, piece: &[u8]) -> impl Future<Output = Result<()>> + Send;
}

/// Runs Postgres programs against a server, as the control plane's role.
pub(crate) struct Programs<'a> {
    bin: Option<PathBuf>,
    pub(crate) key: &'a MasterKey,
    pub(crate) tls: &'a TlsOptions,
}

impl<'a> Programs<'a> {
    /// Those with which to work for the server that a session is on, as source.
    pub(crate) async fn for_server(context: &'a Context, connection: &Connection) -> Result<Self> {
        Ok(Self::for_major(context, stream::major(connection).await?))
    }

    /// Those with which to work for servers of a major version.
    pub(crate) fn for_major(context: &'a Context, major: i32) -> Self {
        let bin = context.config.pg_bin.clone().or_else(|| installed_for(major));
        Self { bin, key: &context.key, tls: &context.connector.tls }
    }

    /// The major version of one of them.
    pub(crate) async fn major(&self, program: &str) -> Result<i32> {
        let said = self.run_local(program, &["--version"]).await?;
        major_of(&said).ok_or_else(|| Error::Program(format!("{program} --version said {:?}", said.trim())))
    }

    /// Runs one to its end. Killed when dropped.
    pub(crate) async fn run(
        &self,
        program: &str,
        server: &Server,
        database: &str,
        args: &[&str],
    ) -> Result<String> {
        self.run_as(None, (program, server, database), args).await
    }

    /// The same as a role of this name and password, if one is given.
    pub(crate) async fn run_as(
        &self,
        login: Option<(String, String)>,
        (program, server, database): (&str, &Server, &str),
        args: &[&str],
    ) -> Result<String> {
        let login = login.unwrap_or_else(|| self.control(server));
        let (path, command) = self.command(program, login, (server, database), args);
        self.finish(&path, command).await
    }

    /// Runs one to its end, and hands on what it prints, no faster than the throttle allows. Killed when dropped.
    pub(crate) async fn run_into(
        &self,
        program: &str,
        (server, database): (&Server, &str),
        args: &[&str],
        (sink, throttle): (&mut impl Sink, &Throttle),
    ) -> Result<()> {
        let (path, mut command) = self.command(program, self.control(server), (server, database), args);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| not_started(&path, &error))?;
        let Some(mut stdout) = child.stdout.take() else {
            return Err(Error::Program(format!("{}: it has no output", path.display())));
        };
        let io = |source| Error::Io { what: format!("reading what {program} gives"), source };
        let written = async {
            let mut piece = vec![0; PIECE_BYTES];
            loop {
                let length = stdout.read(&mut piece).await.map_err(io)?;
                if length == 0 {
                    return Ok(());
                }
                throttle.take(length as u64).await;
                sink.take(&piece[..length]).await?;
            }
        };
        let all = async { tokio::try_join!(written, async { child.wait_with_output().await.map_err(io) }) };
        let (_, output) = tokio::time::timeout(PROGRAM_TIMEOUT, all).await.map_err(|_| too_long(&path))??;
        outcome(&path, &output).map(drop)
    }

    fn control(&self, server: &Server) -> (String, String) {
        (CONTROL_ROLE.to_owned(), self.key.control_password(&server.name))
    }

    fn command(
        &self,
        program: &str,
        (role, password): (String, String),
        (server, database): (&Server, &str),
        args: &[&str],
    ) -> (PathBuf, Command) {
        let path = self.find(program);
        let mut command = Command::new(&path);
        command
            .args(["--host", &server.host, "--port", &server.port.to_string(), "--username", &role])
            .args(["--no-password", "--dbname", database])
            .args(args)
            .env("PGPASSWORD", password)
            .env("PGAPPNAME", "tenantry control")
            .env(
                "PGOPTIONS",
                // Hundreds of indexes are as many commits: who restores sees to it that the last is on disk.
                "-c statement_timeout=0 -c lock_timeout=10s -c idle_in_transaction_session_timeout=0 \
                 -c synchronous_commit=off",
            )
            .env("PGCONNECT_TIMEOUT", "5")
            .envs(self.tls_variables())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        (path, command)
    }

    /// How libpq is told of TLS.
    fn tls_variables(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        let TlsOptions { mode, ca_file, cert_file, key_file, .. } = self.tls;
        let files = [("PGSSLROOTCERT", ca_file), ("PGSSLCERT", cert_file), ("PGSSLKEY", key_file)];
        let files = files.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?.as_os_str())));
        std::iter::once(("PGSSLMODE", OsStr::new(mode.as_str()))).chain(files)
    }

    /// Runs one that needs no server.
    pub(crate) async fn run_local(&self, program: &str, args: &[&str]) -> Result<String> {
        let path = self.find(program);
        let mut command = Command::new(&path);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        self.finish(&path, command).await
    }

    /// Runs one that needs no server, and feeds it until it has what it wants.
    pub(crate) async fn run_fed(
        &self,
        program: &str,
        args: &[&str],
        food: impl Stream<Item = Result<Bytes>>,
    ) -> Result<String> {
        let path = self.find(program);
        let mut command = Command::new(&path);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| not_started(&path, &error))?;
        let Some(mut stdin) = child.stdin.take() else {
            return Err(Error::Program(format!("{}: it has no input", path.display())));
        };
        let fed = async {
            tokio::pin!(food);
            while let Some(piece) = food.try_next().await? {
                if stdin.write_all(&piece).await.is_err() {
                    break;
                }
            }
            drop(stdin);
            Ok(())
        };
        let io = |source| Error::Io { what: format!("reading what {program} gives"), source };
        let all = async { tokio::try_join!(fed, async { child.wait_with_output().await.map_err(io) }) };
        let (_, output) = tokio::time::timeout(PROGRAM_TIMEOUT, all).await.map_err(|_| too_long(&path))??;
        outcome(&path, &output)
    }

    async fn finish(&self, path: &Path, mut command: Command) -> Result<String> {
        let output = tokio::time::timeout(PROGRAM_TIMEOUT, command.output())
            .await
            .map_err(|_| too_long(path))?
            .map_err(|error| not_started(path, &error))?;
        outcome(path, &output)
    }

    fn find(&self, program: &str) -> PathBuf {
        self.bin.as_ref().map_or_else(|| PathBuf::from(program), |bin| bin.join(program))
    }
}

fn not_started(path: &Path, error: &std::io::Error) -> Error {
    let path = path.display();
    Error::Program(format!("{path}: {error}; set pg_bin to the directory of Postgres's programs"))
}

fn too_long(path: &Path) -> Error {
    Error::Timeout(format!("{} did not end within program_timeout", path.display()))
}

/// What a program printed, or the beginning of what it complained of.
fn outcome(path: &Path, output: &Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = complaint.lines().take(COMPLAINT_LINES).flat_map(str::split_whitespace).collect();
    Err(Error::Program(format!("{}: {}", path.display(), lines.join(" "))))
}

/// The programs that Debian's packages installed and that are best for a server; without any, whatever PATH has counts.
fn installed_for(major: i32) -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_ROOT).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: i32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        bin.join("pg_dump").exists().then_some((version, bin))
    });
    best_for(major, versions.collect())
}

/// The oldest that can dump from a server of this version: what newer ones write, the target may not know. Else the newest.
fn best_for(major: i32, mut versions: Vec<(i32, PathBuf)>) -> Option<PathBuf> {
    versions.sort_unstable();
    let able = versions.iter().position(|(version, _)| *version >= major);
    let best = able.or_else(|| versions.len().checked_sub(1))?;
    Some(versions.swap_remove(best).1)
}

/// The major version of a program of Postgres, by what it says itself: `pg_dump (PostgreSQL) 15.14 (Debian …)` is of 15, and
/// `postgres (PostgreSQL) 18beta1` of 18.
#[must_use]
pub fn major_of(version: &str) -> Option<i32> {
    let number = version.split_once(") ")?.1;
    let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_no_newer_than_they_must_be() {
        let best = |major, versions: &[i32]| {
            let versions =
                versions.iter().map(|version| (*version, PathBuf::from(version.to_string()))).collect();
            best_for(major, versions).map(|bin| bin.to_string_lossy().into_owned())
        };
        assert_eq!(best(15, &[18, 15, 17]).as_deref(), Some("15"));
        assert_eq!(best(16, &[18, 15, 17]).as_deref(), Some("17"));
        assert_eq!(best(16, &[15, 14]).as_deref(), Some("15"), "preflight says that it is too old");
        assert_eq!(best(16, &[]), None);
    }

    #[test]
    fn their_versions_are_read() {
        assert_eq!(major_of("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(major_of("pg_restore (PostgreSQL) 18beta1\n"), Some(18));
        for text in ["something else", "postgres (EnterpriseDB) x", ""] {
            assert_eq!(major_of(text), None, "{text}");
        }
    }
}
