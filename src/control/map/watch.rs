//! The control plane's own look at the map: now and then, one server after the other, and never two looks at once. What it
//! finds is in the metrics, and kept in the catalog for who asks. It sets nothing right but what readers left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use catalog::MapCheck;
use shard_map::recovery::{Finding, Kind, Sources};
use tokio_util::sync::CancellationToken;

use super::{survey, verify};
use crate::context::Context;
use crate::error::Result;
use crate::readers;

/// Findings that are kept; how many there are of each kind is, in any case.
const FINDINGS_KEPT_MAX: usize = 1_000;
/// How long a new leader waits before its first look: it has to take up what others left first.
const FIRST_LOOK_AFTER: Duration = Duration::from_secs(10);

/// Looks, for as long as this instance leads, until `stop`.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    let mut wait = FIRST_LOOK_AFTER;
    let mut term = context.term.subscribe();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            // A rebuild makes a new one: what was found before it counts no more.
            Ok(()) = term.changed() => {
                wait = FIRST_LOOK_AFTER;
                continue;
            }
            () = tokio::time::sleep(wait.min(context.config.map_check_interval)) => {}
        }
        wait = context.config.map_check_interval;
        let leads_under = *context.term.borrow();
        let Some(leads_under) = leads_under else {
            // Another instance's figures count.
            context.metrics.map_findings.reset();
            wait = FIRST_LOOK_AFTER;
            continue;
        };
        if let Err(error) = look(&context, &Sources::default(), true).await {
            tracing::warn!(%error, "the map could not be verified");
        }
        if let Err(error) = readers::sweep(&context, leads_under).await {
            tracing::warn!(%error, "what readers left could not be looked for");
        }
    }
}

/// One look; its findings are counted and kept, unless it was by files of somebody's. A second one waits for the first.
pub(crate) async fn look(context: &Context, sources: &Sources, slowly: bool) -> Result<Vec<Finding>> {
    let _turn = context.map_turn.lock().await;
    let begun = Instant::now();
    let at_once = if slowly { survey::BACKGROUND_SERVERS_AT_ONCE } else { survey::COMMAND_SERVERS_AT_ONCE };
    let findings = verify::verify(&context.map, sources, at_once).await?;
    if sources.name_servers() {
        return Ok(findings);
    }
    let mut counts: BTreeMap<Kind, i64> = Kind::ALL.into_iter().map(|kind| (kind, 0)).collect();
    for finding in &findings {
        *counts.entry(finding.kind).or_default() += 1;
    }
    for (kind, count) in &counts {
        context.metrics.map_findings.with_label_values(&[kind.as_str()]).set(*count);
    }
    if !findings.is_empty() {
        tracing::warn!(
            findings = findings.len(),
            first = findings[0].detail,
            "the map differs from the servers"
        );
    }
    let check = MapCheck {
        duration_ms: i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX),
        findings: findings.iter().take(FINDINGS_KEPT_MAX).cloned().collect(),
        counts: counts.into_iter().filter(|(_, count)| *count > 0).collect(),
        checked_at: String::new(),
    };
    context.catalog.put_map_check(&check).await?;
    Ok(findings)
}
