//! One more router on a fleet, with settings of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::Mutex;

use rustix::process::{Pid, Signal};
use tokio_postgres::Config;

use super::cli::PROGRAM;
use super::fleet::{Ports, pid_of};
use super::metrics::Metrics;
use super::place::spawn_tied;
use super::wait::{until, until_blocking};
use super::{Fleet, lock, signal};

/// A router beside the fleet's own. Stopped in order when it is dropped.
pub(crate) struct Router {
    child: Mutex<Option<Child>>,
    log: PathBuf,
    /// Where clients connect.
    pub(crate) port: u16,
    pub(crate) metrics_port: u16,
    /// Held for its drop.
    ports: Option<Ports>,
}

impl Fleet {
    /// Starts a router on free ports with these `key=value` settings over the fleet's own, and waits until it serves.
    pub(crate) async fn router(&self, settings: &[&str]) -> Router {
        let ports = Ports::take().expect("free ports");
        let mut router = self.router_at(ports.0, ports.0 + 1, settings).await;
        router.ports = Some(ports);
        router
    }

    /// The same on given ports, which another router may have, too.
    pub(crate) async fn router_at(&self, port: u16, metrics_port: u16, settings: &[&str]) -> Router {
        let path = self.path().join(format!("router-{port}-{metrics_port}"));
        std::fs::create_dir_all(&path).unwrap();
        let log = path.join("log");
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let own = [
            format!("listen=127.0.0.1:{port}"),
            format!("metrics_listen=127.0.0.1:{metrics_port}"),
            format!("name=router-{metrics_port}"),
            format!("snapshot_file={}", path.join("snapshot").display()),
        ];
        let child = spawn_tied(PROGRAM.as_ref(), |router| {
            router.arg("router").arg("--config").arg(self.path().join("router.toml"));
            for setting in own.iter().map(String::as_str).chain(settings.iter().copied()) {
                router.args(["--set", setting]);
            }
            router.current_dir(&path).stdin(std::process::Stdio::null()).stderr(out);
        });
        let router = Router { child: Mutex::new(Some(child.unwrap())), log, port, metrics_port, ports: None };
        until("the router to serve", async || {
            if let Some(status) = router.ended() {
                panic!("the router ended ({status}): {}", router.log());
            }
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let answer = client.get(router.url("readyz")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        router
    }
}

impl Router {
    /// The same login through this router.
    pub(crate) fn through(&self, config: &Config) -> Config {
        let mut through = Config::new();
        through.host("127.0.0.1").port(self.port);
        through.user(config.get_user().unwrap()).dbname(config.get_dbname().unwrap());
        through.password(config.get_password().unwrap());
        through
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        Metrics::read(&self.url("metrics")).await
    }

    /// An address of its HTTP server.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.metrics_port)
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Pid {
        pid_of(lock(&self.child).as_ref().expect("it runs"))
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(self.pid(), which);
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).as_mut()?.try_wait().ok().flatten()
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let Some(mut child) = lock(&self.child).take() else { return };
        if child.try_wait().ok().flatten().is_some() {
            return;
        }
        signal(pid_of(&child), Signal::TERM);
        if until_blocking("the router to end", || child.try_wait().ok().flatten()).is_err() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
