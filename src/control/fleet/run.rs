//! A migration run: wave after wave; in a wave, every server works on a bounded number of tenants at once.
//!
//! A tenant that fails is set aside with its error and the others go on. A tenant that is being moved keeps its turn
//! for later: the move's guard refuses schema changes, and says so with an SQLSTATE of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use catalog::{Target, TargetState};
use shard_map::{ServerName, TenantState};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::files::{Input, Migrations};
use super::tenant::migrate;
use crate::context::{Context, Work, back_off};
use crate::error::{Error, Result};
use crate::moves::GUARD_SQLSTATE;

/// Tries when a server or the catalog did not answer, for each tenant.
const TRIES: u32 = 8;
/// How long a run waits before it looks again after a tenant that is being moved.
const PUT_OFF: Duration = Duration::from_secs(1);

/// Drives a run to its end.
pub(crate) async fn drive(work: &Work) -> Result<()> {
    let run = work.operation.id;
    let operation = work.context.catalog.operation(run).await?;
    let input: Input = serde_json::from_value(operation.input)
        .map_err(|e| Error::Failed(format!("migration run {run} can't be read: {e}")))?;
    let migrations = Arc::new(input.check()?);
    let mut slots = Slots { per_server: input.per_server, servers: HashMap::new() };
    let mut wave_begun = None;
    loop {
        if work.abort_requested().await? {
            return work.set_state("aborted", None).await;
        }
        let targets = work.context.catalog.run_targets(run).await?;
        let failed = targets.iter().filter(|target| target.state == TargetState::Failed).count();
        if failed > input.max_failures {
            let why = format!(
                "failed tenants: {failed}, allowed: {}; no further one was begun",
                input.max_failures
            );
            return work.set_state("failed", Some(&why)).await;
        }
        let Some(wave) = targets.iter().filter(|t| t.state == TargetState::Pending).map(|t| t.wave).min()
        else {
            if add_newcomers(work, &input).await? > 0 {
                continue;
            }
            return match failed {
                0 => work.set_state("done", None).await,
                _ => work.set_state("failed", Some(&format!("failed tenants: {failed}"))).await,
            };
        };
        if wave_begun.replace(wave) == Some(wave) {
            // Whoever is still pending in a wave that was gone through was put off.
            tokio::time::sleep(PUT_OFF).await;
        } else {
            work.begin(&format!("wave_{wave}"), "done").await?;
        }
        let pending = targets.into_iter().filter(|t| t.state == TargetState::Pending && t.wave == wave);
        run_wave(work, pending.collect(), &migrations, &mut slots, &input).await?;
    }
}

/// Covers tenants that were created while the run went on: they were made with the schema before it.
async fn add_newcomers(work: &Work, input: &Input) -> Result<u64> {
    let rows = work.context.catalog.tenants(None, &input.selector).await?.into_iter();
    let there = rows.filter(|row| row.tenant.state != TenantState::Deleted).map(|row| row.tenant.id);
    Ok(work.context.catalog.add_targets(work.operation.id, &there.collect::<Vec<_>>(), work.term).await?)
}

/// How many tenants of each server are worked on.
struct Slots {
    per_server: usize,
    servers: HashMap<ServerName, Arc<Semaphore>>,
}

impl Slots {
    fn of(&mut self, server: &ServerName) -> Arc<Semaphore> {
        let per_server = self.per_server;
        self.servers.entry(server.clone()).or_insert_with(|| Arc::new(Semaphore::new(per_server))).clone()
    }
}

async fn run_wave(
    work: &Work,
    targets: Vec<Target>,
    migrations: &Arc<Migrations>,
    slots: &mut Slots,
    input: &Input,
) -> Result<()> {
    let (run, term) = (work.operation.id, work.term);
    let places: HashMap<_, _> = (work.context.catalog.tenants(None, &input.selector).await?.into_iter())
        .map(|row| (row.tenant.id, row.tenant.server))
        .collect();
    let failures = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut tasks: JoinSet<Result<()>> = JoinSet::new();
    for target in targets {
        let slot = places.get(&target.tenant).map(|server| slots.of(server));
        let (context, migrations, failures) = (work.context.clone(), migrations.clone(), failures.clone());
        let (lock_timeout_ms, failures_max) = (input.lock_timeout_ms, input.max_failures);
        tasks.spawn(async move {
            let _permit = match &slot {
                Some(slot) => slot.acquire().await.ok(),
                None => None,
            };
            use std::sync::atomic::Ordering::Relaxed;
            if failures.load(Relaxed) > failures_max || context.catalog.abort_requested(run).await? {
                return Ok(());
            }
            let (state, error) = run_target(&context, &target, &migrations, lock_timeout_ms, term).await;
            if state == TargetState::Failed {
                failures.fetch_add(1, Relaxed);
                tracing::warn!(run, tenant = %target.tenant, error, "migration failed");
            }
            Ok(context.catalog.set_target(run, &Target { state, error, ..target }, term).await?)
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Error::Failed(e.to_string()))??;
    }
    Ok(())
}

/// Migrates one tenant and says how it fared.
async fn run_target(
    context: &Arc<Context>,
    target: &Target,
    migrations: &Migrations,
    lock_timeout_ms: u64,
    term: i64,
) -> (TargetState, Option<String>) {
    let mut tries = 0;
    loop {
        match try_target(context, target, migrations, lock_timeout_ms, term).await {
            Ok(state) => return (state, None),
            Err(e) if e.sqlstate() == Some(GUARD_SQLSTATE) => {
                return (
                    TargetState::Pending,
                    Some("it is being moved; its turn comes after that".to_owned()),
                );
            }
            // 3D000: it was moved after its place was looked up.
            Err(e) if tries < TRIES && (e.is_transient() || e.sqlstate() == Some("3D000")) => tries += 1,
            Err(e) => return (TargetState::Failed, Some(e.to_string())),
        }
        back_off(tries).await;
    }
}

async fn try_target(
    context: &Arc<Context>,
    target: &Target,
    migrations: &Migrations,
    lock_timeout_ms: u64,
    term: i64,
) -> Result<TargetState> {
    let tenant = match context.catalog.tenant(&target.tenant).await {
        Ok(row) if row.tenant.state != TenantState::Deleted => row.tenant,
        Ok(_) | Err(catalog::Error::NotFound(_)) => return Ok(TargetState::Gone),
        Err(e) => return Err(e.into()),
    };
    if tenant.state == TenantState::Creating {
        return Ok(TargetState::Pending);
    }
    let server = context.server(&tenant.server).await?;
    let version = migrate(context, (&server, &tenant), migrations, lock_timeout_ms).await?;
    context.catalog.set_schema_version(&tenant.id, Some(version), term).await?;
    Ok(TargetState::Done)
}
