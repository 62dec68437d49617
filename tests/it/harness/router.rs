//! One more router on a fleet, with settings of its own.

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
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
    /// Its configuration file, over which its settings go.
    config: PathBuf,
    /// Where clients connect.
    pub(crate) port: u16,
    pub(crate) metrics_port: u16,
    /// Held for its drop.
    ports: Option<Ports>,
}

/// What a service manager does for a router: it opens the port for clients, and is told how the router does.
pub(crate) struct ServiceManager {
    pub(crate) listener: TcpListener,
    notified: UnixDatagram,
    socket: PathBuf,
}

impl Fleet {
    /// Starts a router on free ports with these `key=value` settings over the fleet's own, and waits until it serves.
    pub(crate) async fn router(&self, settings: &[&str]) -> Router {
        let ports = Ports::take().expect("free ports");
        let mut router = self.router_at(ports.0, ports.0 + 1, settings).await;
        router.ports = Some(ports);
        router
    }

    /// The same, with one JSON object a line in its log.
    pub(crate) async fn router_logging_json(&self, settings: &[&str]) -> Router {
        let ports = Ports::take().expect("free ports");
        let json = |router: &mut Command| {
            router.env("TENANTRY_LOG_FORMAT", "json");
        };
        let mut router = self.router_with((ports.0, ports.0 + 1), settings, json).await;
        router.ports = Some(ports);
        router
    }

    /// The same on given ports, which another router may have, too.
    pub(crate) async fn router_at(&self, port: u16, metrics_port: u16, settings: &[&str]) -> Router {
        self.router_with((port, metrics_port), settings, |_| ()).await
    }

    /// Starts one more process beside a router, on its port and under its name.
    pub(crate) async fn second_process(&self, router: &Router) -> Router {
        let name = format!("name=router-{}", router.metrics_port);
        self.router_at(router.port, router.metrics_port + 1, &[&name]).await
    }

    /// Opens a port, and a socket for news, as a service manager does.
    pub(crate) fn service_manager(&self, name: &str) -> ServiceManager {
        let socket = self.path().join(name);
        ServiceManager {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            notified: UnixDatagram::bind(&socket).unwrap(),
            socket,
        }
    }

    /// Starts a router for a service manager.
    pub(crate) async fn router_under(&self, manager: &ServiceManager) -> Router {
        self.router_of(manager, |_| ()).await
    }

    /// The same for one that expects to be told in this time, in microseconds, that the router lives.
    pub(crate) async fn router_watched(&self, manager: &ServiceManager, time: &str) -> Router {
        let watched = |router: &mut Command| {
            router.env("WATCHDOG_USEC", time);
        };
        self.router_of(manager, watched).await
    }

    async fn router_of(&self, manager: &ServiceManager, change: impl FnOnce(&mut Command)) -> Router {
        let ports = Ports::take().expect("free ports");
        let port = manager.listener.local_addr().unwrap().port();
        let router = self.router_with((port, ports.0), &[], |router| {
            // The socket comes as the standard input, as nobody may hand on a descriptor to just one child otherwise.
            let listener = OwnedFd::from(manager.listener.try_clone().unwrap());
            router.stdin(listener).env("NOTIFY_SOCKET", &manager.socket);
            change(router);
        });
        let mut router = router.await;
        router.ports = Some(ports);
        router
    }

    /// Starts a router whose command is changed before it is run.
    pub(crate) async fn router_with(
        &self,
        (port, metrics_port): (u16, u16),
        settings: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Router {
        let path = self.path().join(format!("router-{port}-{metrics_port}"));
        std::fs::create_dir_all(&path).unwrap();
        let (log, config) = (path.join("log"), path.join("router.toml"));
        std::fs::copy(self.path().join("router.toml"), &config).unwrap();
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let own = [
            format!("listen=127.0.0.1:{port}"),
            format!("metrics_listen=127.0.0.1:{metrics_port}"),
            format!("name=router-{metrics_port}"),
            format!("snapshot_file={}", path.join("snapshot").display()),
        ];
        // Whoever gives a socket gives it as the standard input; the router looks for it where systemd puts it.
        let script = "if test -n \"$NOTIFY_SOCKET\"; then \
            exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; fi; exec \"$@\"";
        let child = spawn_tied("sh".as_ref(), |router| {
            router.args(["-c", script, "sh"]).arg(PROGRAM).arg("router").arg("--config").arg(&config);
            for setting in own.iter().map(String::as_str).chain(settings.iter().copied()) {
                router.args(["--set", setting]);
            }
            router.current_dir(&path).stdin(std::process::Stdio::null()).stderr(out);
            change(router);
        });
        let child = Mutex::new(Some(child.unwrap()));
        let router = Router { child, log, config, port, metrics_port, ports: None };
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

/// The service manager's next news.
pub(crate) async fn news(manager: &ServiceManager) -> String {
    manager.notified.set_nonblocking(true).unwrap();
    until("news for the service manager", async || {
        let mut news = [0; 200];
        let length = manager.notified.recv(&mut news).ok()?;
        Some(String::from_utf8_lossy(&news[..length]).into_owned())
    })
    .await
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

    /// Waits until its log has a line with all of these.
    pub(crate) async fn logs(&self, parts: &[&str]) -> String {
        until(&format!("a log line with {parts:?}"), async || {
            let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
            self.log().lines().find(has_all).map(str::to_owned)
        })
        .await
    }

    /// Puts these keys before those in its configuration file, and tells it to reload.
    pub(crate) fn reload_with(&self, keys: &str) {
        let mark = "# as it was\n";
        let text = std::fs::read_to_string(&self.config).unwrap();
        let before = text.split_once(mark).map_or(text.as_str(), |(_, before)| before);
        std::fs::write(&self.config, format!("{keys}\n{mark}{before}")).unwrap();
        self.signal(Signal::HUP);
    }

    /// Waits for its end.
    pub(crate) async fn end(&self) -> ExitStatus {
        until("the router to end", async || self.ended()).await
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
