//! Brings a failover to its end. Every step looks at what is there, and can be repeated by whoever finds the record; until the
//! map is changed, all that is repeated begins with the first one.

use std::time::{Duration, Instant};

use catalog::{AddressState, Operation, Pointing, SeenAddress};
use serde_json::json;
use shard_map::selector::Selector;
use shard_map::{Server, TenantState};

use super::close::{self, Became};
use super::look::{self, Old, Standing};
use super::{Address, Input, refuse_if_taken, switching};
use crate::context::{Work, back_off};
use crate::error::{Error, Result};
use crate::failpoint::reach;
use crate::moves;
use crate::server::{Connection, registry};

/// Tries to reach the promoted server before anything is done.
const CONFIRM_TRIES: u32 = 10;
/// How long the promoted server may take for a commit: one whose synchronous standby is away waits for ever.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a closed one may take to be opened, which is a commit for each of its tenants.
const REOPEN_TIMEOUT: Duration = Duration::from_secs(60);
/// Tries to seal once more what a move decided meanwhile.
const SEAL_TRIES: u32 = 5;
/// How long moves in their switch are waited for; those that do not end by then are settled by what their servers say.
const SWITCHES_TIMEOUT: Duration = Duration::from_secs(30);
/// How long routers may take to hear of it before they are named.
const ROUTERS_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(100);
const NOT_THERE: &str = "as it is, it must not run again: make it a standby of the new one first (pg_rewind or pg_basebackup), or \
    keep it from the network, since a router that is cut off from the catalog would go on there";

/// What is done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The promoted server is what it must be. It takes no change of earlier controllers any more; if it was closed, and is to
    /// serve again, it is opened.
    Confirm,
    /// Moves of which nobody could say what they decided come to their end.
    AwaitSwitches,
    /// The promoted server may have forgotten that a tenant left it.
    SealAgain,
    /// Before routers go to the new one: nothing is written to the old one any more that would not be there.
    CloseOld,
    /// Decides.
    Point,
    /// What becomes of moves.
    SettleMoves,
    /// Routers hear of it.
    AwaitRouters,
}

impl Step {
    const ALL: [Self; 7] = [
        Self::Confirm,
        Self::AwaitSwitches,
        Self::SealAgain,
        Self::CloseOld,
        Self::Point,
        Self::SettleMoves,
        Self::AwaitRouters,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Confirm => "confirm",
            Self::AwaitSwitches => "await_switches",
            Self::SealAgain => "seal_again",
            Self::CloseOld => "close_old",
            Self::Point => "point",
            Self::SettleMoves => "settle_moves",
            Self::AwaitRouters => "await_routers",
        }
    }

    /// Those that are left to do.
    fn left(operation: &Operation) -> &'static [Self] {
        let decided = operation.data.get("map_version").is_some();
        let from = Self::ALL.iter().position(|step| decided && *step == Self::SettleMoves);
        &Self::ALL[from.unwrap_or(0)..]
    }

    fn is_past_decision(self) -> bool {
        matches!(self, Self::SettleMoves | Self::AwaitRouters)
    }
}

/// A failover under way.
struct Failover<'w> {
    work: &'w Work,
    input: Input,
    /// The server where it was promoted.
    promoted: Server,
    /// The session by which it is known under other names, and what it says of itself.
    new: Option<(Connection, Standing)>,
    old: Option<SeenAddress>,
    /// Whether the old one may be closed by now.
    has_closed: bool,
}

/// Drives a failover until it is done, or fails before the map is changed.
pub(crate) async fn drive(work: &Work) -> Result<()> {
    let _turn = work.context.turns.take(work.operation.id).await;
    let operation = work.context.catalog.operation(work.operation.id).await?;
    if operation.state != "running" {
        return Ok(());
    }
    let input: Input = serde_json::from_value(operation.input.clone())
        .map_err(|e| Error::Failed(format!("failover {} can't be read: {e}", operation.id)))?;
    let server = work.context.server(&input.server).await?;
    let Address { host, port } = input.to.clone();
    let promoted = Server { host, port, ..server };
    let has_closed = operation.data.get("old_server").is_some();
    let mut failover = Failover { work, input, promoted, new: None, old: None, has_closed };
    for step in Step::left(&operation) {
        work.begin(step.as_str(), "done").await?;
        failover.complete(*step).await?;
    }
    let Input { server, from, to, .. } = &failover.input;
    tracing::warn!(%server, %from, %to, "failed over");
    work.set_state("done", None).await
}

impl Failover<'_> {
    /// Does a step, however often it takes.
    async fn complete(&mut self, step: Step) -> Result<()> {
        let mut tries = 0;
        loop {
            let Err(error) = self.act(step).await else { return Ok(()) };
            // Nobody is served by an old one that is closed: then it is tried for as long as it takes.
            let gives_up = step == Step::Confirm && tries >= CONFIRM_TRIES && !self.has_closed;
            if error.must_stop() {
                return Err(error);
            }
            if gives_up || !(error.is_transient() || step.is_past_decision()) {
                return Err(Error::Failed(self.told(&error)));
            }
            tries += 1;
            tracing::warn!(operation = self.work.operation.id, step = step.as_str(), tries, %error, "a failover does not come on");
            self.work.note_try(tries, &error).await;
            back_off(tries).await;
        }
    }

    /// Why it failed, with what an operator has to know of the old server.
    fn told(&self, error: &Error) -> String {
        let Input { server, from, .. } = &self.input;
        match self.has_closed {
            true => format!(
                "{error}; the map still has server {server} at {from}, which may be closed by now: say it again"
            ),
            false => error.to_string(),
        }
    }

    async fn act(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Confirm => self.confirm().await,
            Step::AwaitSwitches => self.await_switches().await,
            Step::SealAgain => moves::seal_again(self.work, &self.promoted).await,
            Step::CloseOld => self.close_old().await,
            Step::Point => self.point().await,
            Step::SettleMoves => self.settle_moves().await,
            Step::AwaitRouters => self.await_routers().await,
        }
    }

    async fn confirm(&mut self) -> Result<()> {
        let context = &self.work.context;
        let row = context.catalog.server(&self.input.server).await?;
        if !self.input.from.is_of(&row.server) {
            let (server, at) = (&self.input.server, row.server.address());
            return Err(Error::Failed(format!("server {server} is at {at} by now")));
        }
        refuse_if_taken(context, &row.server, &self.promoted).await?;
        let (registry, standing) = look::promoted(context, &row, &self.promoted).await?;
        if self.input.reopens {
            // Refused if the present server answers.
            look::old(context, &row, (&self.promoted, &standing)).await?;
            self.reopen(&registry).await?;
        } else {
            look::refuse_if_closed(&registry, &self.promoted).await?;
        }
        self.raise_term(&registry).await?;
        self.new = Some((registry, standing));
        Ok(())
    }

    /// No controller of an earlier term changes anything there any more.
    async fn raise_term(&self, registry: &Connection) -> Result<()> {
        let raised = tokio::time::timeout(COMMIT_TIMEOUT, registry::raise_term(registry, self.work.term));
        raised.await.map_err(|_| not_committed(&self.promoted, "commit_timeout", COMMIT_TIMEOUT))?
    }

    /// For those tenants that the map has there, as it has them: others have moved, or been suspended, since it was closed.
    async fn reopen(&self, registry: &Connection) -> Result<()> {
        let context = &self.work.context;
        let _turn = context.closing_turn.lock().await;
        let rows = context.catalog.tenants(Some(&self.input.server), &Selector::default()).await?;
        let open = rows.iter().filter(|row| row.tenant.state == TenantState::Open);
        let databases: Vec<&str> = open.map(|row| row.tenant.id.live_database()).collect();
        let opened =
            tokio::time::timeout(REOPEN_TIMEOUT, close::reopen(registry, self.work.term, &databases));
        opened.await.map_err(|_| not_committed(&self.promoted, "reopen_timeout", REOPEN_TIMEOUT))??;
        reach("reopened").await;
        Ok(())
    }

    /// Cutovers look for failovers before they begin, so that no new ones come. One at a server that is gone may not end before
    /// that is replaced, and then finds there what it came to.
    async fn await_switches(&self) -> Result<()> {
        let context = &self.work.context;
        if !matches!(self.look_at_old().await?, Old::Primary(..)) {
            return Ok(());
        }
        let deadline = Instant::now() + SWITCHES_TIMEOUT;
        while let Some(found) = switching(context, &self.input.server).await? {
            if Instant::now() > deadline {
                tracing::warn!(
                    operation = self.work.operation.id,
                    found = found.id,
                    "a move stays in its switch"
                );
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn look_at_old(&self) -> Result<Old> {
        let Some((_, new)) = &self.new else { return Err(Error::Failed("it was not confirmed".into())) };
        let row = self.work.context.catalog.server(&self.input.server).await?;
        look::old(&self.work.context, &row, (&self.promoted, new)).await
    }

    async fn close_old(&mut self) -> Result<()> {
        let context = &self.work.context;
        let old = context.server(&self.input.server).await?;
        if !self.input.from.is_of(&old) {
            return Err(Error::Failed(format!("server {} is at {} by now", old.name, old.address())));
        }
        self.has_closed = true;
        let (state, timeline, became) = match self.look_at_old().await? {
            Old::Primary(registry, standing) => {
                // Whoever goes on knows then that it may be closed; who leads no more stops here.
                self.work.remember(&json!({ "old_server": "it is being closed" })).await?;
                let became = close::close(context, (&old, &registry), self.work.term).await?;
                let state = if matches!(became, Became::Closed(_)) {
                    AddressState::Closed
                } else {
                    AddressState::Open
                };
                (Some(state), standing.timeline, words(&became))
            }
            Old::Silent(why) => {
                (Some(AddressState::Unseen), None, format!("it does not answer ({why}); {NOT_THERE}"))
            }
            Old::LeftAlone(why) => (None, None, why),
        };
        reach("old_closed").await;
        self.old = state.map(|state| SeenAddress { state, detail: became.clone(), timeline });
        self.work.remember(&json!({ "old_server": became })).await
    }

    async fn point(&self) -> Result<()> {
        let Work { context, operation, term } = self.work;
        // Nobody may have closed it meanwhile.
        self.raise_term(&context.connector.registry(&self.promoted).await?).await?;
        let old = context.server(&self.input.server).await?;
        let new = SeenAddress {
            state: AddressState::Serving,
            detail: String::new(),
            timeline: self.new.as_ref().and_then(|(_, new)| new.timeline),
        };
        let pointing =
            Pointing { operation: operation.id, from: &old, to: &self.promoted, old: self.old.clone(), new };
        context.catalog.point_server(&pointing, *term).await?;
        reach("pointed").await;
        Ok(())
    }

    async fn settle_moves(&self) -> Result<()> {
        let context = &self.work.context;
        // A move that stayed in its switch may have decided since.
        for tries in 1..=SEAL_TRIES {
            match moves::seal_again(self.work, &self.promoted).await {
                Ok(()) => break,
                Err(error) if error.must_stop() => return Err(error),
                Err(error) => {
                    tracing::warn!(operation = self.work.operation.id, tries, %error, "a tenant that left may be open at two servers");
                }
            }
            back_off(tries).await;
        }
        moves::settle_failed_over(context, &self.input.server, self.work.term).await?;
        context.nudge.notify_one();
        Ok(())
    }

    /// Routers that serve by an older map, or do not say by which, are named: they may still be at the old server.
    async fn await_routers(&self) -> Result<()> {
        let context = &self.work.context;
        let operation = context.catalog.operation(self.work.operation.id).await?;
        let version = operation.data.get("map_version").and_then(serde_json::Value::as_i64).unwrap_or(0);
        let (live, lost) = (context.config.router_timeout, context.config.router_lost_after);
        let deadline = Instant::now() + ROUTERS_TIMEOUT;
        loop {
            let reporting = context.catalog.live_routers(live).await?;
            let behind = reporting.iter().filter(|router| router.map_version < version);
            let mut behind: Vec<String> = behind.map(|router| router.name.clone()).collect();
            if behind.is_empty() || Instant::now() > deadline {
                let silent = context.catalog.routers_in_service(live, lost).await?;
                behind.extend(silent.into_iter().filter(|router| router.is_silent).map(|router| router.name));
                return self.work.remember(&json!({ "routers_behind": behind })).await;
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn not_committed(promoted: &Server, name: &str, timeout: Duration) -> Error {
    Error::Timeout(format!(
        "the server at {} does not commit within {name} ({timeout:?}): see whether it waits for a standby that is \
         away (synchronous_standby_names)",
        promoted.address()
    ))
}

/// What became of the old server.
pub(super) fn words(became: &Became) -> String {
    match became {
        Became::Closed(count) => {
            format!(
                "it was fenced: its {count} databases of tenants take nobody; make it a standby of the new one"
            )
        }
        Became::Open(why) => {
            format!(
                "it could not be fenced in full ({why}): stop it, and make it a standby of the new one; until then it is tried again"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_version_began_is_ended() {
        let at = |port: u16| json!({ "host": "db1", "port": port });
        let begun =
            json!({ "server": "pg-1", "from": at(5432), "to": at(5433), "tenants": 7, "differences": [] });
        assert!(!serde_json::from_value::<Input>(begun).unwrap().reopens);
    }

    #[test]
    fn past_the_change_of_the_map_nothing_before_it_is_done_again() {
        let operation = |data: serde_json::Value| -> Operation {
            let fields = json!({
                "id": 1, "kind": "failover", "tenant": null, "state": "running", "step": "point", "input": {}, "data": data,
                "error": null, "abort_requested": false, "created_at": "", "updated_at": "",
            });
            serde_json::from_value(fields).unwrap()
        };
        assert_eq!(Step::left(&operation(json!({}))), Step::ALL);
        let left = Step::left(&operation(json!({ "map_version": 7 })));
        assert_eq!(left, [Step::SettleMoves, Step::AwaitRouters]);
        assert!(Step::ALL.iter().filter(|step| step.is_past_decision()).eq(left));
    }
}
