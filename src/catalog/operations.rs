//! Operations: durable work of the control plane, found and finished by whichever instance leads.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shard_map::{ServerName, Tenant, TenantId, TenantState};
use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::query::{Catalog, limited};
use crate::tenants::lock_tenant;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Makes a tenant's database.
    Create,
    /// Refuses a tenant's connections.
    Suspend,
    /// Lets them in again.
    Resume,
    /// Puts a tenant's database aside, or drops it.
    Delete,
    /// Brings a deleted tenant back.
    Undelete,
    /// Copies a tenant into a new one.
    Clone,
    /// Gives a tenant another id.
    Rename,
    /// Runs migrations over many tenants.
    Migrate,
    /// Moves a tenant to another server.
    Move,
    /// Points a server to its promoted standby.
    Failover,
}

impl Kind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Suspend => "suspend",
            Self::Resume => "resume",
            Self::Delete => "delete",
            Self::Undelete => "undelete",
            Self::Clone => "clone",
            Self::Rename => "rename",
            Self::Migrate => "migrate",
            Self::Move => "move",
            Self::Failover => "failover",
        }
    }
}

/// An operation as recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Operation {
    /// Its number; later ones have higher ones.
    pub id: i64,
    /// What it does.
    pub kind: Kind,
    /// To whom; none for a migration run.
    pub tenant: Option<TenantId>,
    /// `running`, `done` or `failed`; a move also `switched`, `completed`, `aborted`.
    pub state: String,
    /// The step whose deeds were begun last.
    pub step: String,
    /// What was asked for.
    pub input: Value,
    /// What the steps found out.
    pub data: Value,
    /// Why it failed, or why its last attempt did.
    pub error: Option<String>,
    /// Somebody wants it undone.
    pub abort_requested: bool,
    /// When it was asked for (RFC 3339).
    pub created_at: String,
    /// When its record last changed (RFC 3339).
    pub updated_at: String,
}

/// A row of an operation's journal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the journal.
    pub number: i32,
    /// The step.
    pub step: String,
    /// When its deeds began (RFC 3339).
    pub started_at: String,
    /// When they ended; none while they go on, or if the controller died in them.
    pub ended_at: Option<String>,
    /// How they ended, in words.
    pub result: Option<String>,
    /// How long they took, or have taken so far, in milliseconds.
    #[serde(default)]
    pub took_ms: f64,
}

/// Starts an operation in the caller's transaction.
pub(crate) async fn insert_operation(
    transaction: &Transaction<'_>,
    kind: Kind,
    tenant: Option<&TenantId>,
    input: &Value,
) -> Result<i64> {
    const SQL: &str = "
        INSERT INTO operation (kind, tenant, state, step, input) VALUES ($1, $2, 'running', 'begin', $3) RETURNING id";
    let tenant_id = tenant.map(TenantId::as_str);
    let word = kind.as_str();
    match limited("operation_insert", transaction.query_one(SQL, &[&word, &tenant_id, input])).await {
        Ok(row) => Ok(row.get(0)),
        Err(e) if e.is_unique_violation() => Err(Error::Conflict(match (tenant, kind) {
            (Some(tenant), _) => format!("another operation on tenant {tenant} is running"),
            (None, Kind::Failover) => "another failover of the server is under way".to_owned(),
            (None, _) => "another migration run is under way".to_owned(),
        })),
        Err(e) => Err(e),
    }
}

impl Catalog {
    /// Starts an operation on a tenant that must be in one of the states `expected`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown tenant; [`Error::Conflict`] when it is in another state or another
    /// operation on it is running.
    pub async fn start_operation(
        &self,
        kind: Kind,
        tenant: &TenantId,
        expected: &[TenantState],
        input: &Value,
    ) -> Result<i64> {
        let check = |found: &Tenant| match expected.contains(&found.state) {
            true => Ok(()),
            false => Err(Error::Conflict(format!("tenant {tenant} is {}", found.state.as_str()))),
        };
        self.start_checked(kind, tenant, check, input).await
    }

    /// Starts a move of an open tenant that must still be on the server `from`.
    ///
    /// # Errors
    /// As [`Catalog::start_operation`]; also [`Error::Conflict`] when the tenant is on another server by now.
    pub async fn start_move(&self, tenant: &TenantId, from: &ServerName, input: &Value) -> Result<i64> {
        let check = |found: &Tenant| match (found.state, &found.server == from) {
            (TenantState::Open, true) => Ok(()),
            (TenantState::Open, false) => {
                Err(Error::Conflict(format!("tenant {tenant} is on {} now", found.server)))
            }
            (state, _) => Err(Error::Conflict(format!("tenant {tenant} is {}", state.as_str()))),
        };
        self.start_checked(Kind::Move, tenant, check, input).await
    }

    async fn start_checked(
        &self,
        kind: Kind,
        tenant: &TenantId,
        check: impl FnOnce(&Tenant) -> Result<()>,
        input: &Value,
    ) -> Result<i64> {
        let mut client = self.client().await?;
        let transaction = limited("operation_start", client.transaction()).await?;
        check(&lock_tenant(&transaction, tenant).await?)?;
        let id = insert_operation(&transaction, kind, Some(tenant), input).await?;
        limited("operation_start", transaction.commit()).await?;
        client.keep();
        Ok(id)
    }

    /// Operations that a leader has to see to: running ones, and switched moves.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn open_operations(&self) -> Result<Vec<Operation>> {
        // Without the text of migrations, which is large: whoever drives a run reads it then.
        const SQL: &str = "
            SELECT to_jsonb(o) || CASE WHEN kind = 'migrate' THEN '{\"input\": {}}'::jsonb ELSE '{}' END
            FROM operation o WHERE state IN ('running', 'switched') ORDER BY id";
        self.json("operation_open", SQL, &[]).await
    }

    /// Servers that a move goes on between.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn moving_servers(&self) -> Result<Vec<ServerName>> {
        const SQL: &str = "
            SELECT DISTINCT to_jsonb(server) FROM operation, unnest(ARRAY[input->>'from', input->>'to']) server
            WHERE kind = 'move' AND state = 'running' AND server IS NOT NULL";
        self.json("operation_moving_servers", SQL, &[]).await
    }

    /// The operation that is changing a tenant, if one is.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn running_operation(&self, tenant: &TenantId) -> Result<Option<Operation>> {
        const SQL: &str = "SELECT to_jsonb(o) FROM operation o WHERE tenant = $1 AND state = 'running'";
        Ok(self.json("operation_running", SQL, &[&tenant.as_str()]).await?.into_iter().next())
    }

    /// Operations of a kind, newest first: those before this number, or the newest.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn operations(
        &self,
        kind: Kind,
        before: Option<i64>,
        count_max: i64,
    ) -> Result<Vec<Operation>> {
        const SQL: &str = "
            SELECT to_jsonb(o) FROM operation o WHERE kind = $1 AND ($2::bigint IS NULL OR id < $2)
            ORDER BY id DESC LIMIT $3";
        self.json("operation_list", SQL, &[&kind.as_str(), &before, &count_max]).await
    }

    /// One operation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn operation(&self, id: i64) -> Result<Operation> {
        let rows =
            self.json("operation_show", "SELECT to_jsonb(o) FROM operation o WHERE id = $1", &[&id]).await?;
        rows.into_iter().next().ok_or_else(|| Error::NotFound(format!("operation {id} does not exist")))
    }

    /// An operation's journal.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn steps(&self, id: i64) -> Result<Vec<Step>> {
        const SQL: &str = "
            SELECT to_jsonb(s) || jsonb_build_object('took_ms',
                round(extract(epoch FROM coalesce(ended_at, clock_timestamp()) - started_at) * 1000, 1))
            FROM operation_step s WHERE operation = $1 ORDER BY number";
        self.json("operation_steps", SQL, &[&id]).await
    }

    /// How many operations there are, by kind and state.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn count_operations(&self) -> Result<Vec<(String, String, i64)>> {
        const SQL: &str = "
            SELECT kind, CASE WHEN state = 'running' AND data ? 'paused' AND NOT abort_requested THEN 'paused'
                ELSE state END, count(*)
            FROM operation GROUP BY 1, 2";
        let rows = self.rows("operation_count", SQL, &[]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// Records that a step's deeds begin: the step before is closed with `result`, this one opened.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's; [`Error::Ended`].
    pub async fn begin_step(&self, id: i64, step: &str, result_before: &str, term: i64) -> Result<()> {
        const SQL: &str = "
            WITH open AS (
                SELECT o.id FROM lease, operation o
                WHERE lease.term = $4 AND o.id = $1 AND o.state IN ('running', 'switched') FOR UPDATE OF o),
            closed AS (
                UPDATE operation_step SET ended_at = clock_timestamp(), result = $3
                WHERE operation = $1 AND ended_at IS NULL AND EXISTS (SELECT FROM open)),
            opened AS (
                INSERT INTO operation_step (operation, number, step, term)
                SELECT id, coalesce((SELECT max(number) FROM operation_step WHERE operation = $1), 0) + 1, $2, $4
                FROM open)
            UPDATE operation SET step = $2, updated_at = now() WHERE id = $1 AND EXISTS (SELECT FROM open)";
        let written = self.execute("operation_step_begin", SQL, &[&id, &step, &result_before, &term]).await?;
        self.as_driver(written, id, term).await
    }

    /// Merges what a step found out into the operation's data.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's; [`Error::Ended`].
    pub async fn merge_data(&self, id: i64, found: &Value, term: i64) -> Result<()> {
        const SQL: &str = "
            UPDATE operation SET data = data || $2, updated_at = now()
            WHERE id = $1 AND state IN ('running', 'switched') AND EXISTS (SELECT FROM lease WHERE term = $3)";
        let written = self.execute("operation_data", SQL, &[&id, found, &term]).await?;
        self.as_driver(written, id, term).await
    }

    /// Sets an operation's state: its end, or `switched`.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's; [`Error::Ended`].
    pub async fn set_operation_state(
        &self,
        id: i64,
        state: &str,
        error: Option<&str>,
        term: i64,
    ) -> Result<()> {
        const SQL: &str = "
            WITH open AS (
                SELECT FROM lease, operation o
                WHERE lease.term = $4 AND o.id = $1 AND o.state IN ('running', 'switched') FOR UPDATE OF o),
            closed AS (
                UPDATE operation_step SET ended_at = clock_timestamp(), result = coalesce($3, $2)
                WHERE operation = $1 AND ended_at IS NULL AND EXISTS (SELECT FROM open))
            UPDATE operation SET state = $2, error = coalesce($3, error), updated_at = now()
            WHERE id = $1 AND EXISTS (SELECT FROM open)";
        let written = self.execute("operation_state", SQL, &[&id, &state, &error, &term]).await?;
        self.as_driver(written, id, term).await
    }

    /// Why nothing was written, if so.
    pub(crate) async fn as_driver(&self, written: u64, id: i64, term: i64) -> Result<()> {
        if written > 0 {
            return Ok(());
        }
        const LEADS: &str = "SELECT FROM lease WHERE term = $1";
        match self.row("operation_leads", LEADS, &[&term]).await? {
            Some(_) => Err(Error::Ended(id)),
            None => Err(Error::LeaseLost),
        }
    }

    /// A time as operations tell it (RFC 3339): so many seconds after 1970, or now.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn timestamp(&self, unix_s: Option<i64>) -> Result<String> {
        const SQL: &str = "SELECT coalesce(to_jsonb(to_timestamp($1::bigint)), to_jsonb(clock_timestamp()))";
        let rows = self.json("timestamp", SQL, &[&unix_s]).await?;
        rows.into_iter().next().ok_or_else(|| Error::NotFound("the catalog told no time".to_owned()))
    }

    /// Asks for an operation to be undone. The driver looks for it between its deeds.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn request_abort(&self, id: i64) -> Result<()> {
        const SQL: &str = "UPDATE operation SET abort_requested = true, updated_at = now() WHERE id = $1";
        match self.execute("operation_abort", SQL, &[&id]).await? {
            0 => Err(Error::NotFound(format!("operation {id} does not exist"))),
            _ => Ok(()),
        }
    }

    /// Pauses a move that is in one of these steps; what is paused already stays so since then. `false`: it is in another.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn pause_move(&self, id: i64, by: &str, steps: &[&str]) -> Result<bool> {
        const SQL: &str = "
            UPDATE operation SET updated_at = now(),
                data = jsonb_build_object('paused', jsonb_build_object('since', now(), 'by', $2::text)) || data
            WHERE id = $1 AND state = 'running' AND step = ANY ($3)";
        Ok(self.execute("operation_pause", SQL, &[&id, &by, &steps]).await? > 0)
    }

    /// Lets a paused move go on.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn resume_move(&self, id: i64) -> Result<()> {
        const SQL: &str = "UPDATE operation SET data = data - 'paused', updated_at = now() WHERE id = $1 AND data ? 'paused'";
        self.execute("operation_resume", SQL, &[&id]).await.map(drop)
    }

    /// Has what a switched move left behind removed now, before its time.
    ///
    /// # Errors
    /// [`Error::Ended`] when it is not switched any more.
    pub async fn finish_move(&self, id: i64) -> Result<()> {
        const SQL: &str = "
            UPDATE operation SET data = data || '{\"finish\": true}', updated_at = now() WHERE id = $1 AND state = 'switched'";
        match self.execute("operation_finish", SQL, &[&id]).await? {
            0 => Err(Error::Ended(id)),
            _ => Ok(()),
        }
    }

    /// Whether somebody asked for the operation to be undone.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn abort_requested(&self, id: i64) -> Result<bool> {
        const SQL: &str = "SELECT abort_requested FROM operation WHERE id = $1";
        Ok(self.row("operation_abort_asked", SQL, &[&id]).await?.is_some_and(|row| row.get(0)))
    }
}
