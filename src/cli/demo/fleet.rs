//! The demo's own fleet: a `tenantry dev` as a child, on free ports.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio_postgres::NoTls;

use crate::cli::api::Api;
use crate::cli::dev::{env_file, own_program, ports};
use crate::cli::failure::Failure;

/// How long the fleet may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(180);
/// How long it may take to stop; beyond that it is killed, and its parts with it.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client's login may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Router, its metrics, API, catalog and three servers.
const PORTS: u16 = 7;
const SERVERS: u16 = 3;

/// Where the fleet lives.
pub(crate) struct Home {
    path: PathBuf,
    temporary: bool,
}

impl Home {
    pub(crate) fn new(dir: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(path) = dir {
            return Ok(Self { path, temporary: false });
        }
        let path = std::env::temp_dir().join(format!("tenantry-demo-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self { path, temporary: true })
    }

    /// Removes a temporary directory; says so when that fails.
    pub(crate) fn remove(self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("{} could not be removed: {error}", self.path.display());
        }
    }
}

/// The running fleet.
pub(crate) struct Fleet {
    child: Child,
    stdout: Option<ChildStdout>,
    env: PathBuf,
    /// What `dev` said went wrong.
    said: Arc<Mutex<Vec<String>>>,
}

/// How the fleet is reached.
pub(crate) struct Site {
    pub(crate) api: Api,
    env: env_file::Variables,
}

impl Fleet {
    /// Starts it; [`Fleet::ready`] waits until it serves.
    pub(crate) fn start(home: &Home, pg_bin: Option<&Path>) -> anyhow::Result<Self> {
        let first = ports::free_row(PORTS).ok_or_else(|| Failure::failed("no free ports were found"))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(own_program()).arg("dev");
        command.arg("--dir").arg(&home.path).args(["--servers", &SERVERS.to_string()]);
        for (flag, port) in
            [("--router-port", 0), ("--metrics-port", 1), ("--api-port", 2), ("--base-port", 3)]
        {
            command.args([flag, &(first + port).to_string()]);
        }
        if let Some(bin) = pg_bin {
            command.arg("--pg-bin").arg(bin);
        }
        // A group of its own: Ctrl-C reaches us alone, and we stop it when we are done.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Failure::failed(format!("setpriv can't be started: {error}"))
                .hint("install the package util-linux")
        })?;
        let said = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let said = said.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Ok(mut said) = said.lock() {
                        said.push(line);
                    }
                }
            });
        }
        let stdout = child.stdout.take();
        Ok(Self { child, stdout, env: home.path.join("env"), said })
    }

    /// Waits until it serves.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Site> {
        let stdout = self.stdout.take().ok_or_else(|| anyhow::anyhow!("the fleet was waited for already"))?;
        let mut lines = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(START_TIMEOUT, lines.next_line())
            .await
            .map_err(|_| Failure::failed(format!("the fleet is not ready after {START_TIMEOUT:?}")))??;
        if line.as_deref() != Some("ready") {
            // Its last lines are on their way.
            let _ = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
            return Err(self.why().into());
        }
        let env = env_file::read(&self.env)?;
        let mut site = Site { api: Api::at("http://127.0.0.1:1", None)?, env };
        site.api = Api::at(site.var("TENANTRY_API")?, Some(site.var("TENANTRY_TOKEN")?.to_owned()))?;
        Ok(site)
    }

    /// What `dev` said when it failed.
    fn why(&self) -> Failure {
        let said = self.said.lock().map(|said| said.clone()).unwrap_or_default();
        let line =
            |prefix: &str| said.iter().rev().find_map(|line| line.strip_prefix(prefix)).map(str::to_owned);
        let message = line("error: ").unwrap_or_else(|| "it ended without a word".to_owned());
        let failure = Failure::failed(format!("the fleet does not start: {message}"));
        match line("hint: ") {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Stops it, in order.
    pub(crate) async fn stop(mut self) {
        for (signal, patience) in [(Signal::TERM, STOP_TIMEOUT), (Signal::KILL, STOP_TIMEOUT)] {
            let pid = self.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
            let Some(pid) = pid else { return };
            let _ = kill_process(pid, signal);
            if tokio::time::timeout(patience, self.child.wait()).await.is_ok() {
                return;
            }
        }
    }
}

impl Site {
    fn var(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.env.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the fleet's env has no {name}"))
    }

    /// A tenant's database, through the router.
    pub(crate) async fn through_router(&self, tenant: &str) -> anyhow::Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config
            .host(self.var("TENANTRY_ROUTER_HOST")?)
            .port(self.var("TENANTRY_ROUTER_PORT")?.parse()?)
            .user(self.var("TENANTRY_USER")?)
            .password(self.var("TENANTRY_PASSWORD")?)
            .dbname(tenant);
        connect(config).await
    }

    /// A database of a server, as its superuser, past the router.
    pub(crate) async fn on_server(
        &self,
        server: &str,
        database: &str,
    ) -> anyhow::Result<tokio_postgres::Client> {
        let number = (1..=SERVERS)
            .find(|i| self.var(&format!("TENANTRY_SERVER_{i}")).is_ok_and(|name| name == server));
        let number = number.with_context(|| format!("the fleet's env has no server {server}"))?;
        let mut config: tokio_postgres::Config =
            self.var(&format!("TENANTRY_SERVER_{number}_URL"))?.parse()?;
        config.dbname(database);
        connect(config).await
    }
}

async fn connect(mut config: tokio_postgres::Config) -> anyhow::Result<tokio_postgres::Client> {
    config.application_name("tenantry demo").connect_timeout(CONNECT_TIMEOUT);
    let attempt = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(NoTls));
    let (client, connection) = attempt.await.context("no answer to a login in time")??;
    // Ends when the client is dropped.
    tokio::spawn(connection);
    Ok(client)
}
