//! What a highly available fleet has twice: a streaming standby of its catalog, and another control plane.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Mutex;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use tokio_postgres::Client;

use super::cli::{PROGRAM, command, finish};
use super::fleet::{Ports, pid_of};
use super::place::spawn_tied;
use super::programs::find;
use super::sql::{Sql as _, connect, connect_url};
use super::wait::{until, until_blocking};
use super::{Fleet, lock, signal};

/// A standby of the catalog, or of a server of tenants. Ends when it is dropped.
pub(crate) struct Standby {
    child: Mutex<Option<Child>>,
    /// Its data directory.
    data: PathBuf,
    /// The user that runs Postgres here, as arguments of setpriv.
    account: Vec<String>,
    url: String,
    /// Held until it is dropped.
    ports: Ports,
}

impl Fleet {
    /// Makes a standby of the catalog, and lets control plane and router know both hosts.
    pub(crate) async fn catalog_standby(&self) -> Standby {
        let primary = self.variable("TENANTRY_CATALOG_URL").to_owned();
        let standby = self.standby_of("catalog", &primary).await;
        let (login, rest) = primary.rsplit_once('@').expect("a login");
        let (address, database) = rest.split_once('/').expect("a database");
        let both = format!("{login}@{address},127.0.0.1:{}/{database}", standby.ports.0);
        std::fs::write(self.path().join("secrets/catalog_url"), both).unwrap();
        for role in ["control", "router"] {
            let killed = self.process(role);
            self.kill_process(role);
            until("dev to start it again", async || self.process(role).filter(|new| Some(*new) != killed))
                .await;
        }
        until("both to serve again", async || {
            let lists = self.cli(&["tenant", "list"]).await.status == 0;
            (lists && self.try_router_metrics().await.is_some()).then_some(())
        })
        .await;
        standby
    }

    /// Makes a standby of a server of tenants, of which nobody knows.
    pub(crate) async fn server_standby(&self, server: &str) -> Standby {
        self.standby_of(server, &self.server_url(server)).await
    }

    async fn standby_of(&self, server: &str, primary: &str) -> Standby {
        let ports = Ports::take().expect("free ports");
        let home = self.path().join("standby");
        let owner = std::fs::metadata(self.path().join(server).join("data")).unwrap();
        std::fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, Some(owner.uid()), Some(owner.gid())).unwrap();
        let mut account = Vec::new();
        if rustix::process::getuid().is_root() {
            let (user, group) = (format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid()));
            account = vec![user, group, "--clear-groups".to_owned()];
        }
        let (data, port) = (home.join("data"), ports.0);
        let mut backup = command("setpriv", &[]);
        backup.args(&account).arg("--").arg(find("pg_basebackup")).current_dir("/");
        backup.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync", "--dbname", primary]);
        finish(backup.arg("--pgdata").arg(&data), None).await.exits(0);
        let log = std::fs::File::create(self.path().join("log/standby.log")).unwrap();
        let child = spawn_tied("setpriv".as_ref(), |postgres| {
            postgres.args(&account).args(["--pdeathsig", "INT", "--"]).arg(find("postgres"));
            postgres.arg("-D").arg(&data).args(["-c", &format!("port={port}")]);
            postgres.current_dir("/").stdin(std::process::Stdio::null()).stderr(log);
        });
        let (login, rest) = primary.rsplit_once('@').expect("a login");
        let (_, database) = rest.split_once('/').expect("a database");
        let standby = Standby {
            child: Mutex::new(Some(child.unwrap())),
            data,
            account,
            url: format!("{login}@127.0.0.1:{port}/{database}"),
            ports,
        };
        let config: tokio_postgres::Config = standby.url.parse().unwrap();
        until("the standby to answer", async || connect(&config).await.ok()).await;
        standby
    }

    /// Starts a control plane beside the fleet's own, `control-2`.
    pub(crate) fn second_control(&self) -> SecondControl {
        self.second_control_with(&[])
    }

    /// The same, with more settings.
    pub(crate) fn second_control_with(&self, settings: &[&str]) -> SecondControl {
        let ports = Ports::take().expect("free ports");
        let log = std::fs::File::create(self.path().join("log/control-2.log")).unwrap();
        let child = spawn_tied(PROGRAM.as_ref(), |control| {
            control.arg("control").arg("--config").arg(self.path().join("control.toml"));
            let work = format!("work_dir={}", self.path().join("control-2").display());
            let listen = format!("listen=127.0.0.1:{}", ports.0);
            for setting in [["name=control-2", &listen, &work].as_slice(), settings].concat() {
                control.args(["--set", setting]);
            }
            control.stdin(std::process::Stdio::null()).stderr(log);
        });
        SecondControl { child: Mutex::new(child.unwrap()), ports }
    }

    /// Takes the control plane out of `dev`'s hands, and starts it with these settings. `dev`, which pauses longer and longer
    /// before it starts what dies again and again, stands still until this is dropped.
    pub(crate) fn take_control(&self, settings: &[&str]) -> HandControl<'_> {
        self.take_control_with(settings, Vec::new())
    }

    /// The same with variables in its environment.
    pub(crate) fn take_control_with(
        &self,
        settings: &[&str],
        variables: Vec<(&'static str, String)>,
    ) -> HandControl<'_> {
        signal(self.dev(), Signal::STOP);
        signal(self.process("control").expect("it runs"), Signal::KILL);
        // It is there until it has closed what it had open.
        let address = self.variable("TENANTRY_API").trim_start_matches("http://");
        let is_free = || std::net::TcpStream::connect(address).is_err().then_some(());
        until_blocking("the killed one to leave its port", is_free).unwrap();
        let settings: Vec<String> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let child = Mutex::new(start_control(self, &settings, &variables));
        HandControl { fleet: self, child, settings, variables }
    }

    async fn try_router_metrics(&self) -> Option<()> {
        let port = self.variable("TENANTRY_ROUTER_METRICS_PORT");
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{port}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    }
}

fn start_control(fleet: &Fleet, settings: &[String], variables: &[(&str, String)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(fleet.path().join("log/control.log"));
    // Where it may write no more, it is told so, as by a full disk.
    let child = spawn_tied("env".as_ref(), |control| {
        control.arg("--ignore-signal=XFSZ").arg(PROGRAM);
        control.arg("control").arg("--config").arg(fleet.path().join("control.toml"));
        for setting in settings {
            control.args(["--set", setting]);
        }
        control.envs(variables.iter().map(|(name, value)| (name, value)));
        control.env("TENANTRY_FAILPOINT_FILE", fleet.path().join("failpoint"));
        control.stdin(std::process::Stdio::null()).stderr(log.unwrap());
    });
    child.unwrap()
}

/// A fleet's control plane that the test starts again by itself whenever it dies. Ends when it is dropped.
pub(crate) struct HandControl<'f> {
    fleet: &'f Fleet,
    child: Mutex<Child>,
    settings: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl HandControl<'_> {
    /// Waits for its end, and starts it again.
    pub(crate) fn start_again(&self) {
        let mut child = lock(&self.child);
        child.wait().unwrap();
        *child = start_control(self.fleet, &self.settings, &self.variables);
    }

    /// Kills it, and leaves it dead.
    pub(crate) fn kill(&self) {
        let mut child = lock(&self.child);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Lets it write no file longer than this, or any again.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let limit = Rlimit { current: bytes, maximum: None };
        prlimit(Some(pid_of(&lock(&self.child))), Resource::Fsize, limit).unwrap();
    }
}

impl Drop for HandControl<'_> {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        drop(child.kill());
        drop(child.wait());
        signal(self.fleet.dev(), Signal::CONT);
    }
}

/// A control plane beside the fleet's own. Ends when it is dropped.
pub(crate) struct SecondControl {
    child: Mutex<Child>,
    ports: Ports,
}

impl SecondControl {
    /// Where its API listens.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.0)
    }

    pub(crate) fn pid(&self) -> Pid {
        pid_of(&lock(&self.child))
    }
}

impl Drop for SecondControl {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        drop(child.kill());
        drop(child.wait());
    }
}

impl Standby {
    /// A connection to the catalog there.
    pub(crate) async fn client(&self) -> Client {
        connect_url(&self.url, "tenantry_catalog").await
    }

    /// How a superuser reaches it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Lets the primary wait for this standby with each commit.
    pub(crate) async fn is_waited_for(&self, primary: &Client) {
        primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
        primary.run("SELECT pg_reload_conf()").await;
        until("the standby to be synchronous", async || {
            let state = primary.column("SELECT sync_state FROM pg_stat_replication").await;
            (state == ["sync"]).then_some(())
        })
        .await;
    }

    /// Waits until it has all that the primary has; then lets it receive no more.
    pub(crate) async fn is_cut_off(&self, primary: &Client) {
        let client = connect_url(&self.url, "postgres").await;
        client.run("ALTER SYSTEM SET primary_conninfo = ''").await;
        let behind = "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn <> pg_current_wal_lsn()";
        until("it to have all", async || (primary.number(behind).await == 0).then_some(())).await;
        client.run("SELECT pg_reload_conf()").await;
        until("it to be cut off", async || {
            (primary.number("SELECT count(*) FROM pg_stat_replication").await == 0).then_some(())
        })
        .await;
    }

    /// Makes it the primary, as an operator does.
    pub(crate) async fn promote(&self) {
        let mut promote = command("setpriv", &[]);
        promote.args(&self.account).arg("--").arg(find("pg_ctl")).current_dir("/");
        finish(promote.args(["promote", "-D"]).arg(&self.data), None).await.exits(0);
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        let Some(mut child) = lock(&self.child).take() else { return };
        signal(pid_of(&child), Signal::QUIT);
        if until_blocking("the standby to end", || child.try_wait().ok().flatten()).is_err() {
            drop(child.kill());
        }
    }
}
