//! Migration runs: which tenants a run covers, in which wave, and how far each is.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shard_map::{ServerName, TenantId};

use crate::error::{Error, Result};
use crate::operations::{Kind, Operation, insert_operation};
use crate::query::{Catalog, Params, limited};

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

/// What a run has to do next, by how its tenants' turns ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Outlook {
    /// The lowest wave with a tenant whose turn has not ended.
    pub wave: Option<i32>,
    /// Tenants that are set aside.
    pub failed: usize,
    /// Those of them that are canaries.
    pub failed_canaries: usize,
}

/// How a tenant's turn ended.
#[derive(Debug, Clone)]
pub struct TurnEnd {
    /// Whose turn it was.
    pub tenant: TenantId,
    /// How far it is now.
    pub state: TargetState,
    /// Why it failed, or why its turn is put off.
    pub error: Option<String>,
    /// The version of its schema now; `None` leaves what is on record.
    pub version: Option<i32>,
    /// What the last try took, in milliseconds.
    pub took_ms: Option<i64>,
}

/// How far a run is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunProgress {
    /// Tenants in all.
    pub total: u64,
    /// At the run's version.
    pub done: u64,
    /// Set aside.
    pub failed: u64,
    /// Whose turn has not ended.
    pub pending: u64,
    /// Deleted meanwhile.
    pub gone: u64,
    /// The lowest wave with a tenant whose turn has not ended.
    pub wave: Option<i32>,
    /// The last wave.
    pub last_wave: Option<i32>,
    /// Tenants done for each second of the last minute; none when too few to tell.
    pub rate: Option<f64>,
}

impl RunProgress {
    /// Tenants by the word for how far they are.
    #[must_use]
    pub fn by_state(&self) -> [(&'static str, u64); 4] {
        [("done", self.done), ("failed", self.failed), ("pending", self.pending), ("gone", self.gone)]
    }
}

impl Catalog {
    /// Starts a run over these tenants. `found` is what is known of it already.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another run is under way.
    pub async fn start_run(&self, input: &Value, found: &Value, targets: &[NewTarget]) -> Result<i64> {
        let mut client = self.client().await?;
        let transaction = limited("run_start", client.transaction()).await?;
        let run = insert_operation(&transaction, Kind::Migrate, None, input).await?;
        let tenants: Vec<&str> = targets.iter().map(|target| target.tenant.as_str()).collect();
        let waves: Vec<i32> = targets.iter().map(|target| target.wave).collect();
        const SQL: &str = "
            INSERT INTO migration_target (run, tenant, wave) SELECT $1, * FROM unnest($2::text[], $3::int[])";
        limited("run_start", transaction.execute(SQL, &[&run, &tenants, &waves])).await?;
        const FOUND: &str = "UPDATE operation SET data = data || $2 WHERE id = $1";
        limited("run_start", transaction.execute(FOUND, &[&run, found])).await?;
        limited("run_start", transaction.commit()).await?;
        client.keep();
        Ok(run)
    }

    /// Runs, newest first: those before this number, or the newest; without the text of their migrations, which is large.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn runs(&self, before: Option<i64>, count_max: i64) -> Result<Vec<Operation>> {
        const SQL: &str = "
            SELECT to_jsonb(o) || jsonb_build_object('input', o.input - 'files') FROM (
                SELECT * FROM operation WHERE kind = 'migrate' AND ($1::bigint IS NULL OR id < $1)
                ORDER BY id DESC LIMIT $2) AS o";
        self.json("run_list", SQL, &[&before, &count_max]).await
    }

    /// One run, without the text of its migrations.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn run(&self, id: i64) -> Result<Option<Operation>> {
        const SQL: &str = "
            SELECT to_jsonb(o) || jsonb_build_object('input', o.input - 'files')
            FROM operation o WHERE id = $1 AND kind = 'migrate'";
        Ok(self.json("run_show", SQL, &[&id]).await?.into_iter().next())
    }

    /// What a run has to do next, whose canaries are the wave `canaries`.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn run_outlook(&self, run: i64, canaries: i32) -> Result<Outlook> {
        const SQL: &str = "
            SELECT jsonb_build_object('wave', min(wave) FILTER (WHERE state = 'pending'),
                'failed', count(*) FILTER (WHERE state = 'failed'),
                'failed_canaries', count(*) FILTER (WHERE state = 'failed' AND wave = $2))
            FROM migration_target WHERE run = $1 AND state IN ('pending', 'failed')";
        Ok(self.json("run_outlook", SQL, &[&run, &canaries]).await?.into_iter().next().unwrap_or_default())
    }

    /// A wave's tenants whose turn has not ended, by id, with the server that each is on; none for one that is no more.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn run_pending(&self, run: i64, wave: i32) -> Result<Vec<(TenantId, Option<ServerName>)>> {
        const SQL: &str = "
            SELECT jsonb_build_array(m.tenant, t.server)
            FROM migration_target m LEFT JOIN tenant t ON t.id = m.tenant
            WHERE m.run = $1 AND m.wave = $2 AND m.state = 'pending' ORDER BY m.tenant";
        self.json("run_pending", SQL, &[&run, &wave]).await
    }

    /// How far a run is.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn run_progress(&self, run: i64) -> Result<RunProgress> {
        const SQL: &str = "
            SELECT jsonb_build_object('total', count(*), 'done', count(*) FILTER (WHERE state = 'done'),
                'failed', count(*) FILTER (WHERE state = 'failed'),
                'pending', count(*) FILTER (WHERE state = 'pending'),
                'gone', count(*) FILTER (WHERE state = 'gone'),
                'wave', min(wave) FILTER (WHERE state = 'pending'), 'last_wave', max(wave),
                'rate', (count(*) FILTER (WHERE lately) - 1)
                    / nullif(extract(epoch FROM now() - min(ended_at) FILTER (WHERE lately)), 0))
            FROM (SELECT *, state = 'done' AND ended_at > now() - interval '1 minute' AS lately
                FROM migration_target WHERE run = $1) AS target";
        Ok(self.json("run_progress", SQL, &[&run]).await?.into_iter().next().unwrap_or_default())
    }

    /// A run's tenants that failed, or whose turn was put off for a reason, by id.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn run_troubles(&self, run: i64) -> Result<Vec<Target>> {
        const SQL: &str = "
            SELECT to_jsonb(t) FROM migration_target t
            WHERE run = $1 AND error IS NOT NULL AND state IN ('failed', 'pending') ORDER BY tenant";
        self.json("run_troubles", SQL, &[&run]).await
    }

    /// What a tenant's turn took in the last runs, in milliseconds; none when there was none.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn usual_turn_ms(&self) -> Result<Option<f64>> {
        const SQL: &str = "
            SELECT avg(took_ms)::float8 FROM (
                SELECT took_ms FROM migration_target WHERE state = 'done' AND took_ms IS NOT NULL
                ORDER BY run DESC LIMIT 1000) AS lately";
        Ok(self.row("run_usual", SQL, &[]).await?.and_then(|row| row.get(0)))
    }

    /// Texts of a version's file in earlier runs, with their names, newest first.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn earlier_files(&self, version: i32) -> Result<Vec<(String, String)>> {
        const SQL: &str = "
            SELECT file->>'name', file->>'sql' FROM operation, jsonb_array_elements(input->'files') AS file
            WHERE kind = 'migrate' AND file->>'name' ~ ('^V0*' || $1::int || '__') ORDER BY id DESC LIMIT 100";
        let rows = self.rows("run_earlier_files", SQL, &[&version]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Records how a tenant's turn ended, and the version of its schema, which routers are told.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn end_turn(&self, run: i64, end: &TurnEnd, term: i64) -> Result<()> {
        const SQL: &str = "
            WITH leader AS (SELECT FROM lease WHERE term = $7),
            versioned AS (
                UPDATE tenant SET schema_version = $5::int
                WHERE id = $2 AND $5::int IS NOT NULL AND schema_version IS DISTINCT FROM $5::int
                    AND EXISTS (SELECT FROM leader))
            UPDATE migration_target SET state = $3, error = $4, tries = tries + 1, took_ms = coalesce($6::bigint, took_ms),
                ended_at = now()
            WHERE run = $1 AND tenant = $2 AND EXISTS (SELECT FROM leader)";
        let (tenant, state) = (end.tenant.as_str(), end.state.as_str());
        let params: Params<'_> = &[&run, &tenant, &state, &end.error, &end.version, &end.took_ms, &term];
        match self.execute("run_turn", SQL, params).await? {
            0 => Err(Error::LeaseLost),
            _ => Ok(()),
        }
    }

    /// Keeps something about a run that is under way, for its status. Not at all without the leader's term.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn note_run(&self, run: i64, found: &Value, term: i64) -> Result<()> {
        const SQL: &str = "
            UPDATE operation SET data = data || $2
            WHERE id = $1 AND state = 'running' AND EXISTS (SELECT FROM lease WHERE term = $3)";
        self.execute("run_note", SQL, &[&run, found, &term]).await.map(drop)
    }

    /// Adds tenants that a run does not cover yet, such as were created while it went on, and those that were gone and
    /// are back. Returns how many; none without the leader's term.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn add_targets(&self, run: i64, tenants: &[TenantId], term: i64) -> Result<u64> {
        const SQL: &str = "
            INSERT INTO migration_target AS t (run, tenant, wave)
            SELECT $1, tenant, (SELECT coalesce(max(wave), 0) FROM migration_target WHERE run = $1)
            FROM unnest($2::text[]) AS tenant WHERE EXISTS (SELECT FROM lease WHERE term = $3)
            ON CONFLICT (run, tenant) DO UPDATE SET state = 'pending', error = NULL WHERE t.state = 'gone'";
        let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
        self.execute("run_add_targets", SQL, &[&run, &tenants, &term]).await
    }

    /// Ends a run of the whole fleet as done, unless a tenant came meanwhile that it does not cover: whether it ended.
    ///
    /// A tenant that is made after this has the run's schema from its beginning.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn end_fleet_run(&self, run: i64, term: i64) -> Result<bool> {
        const SQL: &str = "
            SELECT EXISTS (SELECT FROM lease WHERE term = $2),
                EXISTS (SELECT FROM tenant WHERE state <> 'deleted' AND NOT EXISTS (
                    SELECT FROM migration_target m WHERE run = $1 AND m.tenant = tenant.id AND m.state <> 'gone'))
            FROM map_version";
        const END: &str = "
            WITH closed AS (
                UPDATE operation_step SET ended_at = clock_timestamp(), result = 'done'
                WHERE operation = $1 AND ended_at IS NULL)
            UPDATE operation SET state = 'done', updated_at = now() WHERE id = $1";
        let mut client = self.client().await?;
        let transaction = limited("run_end", client.transaction()).await?;
        // The lock first, in a statement of its own: whoever had it is seen by the next one.
        limited("run_end", transaction.execute("SELECT FROM map_version FOR UPDATE", &[])).await?;
        let row = limited("run_end", transaction.query_one(SQL, &[&run, &term])).await?;
        if !row.get::<_, bool>(0) {
            return Err(Error::LeaseLost);
        }
        if row.get::<_, bool>(1) {
            return Ok(false);
        }
        limited("run_end", transaction.execute(END, &[&run])).await?;
        limited("run_end", transaction.commit()).await?;
        client.keep();
        Ok(true)
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
