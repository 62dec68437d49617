//! A migration run: wave after wave; in a wave, every server works on a bounded number of tenants at once, fewer when it
//! suffers.
//!
//! A tenant that fails is set aside with its error and the others go on. A tenant that something else is done to keeps
//! its turn for later. Nothing is kept in memory that a successor would need: each tenant's own history says what ran
//! there, and the catalog who had a turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use catalog::{Outlook, TargetState, TurnEnd};
use shard_map::{ServerName, TenantId, TenantState};
use tokio::task::JoinSet;

use super::files::{Input, Migrations};
use super::lanes::Lanes;
use super::turn::{self, Run};
use super::waves::CANARIES;
use crate::context::Work;
use crate::error::{Error, Result};

/// How long a run waits before it looks again after a tenant that something else is done to.
const PUT_OFF: Duration = Duration::from_secs(1);
/// How often the wish to abort is looked for.
const ABORT_POLL: Duration = Duration::from_millis(300);

/// Drives a run to its end.
pub(crate) async fn drive(work: &Work) -> Result<()> {
    let id = work.operation.id;
    let operation = work.context.catalog.operation(id).await?;
    let input: Input = serde_json::from_value(operation.input)
        .map_err(|e| Error::Failed(format!("migration run {id} can't be read: {e}")))?;
    let run = Arc::new(Run {
        context: work.context.clone(),
        id,
        term: work.term,
        migrations: Migrations::read(&input.files)?,
        limits: input.limits(),
        lanes: Lanes::new(work.context.clone(), id, work.term, input.per_server),
        stop: AtomicBool::new(false),
        failed: AtomicUsize::new(0),
        failed_max: AtomicUsize::new(input.max_failures),
    });
    tokio::select! {
        outcome = waves(work, &run, &input) => outcome,
        error = heed_abort(work, &run) => Err(error),
    }
}

/// Lets nobody begin any more once the run is to be aborted. Ends only with an error.
async fn heed_abort(work: &Work, run: &Run) -> Error {
    loop {
        match work.abort_requested().await {
            Ok(true) => run.stop.store(true, Relaxed),
            Err(error) if !error.is_transient() => return error,
            _ => {}
        }
        tokio::time::sleep(ABORT_POLL).await;
    }
}

async fn waves(work: &Work, run: &Arc<Run>, input: &Input) -> Result<()> {
    let mut wave_begun = None;
    loop {
        if work.abort_requested().await? {
            return work.set_state("aborted", None).await;
        }
        let outlook = work.context.catalog.run_outlook(run.id, CANARIES).await?;
        if let Some(why) = too_many(&outlook, input.max_failures) {
            return work.set_state("failed", Some(&why)).await;
        }
        let Some(wave) = outlook.wave else {
            if end(work, run, input, outlook.failed).await? {
                return Ok(());
            }
            continue;
        };
        let failed_max = if wave == CANARIES { 0 } else { input.max_failures };
        run.failed.store(outlook.failed, Relaxed);
        run.failed_max.store(failed_max, Relaxed);
        let pending = places(work, run, wave).await?;
        if wave_begun == Some(wave) {
            // Whoever is still pending in a wave that was gone through was put off.
            tokio::time::sleep(PUT_OFF).await;
        } else {
            all_are_well(run, &pending).await;
            if work.abort_requested().await? {
                continue;
            }
            work.begin(&format!("wave_{wave}"), "done").await?;
            wave_begun = Some(wave);
        }
        run_wave(run, pending).await?;
    }
}

/// Why no further tenant is to be begun, if so.
fn too_many(outlook: &Outlook, failures_max: usize) -> Option<String> {
    if outlook.failed_canaries > 0 {
        return Some("a canary failed; no further tenant was begun".to_owned());
    }
    let failed = outlook.failed;
    (failed > failures_max)
        .then(|| format!("failed tenants: {failed}, allowed: {failures_max}; no further one was begun"))
}

/// Ends the run, when nobody's turn is left; whether it ended.
async fn end(work: &Work, run: &Run, input: &Input, failed: usize) -> Result<bool> {
    if add_newcomers(work, input).await? > 0 {
        return Ok(false);
    }
    if failed > 0 {
        work.set_state("failed", Some(&format!("failed tenants: {failed}"))).await?;
        return Ok(true);
    }
    if input.selector.is_all() {
        return Ok(work.context.catalog.end_fleet_run(run.id, work.term).await?);
    }
    work.set_state("done", None).await?;
    Ok(true)
}

/// Covers tenants that were made or brought back while the run went on: they have the schema before it.
async fn add_newcomers(work: &Work, input: &Input) -> Result<u64> {
    let rows = work.context.catalog.tenants(None, &input.selector).await?.into_iter();
    let there = rows.filter(|row| row.tenant.state != TenantState::Deleted).map(|row| row.tenant.id);
    Ok(work.context.catalog.add_targets(work.operation.id, &there.collect::<Vec<_>>(), work.term).await?)
}

/// Where a wave's tenants are whose turn has not ended. Those that are no longer anywhere have had their turn.
async fn places(work: &Work, run: &Run, wave: i32) -> Result<Vec<(TenantId, ServerName)>> {
    let pending = work.context.catalog.run_pending(run.id, wave).await?;
    let mut found = Vec::with_capacity(pending.len());
    for (tenant, server) in pending {
        if let Some(server) = server {
            found.push((tenant, server));
            continue;
        }
        let end = TurnEnd { tenant, state: TargetState::Gone, error: None, version: None, took_ms: None };
        work.context.catalog.end_turn(run.id, &end, work.term).await?;
    }
    Ok(found)
}

/// A wave begins when every server that it comes to is well.
async fn all_are_well(run: &Run, pending: &[(TenantId, ServerName)]) {
    let mut servers: Vec<&ServerName> = pending.iter().map(|(_, server)| server).collect();
    servers.sort_unstable();
    servers.dedup();
    for server in servers {
        run.lanes.of(server).is_well(&run.stop).await;
    }
}

async fn run_wave(run: &Arc<Run>, pending: Vec<(TenantId, ServerName)>) -> Result<()> {
    let mut turns: JoinSet<Result<()>> = JoinSet::new();
    for (tenant, server) in pending {
        turns.spawn(turn::take(run.clone(), tenant, server));
    }
    let mut outcome = Ok(());
    while let Some(ended) = turns.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(Error::Failed(e.to_string())));
        if ended.is_err() {
            // Those that have begun go on to their end: cut short, they would be begun anew.
            run.stop.store(true, Relaxed);
            outcome = outcome.and(ended);
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_stop_a_run_beyond_what_is_allowed_and_a_canary_s_at_once() {
        let outlook = |failed, failed_canaries| Outlook { wave: Some(2), failed, failed_canaries };
        assert_eq!(too_many(&outlook(2, 0), 2), None);
        assert!(too_many(&outlook(3, 0), 2).unwrap().contains("allowed: 2"));
        assert!(too_many(&outlook(1, 1), 9).unwrap().contains("canary"));
    }
}
