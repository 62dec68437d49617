//! A real Prometheus that scrapes a fleet, as the example in `ops/prometheus` tells it to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::Value;

use super::fleet::{Ports, pid_of};
use super::place::spawn_tied;
use super::wait::{until, until_blocking};
use super::{Fleet, Router, signal};

/// Where the example and the rules are.
pub(crate) const SETTINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/prometheus");

/// The folder of Prometheus's programs; fetched if they are not there.
fn programs() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ops/setup/prometheus");
    let output = Command::new(script).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Runs promtool on the files in `ops/prometheus`.
pub(crate) fn promtool(args: &[&str]) {
    let output = Command::new(programs().join("promtool")).current_dir(SETTINGS).args(args).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {args:?}: {}", String::from_utf8_lossy(&said));
}

/// Stopped when it is dropped.
pub(crate) struct Prometheus {
    child: Child,
    url: String,
    since: f64,
    _ports: Ports,
}

impl Prometheus {
    /// Starts one on the fleet's router and control plane, and one more router.
    pub(crate) fn start(fleet: &Fleet, second: &Router) -> Self {
        let path = fleet.path().join("prometheus");
        std::fs::create_dir_all(&path).unwrap();
        configure(&path, fleet, second);
        let ports = Ports::take().unwrap();
        let address = format!("127.0.0.1:{}", ports.0);
        let log = File::create(fleet.path().join("log/prometheus.log")).unwrap();
        let child = spawn_tied(&programs().join("prometheus"), |prometheus| {
            prometheus.current_dir(&path).args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]);
            prometheus.arg(format!("--web.listen-address={address}")).stderr(log);
        });
        Self { child: child.unwrap(), url: format!("http://{address}/api/v1"), since: now(), _ports: ports }
    }

    /// An answer of its HTTP API, which has to be a good one.
    pub(crate) async fn ask(&self, path: &str, form: &[(&str, &str)]) -> Value {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let pairs = form.iter().map(|(key, value)| format!("{key}={}", encoded(value)));
        let body = pairs.collect::<Vec<_>>().join("&");
        let request = if form.is_empty() {
            client.get(format!("{}/{path}", self.url))
        } else {
            let request = client.post(format!("{}/{path}", self.url)).body(body);
            request.header("content-type", "application/x-www-form-urlencoded")
        };
        let answer = until("Prometheus to answer", async || {
            let answer = request.try_clone()?.send().await.ok()?;
            (answer.status() != reqwest::StatusCode::SERVICE_UNAVAILABLE).then_some(answer)
        })
        .await;
        let answer: Value = answer.json().await.unwrap_or_default();
        assert_eq!(answer["status"], "success", "{path} {form:?}: {answer}");
        answer["data"].clone()
    }

    /// Whether an expression had a value at any time since Prometheus was started.
    pub(crate) async fn had(&self, expression: &str) -> bool {
        // The last step is after the newest sample.
        let (start, end) = (self.since.to_string(), (now() + 1.0).to_string());
        let form = [("query", expression), ("start", &*start), ("end", &*end), ("step", "0.5")];
        let series = self.ask("query_range", &form).await["result"].clone();
        !series.as_array().unwrap().is_empty()
    }

    /// Waits until an expression has a value.
    pub(crate) async fn sees(&self, expression: &str) {
        until(&format!("Prometheus to see {expression}"), async || {
            let found = self.ask("query", &[("query", expression)]).await;
            (!found["result"].as_array()?.is_empty()).then_some(())
        })
        .await;
    }

    /// All alerts, each with its expression, annotations and state.
    pub(crate) async fn alerts(&self) -> Vec<Value> {
        let data = self.ask("rules", &[]).await;
        let groups = data["groups"].as_array().unwrap();
        groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).cloned().collect()
    }
}

/// The example, with this fleet's addresses, and faster.
fn configure(path: &Path, fleet: &Fleet, second: &Router) {
    let read = |name: &str| std::fs::read_to_string(Path::new(SETTINGS).join(name)).unwrap();
    let router = format!("127.0.0.1:{}", fleet.variable("TENANTRY_ROUTER_METRICS_PORT"));
    let control = fleet.variable("TENANTRY_API").trim_start_matches("http://");
    let mut text = read("prometheus.yml");
    for (from, to) in [
        ("scrape_interval: 15s", "scrape_interval: 500ms"),
        ("evaluation_interval: 15s", "evaluation_interval: 500ms"),
        ("router-1:9632", &router),
        ("router-2:9632", &format!("127.0.0.1:{}", second.metrics_port)),
        ("\"control-1:7432\", \"control-2:7432\"", &format!("\"{control}\"")),
    ] {
        assert!(text.contains(from), "the example has {from}");
        text = text.replace(from, to);
    }
    std::fs::write(path.join("prometheus.yml"), text).unwrap();
    std::fs::write(path.join("rules.yml"), read("rules.yml")).unwrap();
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        signal(pid_of(&self.child), Signal::TERM);
        let child = &mut self.child;
        if until_blocking("Prometheus to end", || child.try_wait().ok().flatten()).is_err() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
