//! Drives a move from phase to phase: records the phase, does its deeds, asks the law what follows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::Operation;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shard_map::moves::{Event, Phase, next};
use shard_map::{Server, ServerName, Tenant, TenantId};

use super::compare::sealed::TargetSnapshot;
use super::names::Names;
use super::progress::Progress;
use super::throttle::Throttle;
use super::{
    arm, build, catch_up, compare, complete, copy, cutover, given_up, release, schema, turn_back, turn_round,
    undo, verify, wal_watch, window_watch,
};
use crate::context::{Work, back_off};
use crate::error::{Error, Result};
use crate::server::reader::Reader;
use crate::server::walsender::Walsender;
use crate::server::{Connection, MOVE_SCHEMA, database, literal, registry};

/// How often a copy is begun anew before the move gives up.
const RESTARTS_MAX: u32 = 3;
/// Tries of a phase after the copy that meets a server which does not answer, before the move gives up.
const TRIES_MAX: u32 = 20;
/// Any number of sessions.
const NO_LIMIT: i32 = -1;
/// How often an operator's wish to abort is looked for.
const ABORT_POLL: Duration = Duration::from_millis(300);

/// How far both sides are compared, before the cutover and after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verify {
    /// The number of rows of each table, and a hash of their contents.
    #[default]
    Full,
    /// The number of rows of each table.
    Count,
    /// Not at all.
    None,
}

/// What a move was asked to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Input {
    pub(crate) from: ServerName,
    pub(crate) to: ServerName,
    /// Longest time for which the routers hold the tenant's transactions.
    pub(crate) max_hold_ms: u64,
    pub(crate) verify: Verify,
    /// How long the sealed copy is kept on the source, in seconds.
    pub(crate) keep_sealed_s: u64,
    /// Whether transactions that stay open, and those past the routers, are ended rather than waited for.
    #[serde(default)]
    pub(crate) kill_stragglers: bool,
    /// Whether sessions that can't be held are waited for rather than ended at the switch.
    #[serde(default)]
    pub(crate) wait_sessions: bool,
    /// How long a cutover is put off for them.
    #[serde(default)]
    pub(crate) max_wait_ms: Option<u64>,
    /// Findings of the preflight that the operator took upon himself: kept so that one can see it later.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) accepted: Vec<String>,
    /// Who asked for it, as they say themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asked_by: Option<String>,
    /// The move that it turns round, within that one's window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reverse_of: Option<i64>,
}

/// A move under way, with what lives only as long as this process.
pub(crate) struct Move<'w> {
    pub(crate) work: &'w Work,
    pub(crate) input: Input,
    pub(crate) id: TenantId,
    pub(crate) source: Server,
    pub(crate) target: Server,
    pub(crate) names: Names,
    pub(crate) progress: Arc<Progress>,
    /// By what the servers bear. From the beginning on, so that it is known how they are without the copy.
    pub(crate) throttle: Arc<Throttle>,
    /// Holds the snapshot that the copy is made from, with the snapshot's name.
    pub(crate) snapshot: Option<(Walsender, String)>,
    /// Holds the target's state at the switch, for the comparison.
    pub(crate) at_switch: Option<TargetSnapshot>,
    /// How many sessions of plain roles the tenant's database takes, wherever it is open.
    pub(crate) connection_limit: i32,
    /// Whether the phase it is in was begun by somebody else, or by an earlier try.
    pub(crate) resumed: bool,
    /// When it was taken up, if that was not its beginning: the catalog may have been away before.
    pub(crate) taken_up: Option<Instant>,
}

impl<'w> Move<'w> {
    pub(super) async fn load(work: &'w Work, operation: &Operation) -> Result<Self> {
        let input: Input = serde_json::from_value(operation.input.clone())
            .map_err(|e| Error::Failed(format!("move {} can't be read: {e}", operation.id)))?;
        let id = operation.tenant.clone().ok_or_else(|| Error::Failed("a move without a tenant".into()))?;
        let (source, target) =
            (work.context.server(&input.from).await?, work.context.server(&input.to).await?);
        let names = Names::of(operation.id, input.reverse_of);
        let progress = Arc::new(Progress::default());
        let throttle = Arc::new(work.context.budgets.throttle([&source, &target]));
        Ok(Self {
            work,
            input,
            id,
            source,
            target,
            names,
            progress,
            throttle,
            snapshot: None,
            at_switch: None,
            connection_limit: recorded_limit(operation),
            resumed: operation.step != "begin",
            taken_up: (operation.step != "begin").then(Instant::now),
        })
    }

    /// The tenant as the catalog has it now.
    pub(crate) async fn tenant(&self) -> Result<Tenant> {
        Ok(self.work.context.catalog.tenant(&self.id).await?.tenant)
    }

    pub(crate) async fn source_registry(&self) -> Result<Connection> {
        self.registry(&self.source).await
    }

    pub(crate) async fn target_registry(&self) -> Result<Connection> {
        self.registry(&self.target).await
    }

    /// A session in a registry that can be told from other moves', and keeps no lock when this process is gone.
    async fn registry(&self, server: &Server) -> Result<Connection> {
        let connection = self.work.context.connector.registry(server).await?;
        let session = literal(&self.names.session);
        let limit = registry::IDLE_TIMEOUT.as_millis();
        let sql =
            format!("SET application_name = {session}; SET idle_in_transaction_session_timeout = {limit}");
        connection.run(&sql).await?;
        Ok(connection)
    }

    /// A session in the tenant's database on the source that the guard lets through.
    pub(crate) async fn source_database(&self) -> Result<Connection> {
        let connection = self.work.context.connector.database(&self.source, self.id.live_database()).await?;
        connection.run(&format!("SET {MOVE_SCHEMA}.move = 'on'")).await?;
        Ok(connection)
    }

    /// A session in the tenant's database on the target, before the decision.
    pub(crate) async fn arriving_database(&self) -> Result<Connection> {
        self.work.context.connector.database(&self.target, &self.id.arriving_database()).await
    }

    /// Either server may be at another address by now: a standby was promoted.
    async fn look_servers_up(&mut self) {
        let (source, target) =
            (self.work.context.server(&self.input.from), self.work.context.server(&self.input.to));
        // Without the catalog they stay what they were known as.
        if let (Ok(source), Ok(target)) = (source.await, target.await) {
            (self.source, self.target) = (source, target);
        }
    }

    /// Who reads the tenant's rows, at the source and at the target.
    pub(crate) fn readers(&self) -> [Reader; 2] {
        [&self.source, &self.target].map(|server| Reader::of(self.work, server, &self.id))
    }

    /// Notes how many sessions the tenant's database takes where it is.
    pub(super) async fn note_limit(&mut self, source_registry: &Connection) -> Result<()> {
        // Nobody serves none: that is what a fence leaves.
        let limit = database::limit(source_registry, self.id.live_database()).await?;
        self.connection_limit = if limit == 0 { NO_LIMIT } else { limit };
        self.work.remember(&json!({ "connection_limit": self.connection_limit })).await
    }

    /// Lets clients in where the tenant is open: as many as before the move. Without a fence there is nothing to lift, and the
    /// limit that the operator set stands.
    pub(crate) async fn lift_limit(&self, registry: &Connection) -> Result<()> {
        let live = self.id.live_database();
        if database::limit(registry, live).await? != 0 {
            return Ok(());
        }
        database::set_limit(registry, self.work.term, live, self.connection_limit).await
    }

    pub(crate) fn max_hold(&self) -> Duration {
        Duration::from_millis(self.input.max_hold_ms)
    }
}

fn recorded_limit(operation: &Operation) -> i32 {
    let recorded = operation.data.get("connection_limit").and_then(serde_json::Value::as_i64);
    recorded.and_then(|limit| i32::try_from(limit).ok()).unwrap_or(NO_LIMIT)
}

/// Whether a move turns another one round, and so copies nothing.
pub(crate) fn turns_round(operation: &Operation) -> bool {
    operation.input.get("reverse_of").is_some_and(|of| !of.is_null())
}

/// Source and target of a move or a clone.
pub(crate) fn servers_of(operation: &Operation) -> [Option<ServerName>; 2] {
    let name = |key: &str| operation.input.get(key)?.as_str()?.parse().ok();
    [name("from"), name("to")]
}

/// Whether a switched move is to be completed now: somebody asked, or its grace time is over.
pub(crate) fn is_due(operation: &Operation) -> bool {
    let seconds = |key: &str| operation.data.get(key).and_then(serde_json::Value::as_i64);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    operation.data.get("finish") == Some(&json!(true))
        || seconds("keep_until").is_some_and(|until| i64::try_from(now).unwrap_or(i64::MAX) >= until)
}

/// Drives a move until it is switched, or nothing of it is left.
pub(crate) async fn drive(work: &Work) -> Result<()> {
    let _turn = work.context.turns.take(work.operation.id).await;
    // Read anew: this may be another try, after phases that went well; or somebody else's turn has ended it.
    let operation = work.context.catalog.operation(work.operation.id).await?;
    if !matches!(operation.state.as_str(), "running" | "switched") {
        return Ok(());
    }
    let mut the_move = Move::load(work, &operation).await?;
    let mut phase = match operation.step.as_str() {
        "begin" => Phase::first(the_move.input.reverse_of.is_some()),
        step => step.parse().map_err(|_| Error::Failed(format!("phase {step} of a move is unknown")))?,
    };
    if operation.step != "begin"
        && let Some(event) = phase.recovery()
    {
        phase = law(phase, event)?;
    }
    // On record as switched, it is driven only when it is due to be completed.
    if phase == Phase::Switched && operation.state == phase.state(false).as_str() {
        if window_watch::is_turning(&work.context.catalog, &operation).await? {
            return Ok(());
        }
        phase = law(phase, Event::Finish)?;
    }
    let mut ended_well = "done".to_owned();
    let (mut restarts, mut tries, mut begun) = (0, 0, None);
    loop {
        if let Phase::Switched | Phase::Completed | Phase::Undone = phase {
            work.begin(phase.as_str(), &ended_well).await?;
            let failed =
                work.context.catalog.operation(work.operation.id).await?.data.get("failure").is_some();
            return work.set_state(phase.state(failed).as_str(), None).await;
        }
        // A phase that is tried again is one entry of the journal.
        if begun.replace(phase) != Some(phase) {
            the_move.look_servers_up().await;
            work.begin(phase.as_str(), &ended_well).await?;
        }
        let event = match attempt(&mut the_move, phase).await {
            Ok(event) => {
                tries = 0;
                ended_well = format!("{event:?}").to_lowercase();
                event
            }
            Err(error) if error.must_stop() => return Err(error),
            Err(error) => {
                tracing::warn!(operation = work.operation.id, %phase, %error, "phase of a move failed");
                ended_well = error.to_string();
                tries += 1;
                match after_error(phase, &error, restarts, tries) {
                    Some(event) => {
                        restarts += u32::from(event == Event::SnapshotLost);
                        if event == Event::Stop {
                            work.remember(&json!({ "failure": error.to_string() })).await?;
                        }
                        event
                    }
                    // Its server was removed as lost.
                    None if work.is_over().await => return Ok(()),
                    None => {
                        work.note_try(tries, &error).await;
                        back_off(tries).await;
                        the_move.look_servers_up().await;
                        continue;
                    }
                }
            }
        };
        phase = law(phase, event)?;
        the_move.resumed = false;
    }
}

fn law(phase: Phase, event: Event) -> Result<Phase> {
    next(phase, event).map_err(|e| Error::Failed(e.to_string()))
}

/// What a failed phase leads to; `None`: the same phase again.
fn after_error(phase: Phase, error: &Error, restarts: u32, tries: u32) -> Option<Event> {
    match phase {
        Phase::Arm | Phase::Schema | Phase::Copy | Phase::Build
            if error.is_transient() && restarts < RESTARTS_MAX =>
        {
            Some(Event::SnapshotLost)
        }
        Phase::Arm | Phase::Schema | Phase::Copy | Phase::Build => Some(Event::Stop),
        Phase::TurnRound | Phase::Compare | Phase::CatchUp | Phase::Restart
            if !error.is_transient() || tries >= TRIES_MAX =>
        {
            Some(Event::Stop)
        }
        // An undecided cutover is settled by asking the target, past the decision there is only forward, and what
        // is being undone must be undone: all for as long as it takes.
        _ => None,
    }
}

/// Does a phase's deeds, unless somebody wants the move undone and it still can be.
async fn attempt(the_move: &mut Move<'_>, phase: Phase) -> Result<Event> {
    let work = the_move.work;
    // A cutover sees to its own end: it is over in seconds, decided or taken back.
    if !phase.can_abort() || phase == Phase::Cutover {
        return deeds(the_move, phase).await;
    }
    tokio::select! {
        biased;
        asked = abort_asked(work) => asked.map(|()| Event::Stop),
        outcome = deeds(the_move, phase) => outcome,
    }
}

async fn abort_asked(work: &Work) -> Result<()> {
    loop {
        match work.context.catalog.operation(work.operation.id).await.map_err(Error::from) {
            Ok(operation) if operation.abort_requested => return Ok(()),
            Ok(operation) => match wal_watch::why_undone(&operation) {
                Some(why) => return Err(Error::Failed(why.to_owned())),
                None => tokio::time::sleep(ABORT_POLL).await,
            },
            // A catalog that is away for a moment costs no copy.
            Err(error) if !error.is_transient() => return Err(error),
            Err(_) => tokio::time::sleep(ABORT_POLL).await,
        }
    }
}

/// Boxed one by one: together they are more than a thread's stack has room for when one is driven within another.
fn deeds<'a>(the_move: &'a mut Move<'_>, phase: Phase) -> BoxFuture<'a, Result<Event>> {
    let done = |()| Event::Done;
    match phase {
        Phase::Arm => Box::pin(async move { arm::run(the_move).await.map(done) }),
        Phase::TurnRound => Box::pin(async move { turn_round::run(the_move).await.map(done) }),
        Phase::Schema => Box::pin(async move { schema::run(the_move).await.map(done) }),
        Phase::Copy => Box::pin(async move { copy::run(the_move).await.map(done) }),
        Phase::Build => Box::pin(async move { build::run(the_move).await.map(done) }),
        Phase::Compare => Box::pin(async move { compare::run(the_move).await.map(done) }),
        Phase::CatchUp => Box::pin(async move { catch_up::run(the_move).await.map(done) }),
        Phase::Cutover => Box::pin(cutover::run(the_move)),
        Phase::Release => Box::pin(async move {
            let outcome = release::run(the_move).await.map(done);
            given_up::unless_target_is(the_move, outcome).await
        }),
        Phase::Verify => Box::pin(async move {
            let outcome = verify::run(the_move).await.map(done);
            given_up::unless_target_is(the_move, outcome).await
        }),
        Phase::Complete => Box::pin(async move { complete::run(the_move).await.map(done) }),
        Phase::Undo if the_move.input.reverse_of.is_some() => {
            Box::pin(async move { turn_back::run(the_move).await.map(done) })
        }
        Phase::Restart | Phase::Undo => Box::pin(async move { undo::run(the_move).await.map(done) }),
        Phase::Switched | Phase::Completed | Phase::Undone => Box::pin(async { Ok(Event::Done) }),
    }
}
