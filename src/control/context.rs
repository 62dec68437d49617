//! What every part of the control plane works with: built once, handed down.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use catalog::{Catalog, Kind, Operation};
use prometheus::Registry;
use serde_json::{Value, json};
use shard_map::policy::PlacementPolicy;
use shard_map::{MasterKey, Server, ServerName};
use tokio::sync::{Notify, watch};

use crate::config::ControlConfig;
use crate::doctor::Doctor;
use crate::error::{Error, Result};
use crate::http::{Requests, SignIn, Tls};
use crate::live::Live;
use crate::map::MapTools;
use crate::metrics::Metrics;
use crate::moves::throttle::Budgets;
use crate::provision::Dumps;
use crate::server::Connector;
use crate::turns::Turns;

/// How long ago the last failed try may be: longer than any pause between tries.
pub(crate) const TRIED_LATELY: Duration = Duration::from_secs(60);
/// Tries in a row from which on failures are noted.
const TRIES_NOTED_FROM: u32 = 3;
/// How long writing such a note may take.
const NOTE_TIMEOUT: Duration = Duration::from_millis(500);

/// Shared by the API and the workers.
pub(crate) struct Context {
    pub(crate) catalog: Catalog,
    pub(crate) key: MasterKey,
    pub(crate) connector: Connector,
    pub(crate) map: MapTools,
    /// Held while the map is verified: never two looks at once.
    pub(crate) map_turn: tokio::sync::Mutex<()>,
    /// Held by who closes a server that was left, or opens it again.
    pub(crate) closing_turn: tokio::sync::Mutex<()>,
    pub(crate) config: ControlConfig,
    /// Where last dumps go, if they are made.
    pub(crate) dumps: Option<Dumps>,
    pub(crate) metrics: Metrics,
    /// What Prometheus reads.
    pub(crate) registry: Registry,
    /// What may be copied from and to each server.
    pub(crate) budgets: Budgets,
    /// Wakes the reconciler: something new is to be done.
    pub(crate) nudge: Notify,
    /// Wakes who fills the stock.
    pub(crate) stock_nudge: Notify,
    /// Wakes who empties servers.
    pub(crate) drain_nudge: Notify,
    /// When a tenant was last made from the stock here.
    pub(crate) stock_claimed: watch::Sender<Option<Instant>>,
    /// Wakes who measures what servers and tenants use.
    pub(crate) measure_nudge: Notify,
    /// Told whenever an operation that this instance drove has ended.
    pub(crate) ended: Notify,
    /// The term under which this instance leads; none while it does not.
    pub(crate) term: watch::Sender<Option<i64>>,
    pub(crate) turns: Turns,
    /// Who watches what goes on.
    pub(crate) live: Live,
    pub(crate) doctor: Doctor,
    /// What the API speaks TLS with, if it does.
    pub(crate) api_tls: Option<Arc<Tls>>,
    /// Who may use the API.
    pub(crate) sign_in: SignIn,
    /// What requests to the API have in common.
    pub(crate) requests: Requests,
}

impl Context {
    /// The term, for work that only the leader may do.
    ///
    /// # Errors
    /// [`Error::NotLeading`] while another instance leads, or none does.
    pub(crate) fn leading_term(&self) -> Result<i64> {
        (*self.term.borrow()).ok_or(Error::NotLeading)
    }

    /// Placement policies: as declared; without a declaration, this instance's own configuration counts.
    pub(crate) async fn policy(&self) -> Result<PlacementPolicy> {
        let declared = self.catalog.placement_policy().await?;
        Ok(declared.unwrap_or_else(|| PlacementPolicy {
            tenants_per_server_max: self.config.tenants_per_server_max,
            ..PlacementPolicy::default()
        }))
    }

    /// A server of the map.
    pub(crate) async fn server(&self, name: &ServerName) -> Result<Server> {
        Ok(self.catalog.server(name).await?.server)
    }
}

/// The tries of an operation's step that failed in a row lately, for who wonders why nothing goes on; null without any.
pub(crate) fn trying(operation: &Operation) -> Value {
    let is_of_step = |trying: &&Value| trying["step"] == operation.step.as_str() && !is_ended(operation);
    let trying = operation.data.get("trying").filter(is_of_step);
    let lately = |trying: &&Value| {
        let at = trying["at"].as_u64().map(Duration::from_secs).unwrap_or_default();
        since_epoch().saturating_sub(at) < TRIED_LATELY
    };
    trying
        .filter(lately)
        .map_or(Value::Null, |trying| json!({ "tries": trying["tries"], "error": trying["error"] }))
}

fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// An operation under way, as its driver sees it: journal, memory, and the wish to abort.
pub(crate) struct Work {
    pub(crate) context: Arc<Context>,
    pub(crate) operation: Operation,
    pub(crate) term: i64,
}

impl Work {
    /// Records that a step's deeds begin. Nothing of the step may be done before this returned.
    pub(crate) async fn begin(&self, step: &str, result_before: &str) -> Result<()> {
        tracing::info!(operation = self.operation.id, step, "step begins");
        self.context.catalog.begin_step(self.operation.id, step, result_before, self.term).await?;
        crate::failpoint::reach(step).await;
        Ok(())
    }

    /// Keeps something that a later step, another controller or an operator needs.
    pub(crate) async fn remember(&self, found: &Value) -> Result<()> {
        Ok(self.context.catalog.merge_data(self.operation.id, found, self.term).await?)
    }

    /// Notes that tries fail in a row, for who wonders why nothing goes on. Work does not wait long for it.
    pub(crate) async fn note_try(&self, tries: u32, error: &Error) {
        // A catalog that fails can't be told.
        if tries < TRIES_NOTED_FROM || matches!(error, Error::Catalog(_)) {
            return;
        }
        let at = since_epoch().as_secs();
        let noted = async {
            let step = self.context.catalog.operation(self.operation.id).await?.step;
            let note = json!({ "step": step, "tries": tries, "error": error.to_string(), "at": at });
            self.remember(&json!({ "trying": note })).await
        };
        drop(tokio::time::timeout(NOTE_TIMEOUT, noted).await);
    }

    /// Ends the operation, or makes it `switched`.
    pub(crate) async fn set_state(&self, state: &str, error: Option<&str>) -> Result<()> {
        tracing::info!(operation = self.operation.id, state, error, "operation");
        Ok(self.context.catalog.set_operation_state(self.operation.id, state, error, self.term).await?)
    }

    /// Whether it was ended by something else than its driver. A catalog that can't be asked does not say so.
    pub(crate) async fn is_over(&self) -> bool {
        self.context.catalog.operation(self.operation.id).await.is_ok_and(|operation| is_ended(&operation))
    }

    /// How far it has come, as a mark that is another one after each step or turn; none when something else than its
    /// driver has ended it.
    pub(crate) async fn progress(&self) -> Result<Option<String>> {
        let (catalog, id) = (&self.context.catalog, self.operation.id);
        let operation = catalog.operation(id).await?;
        if is_ended(&operation) {
            return Ok(None);
        }
        if operation.kind != Kind::Migrate {
            return Ok(Some(operation.step));
        }
        let progress = catalog.run_progress(id).await?;
        Ok(Some(format!("{} {}", operation.step, progress.total - progress.pending)))
    }

    /// Whether somebody wants it undone.
    pub(crate) async fn abort_requested(&self) -> Result<bool> {
        Ok(self.context.catalog.abort_requested(self.operation.id).await?)
    }
}

fn is_ended(operation: &Operation) -> bool {
    !matches!(operation.state.as_str(), "running" | "switched")
}

/// Waits before the next try of something that fails for now: longer each time, up to five seconds.
pub(crate) async fn back_off(tries: u32) {
    let wait = Duration::from_millis(50).saturating_mul(1 << tries.min(7)).min(Duration::from_secs(5));
    tokio::time::sleep(wait).await;
}
