//! Each point of a move × each fault: the move stands at the point, the fault strikes, the move goes on, or is taken up by
//! somebody else, and ends; nothing is lost, doubled or left behind. `make faults` runs all of them and writes the table
//! in `docs/move-faults.md`; without `TENANTRY_FAULTS`, a few run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::process::Signal;
use serde_json::Value;
use shard_map::moves::Phase;

use crate::harness::ledger::Ledger;
use crate::harness::net::{Lost, Way, Who};
use crate::harness::{Fleet, Sql as _, signal, trials, until};
use crate::map_damage::{catalog, found};
use crate::moves_reverse::with_config;
use crate::recovery::ends_in_one_place;

trials! {
    plain the_table_in_the_docs_has_the_points_of_the_code,
    own a_third_of_the_cells_of_step_and_fault_ends_well,
    own another_third_of_the_cells_of_step_and_fault_ends_well,
    own the_last_third_of_the_cells_of_step_and_fault_ends_well,
}

/// How a move comes to a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    /// On its way forward.
    Start,
    /// When its cutover used its budget up, right before the decision.
    TakenBack,
    /// When it is aborted with the copy built.
    Undo,
    /// When its control plane died in the middle of the copy.
    Restart,
    /// When it is completed.
    Complete,
    /// When it turns another one round.
    Reverse,
    /// When that is aborted.
    TurnBack,
}

#[rustfmt::skip]
const POINTS: [(Path, &[&str]); 7] = [
    (Path::Start, &[
        "arm", "arm_terms", "arm_noted", "arm_guarded", "arm_published", "arm_role", "arm_slot",
        "schema", "schema_recorded", "schema_roles", "schema_made", "schema_settings", "schema_dumped", "read_put", "schema_restored",
        "copy", "copy_opened", "copy_loaded", "copy_committed", "copy_closed",
        "build", "build_listed", "build_restored", "build_analyzed", "build_refreshed", "build_watched", "subscribed", "stream_lifted",
        "compare", "read_door", "catch_up", "catch_published", "catch_slot", "catch_close",
        "cutover", "cutover_prepared", "held", "drain", "limit", "limited", "fence", "flushed", "apply", "detach_disabled",
        "detach", "sequences", "unlogged", "sealed", "sealed_renamed", "sealed_sent", "seal", "check", "advance",
        "open", "open_renamed", "open_sent", "decide", "release_compared", "release_lifted", "release", "release_told",
        "verify", "verify_unfollowed", "verify_ended", "read_dropped", "verify_compared",
        "window_role", "window_sealed", "window_follows", "window_open", "switched",
    ]),
    (Path::TakenBack, &["taken_passed", "taken_unsealed", "taken_placed", "taken_noted"]),
    (Path::Undo, &["undo", "undo_streams", "undo_slot", "undo_guard", "undo_role", "doom_arriving", "doomed", "undo_dropped", "undone"]),
    (Path::Restart, &["restart"]),
    (Path::Complete, &[
        "complete", "window_closing", "window_slot_dropped", "window_taken_down", "complete_closed", "complete_unfollowed",
        "doom_sealed", "complete_role", "completed",
    ]),
    (Path::Reverse, &[
        "turn_round", "turn_taken", "turn_guarded", "turn_detached", "arriving", "arriving_renamed", "arriving_sent",
        "turn_renamed", "turn_follows",
    ]),
    (Path::TurnBack, &["back_freed", "back_passed", "back_sealed", "back_follows"]),
];

/// Points whose names are put together.
const COMPOSED: [&str; 11] = [
    "sealed",
    "sealed_renamed",
    "sealed_sent",
    "open",
    "open_renamed",
    "open_sent",
    "arriving",
    "arriving_renamed",
    "arriving_sent",
    "doom_arriving",
    "doom_sealed",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillControl,
    KillRouter,
    KillSource,
    KillTarget,
    KillCatalog,
    CutControlSource,
    CutControlTarget,
    CutServers,
    CutControlCatalog,
    CutRouterSource,
    DeafToSource,
    DeafToTarget,
}

use Fault::{
    CutControlCatalog, CutControlSource, CutControlTarget, CutRouterSource, CutServers, DeafToSource,
    DeafToTarget, KillCatalog, KillControl, KillRouter, KillSource, KillTarget,
};

/// In the order in which they run, and their columns.
const FAULTS: [(Fault, &str); 12] = [
    (KillControl, "control killed"),
    (KillSource, "S killed"),
    (KillTarget, "T killed"),
    (KillRouter, "router killed"),
    (KillCatalog, "catalog killed"),
    (CutControlSource, "control–S cut"),
    (CutControlTarget, "control–T cut"),
    (CutServers, "S–T cut"),
    (CutControlCatalog, "control–catalog cut"),
    (CutRouterSource, "router–S cut"),
    (DeafToSource, "answers of S lost"),
    (DeafToTarget, "answers of T lost"),
];

/// How long a cut lasts: longer than a hold.
const CUT: Duration = Duration::from_secs(4);

type Cell = (&'static str, Fault);

/// Those that run each time: where a mistake would cost most.
const SAMPLE: [Cell; 10] = [
    ("sealed_sent", KillControl),
    ("open_renamed", DeafToTarget),
    ("copy_loaded", KillTarget),
    ("limited", KillRouter),
    ("decide", KillCatalog),
    ("open_sent", KillTarget),
    ("seal", CutControlTarget),
    ("flushed", CutServers),
    ("build_watched", CutServers),
    ("taken_passed", KillSource),
];

fn way_to(point: &str) -> Path {
    POINTS.iter().find(|(_, points)| points.contains(&point)).unwrap_or_else(|| panic!("{point}")).0
}

/// All cells: each point with one fault, then with the next, so that an interrupted run has seen all points and all faults.
fn all() -> Vec<Cell> {
    let points: Vec<&str> = POINTS.iter().flat_map(|(_, points)| points.iter().copied()).collect();
    let pass = |turn: usize| {
        let fault = move |number: usize| FAULTS[(number + turn) % FAULTS.len()].0;
        points.iter().enumerate().map(move |(number, point)| (*point, fault(number)))
    };
    (0..FAULTS.len()).flat_map(pass).collect()
}

/// What is left to do: `all`, `missing` (in the table), or points separated by commas.
fn asked() -> Option<String> {
    std::env::var("TENANTRY_FAULTS").ok().filter(|asked| !asked.is_empty())
}

static QUEUE: Mutex<Option<VecDeque<Cell>>> = Mutex::new(None);
static TABLE: Mutex<Option<BTreeMap<Cell, String>>> = Mutex::new(None);

fn next_cell() -> Option<Cell> {
    let mut queue = QUEUE.lock().unwrap_or_else(PoisonError::into_inner);
    let queue = queue.get_or_insert_with(|| match asked().as_deref() {
        None => SAMPLE.into(),
        Some("all") => all().into(),
        Some("missing") => {
            let there = table_in_the_docs();
            all().into_iter().filter(|cell| !there.contains_key(cell)).collect()
        }
        Some(points) => {
            let is_asked = |(point, _): &Cell| points.split(',').any(|asked| asked == *point);
            all().into_iter().filter(is_asked).collect()
        }
    });
    queue.pop_front()
}

async fn a_third_of_the_cells_of_step_and_fault_ends_well(fleet: &mut Fleet) {
    cells(fleet, "first").await;
}

async fn another_third_of_the_cells_of_step_and_fault_ends_well(fleet: &mut Fleet) {
    cells(fleet, "second").await;
}

async fn the_last_third_of_the_cells_of_step_and_fault_ends_well(fleet: &mut Fleet) {
    cells(fleet, "third").await;
}

async fn cells(fleet: &Fleet, name: &str) {
    let mut failed = Vec::new();
    let mut stage = Stage::set(fleet, format!("{name}-0")).await;
    while let Some((point, fault)) = next_cell() {
        let outcome = AssertUnwindSafe(stage.run(point, fault)).catch_unwind().await;
        let told = match outcome {
            Ok(told) => told,
            // With nobody to look at a table, the first failure ends it, and the logs are those of it.
            Err(panic) if asked().is_none() => std::panic::resume_unwind(panic),
            Err(panic) => {
                let said = panic.downcast_ref::<String>().map(String::as_str);
                let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or_default();
                eprintln!("{point} × {fault:?} FAILED: {said}");
                failed.push(format!("{point} × {fault:?}: {said}"));
                stage = stage.anew(format!("{name}-{}", failed.len())).await;
                "**failed**".to_owned()
            }
        };
        if asked().is_some() {
            eprintln!("{point} × {fault:?}: {told}");
            note((point, fault), told);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A fleet whose every way can be cut, with a tenant at work.
struct Stage<'f> {
    fleet: &'f Fleet,
    ways: BTreeMap<String, Way>,
    to_catalog: Way,
    tenant: String,
    ledger: Ledger,
}

const SERVERS: [&str; 2] = ["pg-1", "pg-3"];

impl<'f> Stage<'f> {
    async fn set(fleet: &'f Fleet, tenant: String) -> Self {
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
    async fn anew(self, tenant: String) -> Self {
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
    async fn run(&self, point: &str, fault: Fault) -> String {
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

fn document() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/docs/move-faults.md").into()
}

/// Puts a cell into the table in the docs.
fn note(cell: Cell, told: String) {
    let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    let table = table.get_or_insert_with(table_in_the_docs);
    table.insert(cell, told);
    let document_before = std::fs::read_to_string(document()).unwrap();
    let (before, rest) = document_before.split_once(BEGIN).expect("where the table begins");
    let (_, after) = rest.split_once(END).expect("where it ends");
    let text = format!("{before}{BEGIN}\n{}{END}{after}", rendered(table));
    std::fs::write(document(), text).unwrap();
}

const BEGIN: &str = "<!-- written by make faults -->";
const END: &str = "<!-- end -->";

fn rendered(table: &BTreeMap<Cell, String>) -> String {
    let mut text = format!("\n{} of {} cells have run.\n\n| point |", table.len(), all().len());
    FAULTS.iter().for_each(|(_, words)| write!(text, " {words} |").unwrap());
    write!(text, "\n| --- |{}\n", " --- |".repeat(FAULTS.len())).unwrap();
    for (_, points) in POINTS {
        for point in points {
            write!(text, "| `{point}` |").unwrap();
            for (fault, _) in FAULTS {
                write!(text, " {} |", table.get(&(*point, fault)).map_or("–", String::as_str)).unwrap();
            }
            text.push('\n');
        }
    }
    text.push('\n');
    text
}

/// The cells that have run, as the docs have them.
fn table_in_the_docs() -> BTreeMap<Cell, String> {
    let text = std::fs::read_to_string(document()).unwrap();
    let mut table = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let Some((point, _)) = all().into_iter().find(|(point, _)| cells[0] == format!("`{point}`")) else {
            continue;
        };
        for ((fault, _), cell) in FAULTS.into_iter().zip(&cells[1..]) {
            if *cell != "–" {
                table.insert((point, fault), (*cell).to_owned());
            }
        }
    }
    table
}

/// Points that the code of a move names.
fn points_of_the_code() -> BTreeSet<String> {
    let mut points: BTreeSet<String> =
        Phase::ALL.into_iter().map(|phase| phase.as_str().to_owned()).collect();
    let control = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/control"));
    let mut left =
        vec![control.join("moves"), control.join("server/doom.rs"), control.join("server/reader.rs")];
    while let Some(file) = left.pop() {
        if file.is_dir() {
            left.extend(std::fs::read_dir(file).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(file).unwrap();
        for call in ["reach(\"", "parts.act(\"", "unread(\""] {
            let named = text.split(call).skip(1).map(|rest| rest.split_once('"').unwrap().0.to_owned());
            points.extend(named);
        }
    }
    points.extend(COMPOSED.map(str::to_owned));
    points
}

async fn the_table_in_the_docs_has_the_points_of_the_code() {
    let known: BTreeSet<String> =
        POINTS.iter().flat_map(|(_, points)| points.iter().map(|point| (*point).to_owned())).collect();
    assert_eq!(known, points_of_the_code(), "each point has a way to it, and a row");
    let text = std::fs::read_to_string(document()).unwrap();
    let rows: BTreeSet<String> = text
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(rows, known, "make faults writes the table anew");
    let table = table_in_the_docs();
    assert!(
        text.contains(&format!("{BEGIN}\n{}{END}", rendered(&table))),
        "make faults writes how many have run"
    );
}
