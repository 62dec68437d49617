//! One Postgres server of a fleet: made once, then started as it is.
//!
//! It listens on the loopback address only and has no Unix socket: everything in a fleet connects by host and port, and
//! a socket's path would have to be short and reachable. `fsync` stays on: what is tried here should behave as it will.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio_postgres::NoTls;

use super::host::{Host, Launch};
use super::layout::write_private;
use super::supervisor::Part;
use crate::cli::failure::Failure;

/// How long making a cluster may take.
const INITDB_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may take until it answers; after a crash it replays its log first.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(50);
/// Exits during start-up after which it is given up. Not the first: the children of a killed server may still hold its
/// shared memory, and the next attempt finds it free.
const START_EXITS_MAX: u32 = 3;
/// Connections beyond those that routers may open: the control plane, moves and people.
const CONNECTIONS_RESERVE: u32 = 40;

/// One server.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    /// Its name in the fleet, and of its directory.
    pub(crate) name: String,
    /// The directory around its data.
    pub(crate) home: PathBuf,
    /// Where it listens.
    pub(crate) port: u16,
    /// Connections that routers may open.
    pub(crate) max_connections: u32,
    /// The superuser's password.
    pub(crate) password: String,
    /// Where it logs to.
    pub(crate) log: PathBuf,
}

impl Instance {
    /// The superuser's URL of one of its databases.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://postgres:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// Where its data is.
    pub(crate) fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Makes the cluster unless it is there, and writes its settings.
    pub(crate) async fn prepare(&self, host: &Host) -> anyhow::Result<()> {
        if !self.data().exists() {
            self.initdb(host).await.with_context(|| format!("making the cluster of {}", self.name))?;
        }
        let version = fs::read_to_string(self.data().join("PG_VERSION"))
            .with_context(|| format!("reading the version of {}", self.data().display()))?;
        if version.trim() != host.major.to_string() {
            let message = format!("{} was made by Postgres {}", self.data().display(), version.trim());
            return Err(Failure::failed(format!("{message}, the programs are of version {}", host.major))
                .hint(format!(
                    "name the folder of the right programs with --pg-bin or --server-pg-bin {}=DIR, or start with a new --dir",
                    self.name
                ))
                .into());
        }
        let settings = self.data().join("tenantry.conf");
        write_private(&settings, &self.settings())?;
        host.give(&settings)
    }

    async fn initdb(&self, host: &Host) -> anyhow::Result<()> {
        if !self.home.exists() {
            fs::DirBuilder::new().mode(0o700).create(&self.home)?;
            host.give(&self.home)?;
        }
        // Made aside and renamed, so that a cluster that is there is a whole one.
        let aside = self.home.join("data.new");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        let password = self.home.join("password.new");
        write_private(&password, &self.password)?;
        host.give(&password)?;
        let launch = host.postgres("initdb", &self.home, |home| {
            [
                &format!("--pgdata={home}/data.new"),
                &format!("--pwfile={home}/password.new"),
                "--username=postgres",
                "--auth=scram-sha-256",
                "--locale=C.UTF-8",
                "--encoding=UTF8",
                // Quicker by a second. What a loss of power within the first seconds leaves is thrown away with DIR.
                "--no-sync",
            ]
            .map(ToString::to_string)
            .to_vec()
        })?;
        let outcome = run(launch, INITDB_TIMEOUT).await;
        fs::remove_file(&password)?;
        outcome?;
        let conf = aside.join("postgresql.conf");
        let text = fs::read_to_string(&conf)? + "\ninclude = 'tenantry.conf'\n";
        fs::write(&conf, text)?;
        fs::rename(&aside, self.data())?;
        Ok(())
    }

    fn settings(&self) -> String {
        format!(
            "# Written by `tenantry dev` at each start. ALTER SYSTEM overrides it.\n\
             cluster_name = '{name}'\n\
             listen_addresses = '127.0.0.1'\n\
             port = {port}\n\
             unix_socket_directories = ''\n\
             max_connections = {max_connections}\n\
             shared_buffers = '32MB'\n\
             # Files of its own directory: what a killed server leaves behind goes with that.\n\
             dynamic_shared_memory_type = mmap\n\
             max_wal_size = '512MB'\n\
             # Each move takes a slot, a sender and a worker or two; so does its way back.\n\
             wal_level = logical\n\
             max_replication_slots = 24\n\
             max_wal_senders = 24\n\
             max_logical_replication_workers = 24\n\
             max_worker_processes = 40\n\
             # Before 16 a subscription that is disabled and enabled waits for so long.\n\
             wal_retrieve_retry_interval = '500ms'\n\
             log_line_prefix = '%m [%p] %q%u@%d '\n\
             log_checkpoints = off\n",
            name = self.name,
            port = self.port,
            max_connections = self.max_connections + CONNECTIONS_RESERVE,
        )
    }

    /// The server process.
    pub(crate) fn launch(&self, host: &Host) -> anyhow::Result<Launch> {
        host.postgres("postgres", &self.home, |home| vec!["-D".to_owned(), format!("{home}/data")])
    }

    /// Waits until it answers.
    pub(crate) async fn wait_ready(&self, part: &Part) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let Err(why) = self.connect("postgres").await else { return Ok(()) };
            if part.exits() >= START_EXITS_MAX || begun.elapsed() > START_TIMEOUT {
                let last = last_line(&self.log).unwrap_or_else(|| format!("{why:#}"));
                return Err(Failure::failed(format!("{} does not start: {last}", self.name))
                    .hint(format!("its log is {}", self.log.display()))
                    .into());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A connection as the superuser.
    pub(crate) async fn connect(&self, database: &str) -> anyhow::Result<tokio_postgres::Client> {
        connect(&self.url(database)).await
    }
}

/// A connection to this URL, of our own doing and bounded in time.
pub(crate) async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let mut config: tokio_postgres::Config = url.parse()?;
    config.connect_timeout(CONNECT_TIMEOUT).application_name("tenantry dev");
    let attempt = tokio::time::timeout(2 * CONNECT_TIMEOUT, config.connect(NoTls));
    let (client, connection) = attempt.await.context("no answer in time")??;
    // Ends when the client is dropped.
    tokio::spawn(connection);
    Ok(client)
}

/// Runs a program to its end; its last words are the error.
async fn run(mut launch: Launch, limit: Duration) -> anyhow::Result<()> {
    launch.command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, launch.command.output())
        .await
        .with_context(|| format!("not done within {limit:?}"))??;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> =
        text.lines().filter(|line| line.contains("error:") || line.contains("FATAL:")).collect();
    let said = if lines.is_empty() { text.trim().to_owned() } else { lines.join("; ") };
    Err(anyhow::anyhow!("{}: {said}", output.status))
}

/// The last line of a log that says what went wrong.
pub(crate) fn last_line(log: &Path) -> Option<String> {
    let bytes = fs::read(log).ok()?;
    let tail = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(16 << 10)..]).into_owned();
    let told = |line: &&str| line.contains("FATAL") || line.contains("ERROR") || line.contains("error:");
    tail.lines().rev().find(told).or_else(|| tail.lines().last()).map(|line| line.trim().to_owned())
}
