//! Migration runs: which tenants a run covers, in which wave, and how far each is.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shard_map::TenantId;

use crate::error::{Error, Result};
use crate::operations::{Kind, Operation, insert_operation};
use crate::query::Catalog;

/// A tenant that a new run is to cover.
#[derive(Debug, Clone)]
pub struct NewTarget {
    /// The tenant.
    pub tenant: TenantId,
    /// The wave it is in, from 0.
    pub wave: i32,
}

/// How far a tenant is in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    /// Its turn has not come, or it waits for another operation on it.
    Pending,
    /// At the run's version.
    Done,
    /// Set aside with an error.
    Failed,
    /// Deleted meanwhile.
    Gone,
}

impl TargetState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Gone => "gone",
        }
    }
}

/// A schema by its fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaMark {
    /// Of the migrations' names and texts.
    pub schema: String,
    /// The newest migration.
    pub version: Option<i32>,
}

/// A tenant in a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Target {
    /// The tenant.
    pub tenant: TenantId,
    /// Its wave.
    pub wave: i32,
    /// How far it is.
    pub state: TargetState,
    /// Why it failed, or why its turn is put off.
    pub error: Option<String>,
}

impl Catalog {
    /// Starts a run over these tenants.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another run is under way.
    pub async fn start_run(&self, input: &Value, targets: &[NewTarget]) -> Result<i64> {
        let mut client = self.client().await?;
        let error = |e: tokio_postgres::Error| Error::from_query("run_start", &e);
        let transaction = client.transaction().await.map_err(error)?;
        let run = insert_operation(&transaction, Kind::Migrate, None, input).await?;
        let tenants: Vec<&str> = targets.iter().map(|target| target.tenant.as_str()).collect();
        let waves: Vec<i32> = targets.iter().map(|target| target.wave).collect();
        const SQL: &str = "
            INSERT INTO migration_target (run, tenant, wave) SELECT $1, * FROM unnest($2::text[], $3::int[])";
        transaction.execute(SQL, &[&run, &tenants, &waves]).await.map_err(error)?;
        transaction.commit().await.map_err(error)?;
        Ok(run)
    }

    /// A run's tenants, by wave and id.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn run_targets(&self, run: i64) -> Result<Vec<Target>> {
        const SQL: &str = "SELECT to_jsonb(t) FROM migration_target t WHERE run = $1 ORDER BY wave, tenant";
        self.json("run_targets", SQL, &[&run]).await
    }

    /// Records how a tenant fared.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn set_target(&self, run: i64, target: &Target, term: i64) -> Result<()> {
        const SQL: &str = "
            UPDATE migration_target SET state = $3, error = $4, ended_at = now()
            WHERE run = $1 AND tenant = $2 AND EXISTS (SELECT FROM lease WHERE term = $5)";
        let (tenant, state) = (target.tenant.as_str(), target.state.as_str());
        match self.execute("run_target", SQL, &[&run, &tenant, &state, &target.error, &term]).await? {
            0 => Err(Error::LeaseLost),
            _ => Ok(()),
        }
    }

    /// Adds tenants that a run does not cover yet, such as were created while it went on. Returns how many;
    /// none without the leader's term.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn add_targets(&self, run: i64, tenants: &[TenantId], term: i64) -> Result<u64> {
        const SQL: &str = "
            INSERT INTO migration_target (run, tenant, wave)
            SELECT $1, tenant, (SELECT coalesce(max(wave), 0) FROM migration_target WHERE run = $1)
            FROM unnest($2::text[]) AS tenant WHERE EXISTS (SELECT FROM lease WHERE term = $3)
            ON CONFLICT DO NOTHING";
        let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
        self.execute("run_add_targets", SQL, &[&run, &tenants, &term]).await
    }

    /// Takes a run up again that failed or was aborted: the tenants that failed have another turn.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is not stopped, or another run is under way.
    pub async fn resume_run(&self, run: i64) -> Result<()> {
        const SQL: &str = "
            WITH resumed AS (
                UPDATE operation SET state = 'running', error = NULL, abort_requested = false, updated_at = now()
                WHERE id = $1 AND kind = 'migrate' AND state IN ('failed', 'aborted') RETURNING id),
            again AS (
                UPDATE migration_target SET state = 'pending', error = NULL
                WHERE run IN (SELECT id FROM resumed) AND state = 'failed')
            SELECT id FROM resumed";
        match self.row("run_resume", SQL, &[&run]).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(Error::Conflict(format!(
                "run {run} is not stopped: only a failed or aborted run can be resumed"
            ))),
            Err(e) if e.is_unique_violation() => {
                Err(Error::Conflict("another migration run is under way".to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    /// Whether a run is under way.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn is_migrating(&self) -> Result<bool> {
        const SQL: &str = "SELECT FROM operation WHERE kind = 'migrate' AND state = 'running'";
        Ok(self.row("run_is_running", SQL, &[]).await?.is_some())
    }

    /// What [`Catalog::fleet_schema`] is made from, in short.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn fleet_schema_mark(&self) -> Result<Option<SchemaMark>> {
        // By content: numbers of runs begin anew when a catalog is made anew.
        const SQL: &str = "
            SELECT encode(sha256(convert_to((input->'files')::text, 'UTF8')), 'hex'),
                (SELECT max(substring(f->>'name' FROM '^V([0-9]+)__')::int) FROM jsonb_array_elements(input->'files') f)
            FROM operation
            WHERE kind = 'migrate' AND state = 'done' AND input->>'selector' = '*' ORDER BY id DESC LIMIT 1";
        let row = self.row("fleet_schema_mark", SQL, &[]).await?;
        Ok(row.map(|row| SchemaMark { schema: row.get(0), version: row.get(1) }))
    }

    /// The newest run that brought the whole fleet to its version: what a new tenant's schema is made from.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn fleet_schema(&self) -> Result<Option<Operation>> {
        const SQL: &str = "
            SELECT to_jsonb(o) FROM operation o
            WHERE kind = 'migrate' AND state = 'done' AND input->>'selector' = '*' ORDER BY id DESC LIMIT 1";
        Ok(self.json("fleet_schema", SQL, &[]).await?.into_iter().next())
    }
}
