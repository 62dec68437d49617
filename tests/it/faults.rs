//! Each point of a move × each fault: the move stands at the point, the fault strikes, the move goes on, or is taken up by
//! somebody else, and ends; nothing is lost, doubled or left behind. `make faults` runs all of them and writes the table
//! in `docs/move-faults.md`; without `TENANTRY_FAULTS`, a few run.

mod stage;
mod table;

use std::collections::{BTreeSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use shard_map::moves::Phase;
use stage::Stage;
use table::{BEGIN, END, document, note, rendered, table_in_the_docs};

use crate::harness::{Fleet, said, trials};

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
        "cutover", "cutover_prepared", "announced", "held", "drain", "limit", "limited", "fence", "flushed", "apply", "detach_disabled",
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
                let said = said(&*panic);
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
