//! A fleet in which a fault can strike anywhere: what it takes to bring a move to a point, to strike, and to see how it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::Fault::{
    self, CutControlCatalog, CutControlSource, CutControlTarget, CutRouterSource, CutServers, DeafToSource,
    DeafToTarget, KillCatalog, KillControl, KillRouter, KillSource, KillTarget,
};
use super::{Path, way_to};
use crate::harness::ledger::Ledger;
use crate::harness::net::{Lost, Way, Who};
use crate::harness::{Fleet, Sql as _, signal, until};
use crate::map_damage::{catalog, found};
use crate::moves_reverse::with_config;
use crate::recovery::ends_in_one_place;

/// How long a cut lasts: longer than a hold.
const CUT: Duration = Duration::from_secs(4);

/// A fleet whose every way can be cut, with a tenant at work.
pub(super) struct Stage<'f> {
    fleet: &'f Fleet,
    ways: BTreeMap<String, Way>,
    to_catalog: Way,
    tenant: String,
    ledger: Ledger,
}

const SERVERS: [&str; 2] = ["pg-1", "pg-3"];

impl<'f> Stage<'f> {
    pub(super) async fn set(fleet: &'f Fleet, tenant: String) -> Self {
        let port = |url: &str| url.parse::<tokio_postgres::Config>().unwrap().get_ports()[0];
        let client = catalog(fleet).await;
        let mut ways = BTreeMap::new();
        for server in SERVERS {
            let way = Way::to(port(&fleet.server_url(server))).await;
            client.run(&format!("UPDATE server SET port = {} WHERE name = '{server}'", way.port)).await;
            ways.insert(server.to_owned(), way);
        }
        let url = fleet.variable("TENANTRY_CATALOG_URL");
        let to_catalog = Way::to(port(url)).await;
        let cut_url = url.replace(&format!(":{}/", port(url)), &format!(":{}/", to_catalog.port));
        assert_ne!(url, cut_url);
        let secret = fleet.path().join("secrets/catalog_url");
        let file = fleet.path().join("secrets/catalog_url_by_a_way");
        std::fs::copy(&secret, &file).unwrap();
        std::fs::write(&file, cut_url).unwrap();
        let config = fleet.path().join("control.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let quoted = |path: &std::path::Path| format!("{}\"", path.display());
        assert!(text.contains(&quoted(&secret)), "{text}");
        std::fs::write(&config, text.replace(&quoted(&secret), &quoted(&file))).unwrap();
        // So that a successor leads soon.
        with_config(fleet, "lease_duration = \"2s\"").await;
        let ledger = at_work(fleet, &tenant).await;
        Self { fleet, ways, to_catalog, tenant, ledger }
    }

    /// The same with a new tenant, after a failure.
    pub(super) async fn anew(self, tenant: String) -> Self {
        self.heal();
        let Self { fleet, ways, to_catalog, ledger, .. } = self;
        drop(ledger);
        drop(std::fs::remove_file(fleet.path().join("failpoint")));
        let ledger = at_work(fleet, &tenant).await;
        Self { fleet, ways, to_catalog, tenant, ledger }
    }

    fn heal(&self) {
        self.ways.values().for_each(Way::heal);
        self.to_catalog.heal();
    }

    async fn is_at(&self) -> String {
        self.fleet.tenant(&self.tenant).await["server"].as_str().unwrap().to_owned()
    }

    /// A move's command, until it is answered; returns the move.
    async fn say(&self, change: &[&str]) -> i64 {
        let command = [&["move"], change].concat();
        until("the command to be taken", async || {
            let output = self.fleet.cli(&command).await;
            (output.status == 0).then(|| output.json()["id"].as_i64().unwrap())
        })
        .await
    }

    async fn show(&self, id: i64) -> Option<Value> {
        let output = self.fleet.cli(&["move", "show", &id.to_string()]).await;
        (output.status == 0).then(|| output.json())
    }

    /// The steps that a move has taken. From the record, which is faster than the command line: clients may be held.
    async fn record(&self, id: i64) -> Record {
        let client = catalog(self.fleet).await;
        let steps = format!("SELECT step FROM operation_step WHERE operation = {id} ORDER BY number");
        let cutover = format!("SELECT data->>'hold_began_us' FROM operation WHERE id = {id}");
        Record { steps: client.column(&steps).await, cutover: client.column(&cutover).await }
    }

    async fn has_state(&self, id: i64, state: &str) {
        until(&format!("move {id} to be {state}"), async || {
            self.show(id).await.filter(|shown| shown["state"] == state)
        })
        .await;
    }

    fn wish(&self, wish: &str) {
        let file = self.fleet.path().join("failpoint");
        let new = file.with_extension("new");
        // What stood somewhere may have said so again.
        drop(std::fs::remove_file(file.with_extension("waiting")));
        std::fs::write(&new, wish).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn stands_at(&self, point: &str) {
        let file = self.fleet.path().join("failpoint.waiting");
        until(&format!("the move to come to {point}"), async || {
            std::fs::read_to_string(&file).ok().filter(|at| at == point)
        })
        .await;
        std::fs::remove_file(&file).unwrap();
    }

    fn goes_on(&self) {
        drop(std::fs::remove_file(self.fleet.path().join("failpoint")));
    }

    /// Starts a move, and returns its number and its two servers when it stands at the point.
    async fn come_to(&self, point: &str) -> (i64, String, String) {
        let wait = format!("wait {point}");
        let way = way_to(point);
        let home = self.is_at().await;
        let away = SERVERS.into_iter().find(|server| **server != home).unwrap().to_owned();
        if matches!(way, Path::Start | Path::Restart | Path::TakenBack | Path::Undo) {
            let first = match way {
                Path::Restart => "copy_loaded",
                Path::TakenBack => "wait check",
                Path::Undo => "wait build_watched",
                _ => &wait,
            };
            self.wish(first);
            let id = self.say(&["start", &self.tenant, "--to", &away]).await;
            match way {
                Path::Restart => {
                    let file = self.fleet.path().join("failpoint");
                    until("it to die in the copy", async || (!file.exists()).then_some(())).await;
                    self.wish(&wait);
                }
                Path::TakenBack => {
                    self.stands_at("check").await;
                    // Its budget.
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    self.wish(&wait);
                }
                Path::Undo => {
                    self.stands_at("build_watched").await;
                    self.wish(&wait);
                    self.say(&["abort", &id.to_string()]).await;
                }
                _ => {}
            }
            self.stands_at(point).await;
            return (id, home, away);
        }
        let id = self.say(&["start", &self.tenant, "--to", &away]).await;
        self.has_state(id, "switched").await;
        self.ledger.take_stall();
        if way == Path::Complete {
            self.wish(&wait);
            self.say(&["complete", &id.to_string()]).await;
            self.stands_at(point).await;
            return (id, home, away);
        }
        self.wish(if way == Path::TurnBack { "wait turn_follows" } else { &wait });
        let back = self.say(&["reverse", &id.to_string()]).await;
        if way == Path::TurnBack {
            self.stands_at("turn_follows").await;
            self.wish(&wait);
            self.say(&["abort", &back.to_string()]).await;
        }
        self.stands_at(point).await;
        (back, away, home)
    }

    /// Strikes, lets the move go on, and sees to it that everything is whole again.
    async fn strike(&self, fault: Fault, from: &str, to: &str) {
        let (cut, who, lost) = match fault {
            KillControl | KillRouter => {
                let role = if fault == KillControl { "control" } else { "router" };
                let before = self.fleet.process(role);
                self.fleet.kill_process(role);
                self.goes_on();
                until("dev to start it again", async || {
                    self.fleet.process(role).filter(|new| Some(*new) != before)
                })
                .await;
                return;
            }
            KillSource => return self.kill_server(from).await,
            KillTarget => return self.kill_server(to).await,
            KillCatalog => return self.kill_server("catalog").await,
            CutControlSource => (vec![&self.ways[from]], Some(Who::Control), Lost::Everything),
            CutControlTarget => (vec![&self.ways[to]], Some(Who::Control), Lost::Everything),
            CutServers => (self.ways.values().collect(), Some(Who::Server), Lost::Everything),
            CutControlCatalog => (vec![&self.to_catalog], None, Lost::Everything),
            CutRouterSource => (vec![&self.ways[from]], Some(Who::Router), Lost::Everything),
            DeafToSource => (vec![&self.ways[from]], Some(Who::Control), Lost::Answers),
            DeafToTarget => (vec![&self.ways[to]], Some(Who::Control), Lost::Answers),
        };
        cut.iter().for_each(|way| way.cut(who, lost));
        self.goes_on();
        tokio::time::sleep(CUT).await;
        self.heal();
    }

    async fn kill_server(&self, server: &str) {
        let before = self.fleet.postmaster(server);
        signal(before, Signal::KILL);
        self.goes_on();
        until("the server to be started again", async || {
            self.fleet.try_postmaster(server).filter(|new| *new != before)
        })
        .await;
        let catalog = || self.fleet.variable("TENANTRY_CATALOG_URL").to_owned();
        let url = if server == "catalog" { catalog() } else { self.fleet.server_url(server) };
        let config: tokio_postgres::Config = url.parse().unwrap();
        until("the server to answer", async || crate::harness::connect(&config).await.ok()).await;
    }

    /// One cell; what came of it, in the table's words.
    pub(super) async fn run(&self, point: &str, fault: Fault) -> String {
        self.ledger.goes_on().await;
        self.ledger.take_stall();
        self.ledger.take_errors();
        let (id, from, to) = self.come_to(point).await;
        let before = self.record(id).await;
        self.strike(fault, &from, &to).await;
        if way_to(point) == Path::Complete {
            self.has_state(id, "completed").await;
        }
        let ended = ends_in_one_place(self.fleet, &self.tenant, id).await;
        assert_ne!(ended["verified"], false, "{ended}");
        let after = self.record(id).await;
        self.ledger.goes_on().await;
        let (stall, errors) = (self.ledger.take_stall(), self.ledger.take_errors());
        if matches!(fault, KillControl | KillCatalog | CutControlCatalog | CutControlTarget | DeafToTarget) {
            assert!(errors.is_empty(), "clients saw {errors:?}");
        }
        self.ledger.reckon_so_far(self.fleet).await;
        self.leaves_nothing().await;
        let errors = if errors.is_empty() { "" } else { ", errors" };
        format!("{} {:.1} s{errors}", word(&ended, &before, &after), stall.as_secs_f64())
    }

    /// Completes what is switched, and looks whether anything of any move is left.
    async fn leaves_nothing(&self) {
        let client = catalog(self.fleet).await;
        let switched = "SELECT id::text FROM operation WHERE kind = 'move' AND state = 'switched'";
        for id in client.column(switched).await {
            until("the move to be completed", async || {
                let id = id.parse().unwrap();
                let is = self.show(id).await?["state"] == "completed";
                if !is {
                    self.fleet.cli(&["move", "complete", &id.to_string()]).await;
                }
                is.then_some(())
            })
            .await;
        }
        let left = "
            SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_name LIKE 'tenantry\\_%'
            UNION ALL SELECT 'role ' || rolname FROM pg_roles WHERE rolname ~ '^tenantry_(move|reverse|read)'
            UNION ALL SELECT 'subscription ' || subname FROM pg_subscription
            UNION ALL SELECT 'database ' || datname FROM pg_database WHERE datname ~ '__(arriving|sealed|doomed)'";
        for server in SERVERS {
            let direct = self.fleet.direct(server, "postgres").await;
            let seen = std::cell::RefCell::new(Vec::new());
            let gone = until("what moves left to go", async || {
                *seen.borrow_mut() = direct.column(left).await;
                seen.borrow().is_empty().then_some(())
            });
            let gone = tokio::time::timeout(Duration::from_secs(60), gone).await;
            assert!(gone.is_ok(), "{server} has {:?}", seen.borrow());
        }
        let inside = "
            SELECT 'publication ' || pubname FROM pg_publication
            UNION ALL SELECT 'trigger ' || evtname FROM pg_event_trigger
            UNION ALL SELECT 'schema ' || nspname FROM pg_namespace WHERE nspname = 'tenantry'
            UNION ALL SELECT 'identity of ' || relname FROM pg_class WHERE relreplident = 'f' AND relkind = 'r'
                AND relnamespace = 'public'::regnamespace
            UNION ALL SELECT 'limit' FROM pg_database WHERE datname = current_database() AND datconnlimit <> -1";
        let direct = self.fleet.direct(&self.is_at().await, &self.tenant).await;
        assert_eq!(direct.column(inside).await, Vec::<String>::new());
        assert_eq!(found(self.fleet).await, Vec::<String>::new());
    }
}

async fn at_work(fleet: &Fleet, tenant: &str) -> Ledger {
    fleet.create(tenant, &["--server", "pg-1"]).await;
    let bulk = "CREATE TABLE bulk (id int PRIMARY KEY, text text);
        INSERT INTO bulk SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 3000) n;
        CREATE UNLOGGED TABLE fleeting (n int PRIMARY KEY); INSERT INTO fleeting VALUES (1)";
    fleet.connect(tenant).await.run(bulk).await;
    Ledger::start(fleet, tenant, 2).await
}

/// What a move's record says.
struct Record {
    steps: Vec<String>,
    /// When the last cutover began.
    cutover: Vec<String>,
}

/// What became of a move with these records, when the fault struck and at the end.
fn word(ended: &Value, before: &Record, after: &Record) -> &'static str {
    let later = &after.steps[before.steps.len()..];
    let cut_over_again = before.steps.iter().any(|step| step == "cutover")
        && !before.steps.iter().any(|step| step == "release")
        && before.cutover != after.cutover;
    match ended["state"].as_str().unwrap() {
        "switched" | "completed" if later.iter().any(|step| step == "restart") => "anew",
        "switched" | "completed" if cut_over_again => "back",
        "switched" | "completed" => "on",
        "aborted" => "undone",
        _ => "**given up**",
    }
}
