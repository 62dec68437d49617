//! A fleet: `tenantry dev` on a directory of its own.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Child;
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_postgres::{Client, Config};

use super::cli::{Output, PROGRAM, command, finish};
use super::metrics::Metrics;
use super::place::{Place, leftovers, spawn_tied};
use super::wait::until_blocking;
use super::{clusters, lock, sql, until};

/// Ports in a row that a fleet may have: router, API, router metrics, catalog, and the servers.
const PORTS: u16 = 8;
pub(crate) const SERVERS: usize = 3;
/// Starts that may find a port taken meanwhile by somebody else.
const STARTS_MAX: usize = 4;

/// Newer versions of Postgres, each on a server of its own in a fleet that has them: after the first, which has the usual one.
pub(crate) const NEWER: [(&str, &str); 3] = [("pg-2", "16"), ("pg-3", "17"), ("pg-4", "18")];

/// A fleet of three servers, two shared and one dedicated; or of four versions.
pub(crate) struct Fleet {
    place: Place,
    /// Programs of those servers that have others than the rest.
    programs: Vec<(String, PathBuf)>,
    dev: Mutex<Option<Child>>,
    variables: Vec<(String, String)>,
    ports: Ports,
}

impl Fleet {
    /// Starts one, and returns when it serves.
    pub(super) fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// One with a server for each of the [`NEWER`] versions.
    pub(super) fn start_versions() -> Result<Self, String> {
        let versions = versions()?;
        let programs =
            |(server, major): &(&str, &str)| ((*server).to_owned(), versions.join(major).join("bin"));
        Self::start_with(&NEWER.iter().map(programs).collect::<Vec<_>>())
    }

    fn start_with(programs: &[(String, PathBuf)]) -> Result<Self, String> {
        let mut last = String::new();
        for _ in 0..STARTS_MAX {
            let mut fleet = Self::unstarted(Place::make()?, programs)?;
            match fleet.serve() {
                Ok(()) => {
                    fleet.variables = fleet.read_env();
                    return Ok(fleet);
                }
                Err(why) if why.contains("is in use") => last = why,
                Err(why) => return Err(why),
            }
        }
        Err(last)
    }

    fn serve(&self) -> Result<(), String> {
        if self.programs.is_empty() {
            clusters::copy(self.path())?;
        }
        self.launch(&[])?;
        until_blocking("the fleet to serve", || self.started())?
    }

    fn unstarted(place: Place, programs: &[(String, PathBuf)]) -> Result<Self, String> {
        let (dev, variables, programs) = (Mutex::new(None), Vec::new(), programs.to_vec());
        Ok(Self { place, programs, dev, variables, ports: Ports::take()? })
    }

    /// One that was launched with more arguments, whatever comes of it.
    pub(super) fn launched(place: Place, more: &[&OsStr]) -> Result<Self, String> {
        let fleet = Self::unstarted(place, &[])?;
        fleet.launch(more)?;
        Ok(fleet)
    }

    fn launch(&self, more: &[&OsStr]) -> Result<(), String> {
        let path = self.place.path();
        let failed = |error: std::io::Error| format!("starting a fleet: {error}");
        let out = File::create(path.join("dev.out")).map_err(failed)?;
        let log = File::options().create(true).append(true).open(path.join("dev.log")).map_err(failed)?;
        let first = self.ports.0;
        let child = spawn_tied(PROGRAM.as_ref(), |dev| {
            dev.args(["dev", "--servers", &self.servers().to_string(), "--stock", "0", "--dir"]).arg(path);
            dev.args(more);
            for (server, bin) in &self.programs {
                dev.arg("--server-pg-bin").arg(format!("{server}={}", bin.display()));
            }
            let ports = ["--router-port", "--api-port", "--metrics-port", "--base-port"];
            for (flag, port) in ports.into_iter().zip(first..) {
                dev.args([flag, &port.to_string()]);
            }
            for (name, _) in std::env::vars_os() {
                if name.to_str().is_some_and(|n| n.starts_with("TENANTRY_") && n != "TENANTRY_PG_BIN") {
                    dev.env_remove(&name);
                }
            }
            dev.env("TENANTRY_FAILPOINT_FILE", path.join("failpoint"));
            dev.stdin(std::process::Stdio::null()).stdout(out).stderr(log);
        });
        *lock(&self.dev) = Some(child.map_err(failed)?);
        Ok(())
    }

    fn servers(&self) -> usize {
        if self.programs.is_empty() { SERVERS } else { 1 + self.programs.len() }
    }

    /// Whether it serves, or has given up.
    pub(super) fn started(&self) -> Option<Result<(), String>> {
        let text = |name: &str| std::fs::read_to_string(self.place.path().join(name)).unwrap_or_default();
        if text("dev.out") == "ready\n" {
            return Some(Ok(()));
        }
        let mut dev = lock(&self.dev);
        let status = dev.as_mut()?.try_wait().ok().flatten()?;
        Some(Err(format!("dev ended ({status}): {}{}", text("dev.out"), text("dev.log"))))
    }

    /// Removes the files of one that was killed.
    pub(super) fn remove(&self) {
        if self.path().exists() {
            self.place.remove();
        }
    }

    fn read_env(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.path().join("env")).unwrap();
        let pairs = text.lines().filter_map(|line| line.strip_prefix("export ")?.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect()
    }

    /// Stops it; fails when that leaves a process.
    pub(super) fn stop(self) -> Result<(), String> {
        self.end()
    }

    /// Stops it where it is; its files go when it is dropped.
    pub(super) fn end(&self) -> Result<(), String> {
        let Some(mut dev) = lock(&self.dev).take() else { return Ok(()) };
        signal(pid_of(&dev), Signal::TERM);
        let status = until_blocking("dev to end", || dev.try_wait().ok().flatten())?;
        let left = leftovers(self.path());
        if !status.success() || !left.is_empty() {
            return Err(format!("dev ended as {status} and left {left:?}"));
        }
        self.place.remove();
        Ok(())
    }

    /// Kills `dev`, and waits until nothing of the fleet runs any more.
    pub(crate) async fn kill(&self) {
        let mut dev = lock(&self.dev).take().expect("it runs");
        signal(pid_of(&dev), Signal::KILL);
        dev.wait().unwrap();
        until("what dev started to end with it", async || leftovers(self.path()).is_empty().then_some(()))
            .await;
    }

    /// Stops it as an operator does, and keeps its files.
    pub(crate) async fn stop_in_order(&self) {
        let mut dev = lock(&self.dev).take().expect("it runs");
        signal(pid_of(&dev), Signal::INT);
        let status = until("dev to end", async || dev.try_wait().unwrap()).await;
        assert!(status.success(), "{status}");
    }

    /// psql at a tenant, as the command line starts it.
    pub(crate) async fn psql(&self, tenant: &str, args: &[&str]) -> Output {
        let all = [&["psql", tenant, "--"], args].concat();
        finish(command(PROGRAM, &self.variables).args(all), None).await
    }

    /// Starts it again after [`Fleet::kill`], and returns when it serves.
    pub(crate) async fn start_again(&self) {
        self.launch(&[]).unwrap();
        until("the fleet to serve again", async || self.started()).await.unwrap();
        assert_eq!(self.read_env(), self.variables, "a fleet comes back as it was");
    }

    /// The process that keeps the parts running.
    pub(super) fn dev(&self) -> Pid {
        pid_of(lock(&self.dev).as_ref().expect("it runs"))
    }

    /// Lets `dev` start nothing again that ends, until what this returns is dropped.
    pub(crate) fn keep_parts_down(&self) -> PartsDown {
        signal(self.dev(), Signal::STOP);
        PartsDown(self.dev())
    }

    /// Its directory.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.place.path()
    }

    pub(super) fn place(&self) -> PathBuf {
        self.path().to_owned()
    }

    /// What `DIR/env` sets.
    pub(super) fn variables(&self) -> &[(String, String)] {
        &self.variables
    }

    /// A variable of `DIR/env`.
    #[track_caller]
    pub(crate) fn variable(&self, name: &str) -> &str {
        let found = self.variables.iter().find(|(known, _)| known == name);
        &found.unwrap_or_else(|| panic!("env has no {name}")).1
    }

    /// Calls an operator's command, for JSON.
    pub(crate) async fn cli(&self, args: &[&str]) -> Output {
        finish(command(PROGRAM, &self.variables).args(args).args(["-o", "json"]), None).await
    }

    /// The same, with text for its standard input.
    pub(crate) async fn cli_with_input(&self, args: &[&str], input: &str) -> Output {
        finish(command(PROGRAM, &self.variables).args(args).args(["-o", "json"]), Some(input)).await
    }

    /// The same, with other variables over the fleet's; an empty one is not set.
    pub(crate) async fn cli_in(&self, variables: &[(&str, &str)], args: &[&str]) -> Output {
        let mut command = command(PROGRAM, &self.variables);
        for (name, value) in variables {
            if value.is_empty() {
                command.env_remove(name);
            } else {
                command.env(name, value);
            }
        }
        finish(command.args(args).args(["-o", "json"]), None).await
    }

    /// Makes a tenant, and returns it as shown.
    pub(crate) async fn create(&self, tenant: &str, more: &[&str]) -> Value {
        let args = [&["tenant", "create", tenant, "--wait"], more].concat();
        self.cli(&args).await.ok()
    }

    /// A tenant as it is shown.
    pub(crate) async fn tenant(&self, tenant: &str) -> Value {
        self.cli(&["tenant", "show", tenant]).await.ok()
    }

    /// How to connect through the router as the user of all tenants.
    pub(crate) fn config(&self, tenant: &str) -> Config {
        self.config_as(self.variable("TENANTRY_USER"), self.variable("TENANTRY_PASSWORD"), tenant)
    }

    /// How to connect through the router.
    pub(crate) fn config_as(&self, user: &str, password: &str, tenant: &str) -> Config {
        let mut config = Config::new();
        config.host(self.variable("TENANTRY_ROUTER_HOST"));
        config.port(self.variable("TENANTRY_ROUTER_PORT").parse().unwrap());
        config.user(user).password(password).dbname(tenant);
        config
    }

    /// Connects through the router.
    pub(crate) async fn connect(&self, tenant: &str) -> Client {
        sql::connect(&self.config(tenant)).await.unwrap_or_else(|error| panic!("{tenant}: {error:?}"))
    }

    /// Makes a user with this access, and returns how to connect as it.
    pub(crate) async fn user(&self, name: &str, tenant: &str, more: &[&str]) -> Config {
        let selector = format!("id={tenant}");
        let args = [&["user", "create", name, "--tenants", &selector], more].concat();
        let password = self.cli(&args).await.ok()["password"].as_str().unwrap().to_owned();
        let config = self.config_as(name, &password, tenant);
        until("the router to hear of the user", async || sql::connect(&config).await.ok()).await;
        config
    }

    /// Connects to a database of a server, past the router, as its superuser.
    pub(crate) async fn direct(&self, server: &str, database: &str) -> Client {
        sql::connect_url(&self.server_url(server), database).await
    }

    /// The superuser's URL of a server.
    pub(crate) fn server_url(&self, server: &str) -> String {
        let index = (1..=self.servers()).find(|i| self.variable(&format!("TENANTRY_SERVER_{i}")) == server);
        self.variable(&format!("TENANTRY_SERVER_{}_URL", index.expect("a server of the fleet"))).to_owned()
    }

    /// The process of `router` or `control`, if it runs.
    pub(crate) fn process(&self, role: &str) -> Option<Pid> {
        let marker = format!("{role} --config {}", self.path().join(format!("{role}.toml")).display());
        let found = leftovers(self.path());
        // A child that is about to become it is not yet it.
        let is_it = |line: &str| line.contains(&marker) && line.starts_with(PROGRAM);
        found.into_iter().find(|(_, line)| is_it(line)).map(|(pid, _)| pid)
    }

    /// The main process of a Postgres server, `catalog` included.
    pub(crate) fn postmaster(&self, server: &str) -> Pid {
        self.try_postmaster(server).unwrap_or_else(|| panic!("{server} does not run"))
    }

    /// The same, of a server that may be down.
    pub(crate) fn try_postmaster(&self, server: &str) -> Option<Pid> {
        let file = self.path().join(server).join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).ok()?;
        Pid::from_raw(text.lines().next()?.parse().ok()?)
    }

    /// Stops a Postgres server with all its processes, as a machine that hangs; kills it; or lets it go on.
    pub(crate) fn freeze(&self, server: &str, how: Signal) {
        // First the one that starts the others.
        let mut told: HashSet<Pid> = self.try_postmaster(server).into_iter().collect();
        told.iter().for_each(|postmaster| signal(*postmaster, how));
        loop {
            let found = leftovers(&self.path().join(server)).into_keys();
            let fresh: Vec<Pid> = found.filter(|pid| told.insert(*pid)).collect();
            fresh.iter().for_each(|pid| signal(*pid, how));
            // What was started before the first one was told, while the others were looked for, is found at the next look.
            // One that goes on, or is up again after it was killed, starts others all the time.
            if fresh.is_empty() || how != Signal::STOP {
                return;
            }
        }
    }

    /// Kills `router` or `control`; `dev` starts it again.
    pub(crate) fn kill_process(&self, role: &str) {
        signal(self.process(role).unwrap_or_else(|| panic!("no {role}")), Signal::KILL);
    }

    pub(crate) async fn router_metrics(&self) -> Metrics {
        let port = self.variable("TENANTRY_ROUTER_METRICS_PORT");
        Metrics::read(&format!("http://127.0.0.1:{port}/metrics")).await
    }

    pub(crate) async fn control_metrics(&self) -> Metrics {
        Metrics::read(&format!("{}/metrics", self.variable("TENANTRY_API"))).await
    }
}

/// The folder that has a folder for each of the [`NEWER`] versions; fetched if it is not there.
fn versions() -> Result<PathBuf, String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/setup/postgres-versions");
    let output = std::process::Command::new(script).output().map_err(|error| format!("{script}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

impl AsRef<std::path::Path> for Fleet {
    fn as_ref(&self) -> &std::path::Path {
        self.path()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Err(why) = self.end() {
            eprintln!("{}: {why}", self.path().display());
        }
    }
}

pub(super) fn pid_of(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Sends a signal; to a process that is gone, none.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// While it is there, nothing of a fleet is started again.
pub(crate) struct PartsDown(Pid);

impl Drop for PartsDown {
    fn drop(&mut self) {
        signal(self.0, Signal::CONT);
    }
}

/// The first of a row of ports that nobody uses, and that no other fleet of this process was given.
pub(super) struct Ports(pub(super) u16);

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

impl Ports {
    pub(super) fn take() -> Result<Self, String> {
        // Below those from which the kernel takes the ports of outgoing connections.
        const ROWS: u16 = 2_000;
        let mut taken = lock(&TAKEN);
        let start = rand::random_range(0..ROWS);
        let rows = (0..ROWS).map(|i| 12_000 + (start + i) % ROWS * PORTS);
        let is_free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let free = |first: &u16| !taken.contains(first) && (*first..first + PORTS).all(is_free);
        let first = rows.into_iter().find(free).ok_or("no row of free ports")?;
        taken.insert(first);
        Ok(Self(first))
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        lock(&TAKEN).remove(&self.0);
    }
}
