//! The look at what goes on: at the catalog's records about once a second, at the servers more seldom.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::fleet::{self, Sights};
use crate::context::Context;
use crate::error::Result;
use crate::fleet::shown as shown_run;
use crate::moves::shown as shown_move;

/// How often the records are read.
const RECORDS_INTERVAL: Duration = Duration::from_secs(1);
/// Of so many looks at the records, one is at the fleet as a whole, too.
const FLEET_EACH: u32 = 2;
/// How often the servers are asked.
const SERVERS_INTERVAL: Duration = Duration::from_secs(5);
/// Switched moves that are told of: the newest.
const SWITCHED_MAX: i64 = 100;

/// Looks for as long as somebody watches, until `stop`.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            () = context.live.came.notified() => {}
        }
        let sights = Sights::default();
        tokio::select! {
            () = stop.cancelled() => break,
            () = records(&context, &sights) => {}
            () = servers(&context, &sights) => {}
        }
    }
    context.live.end();
}

/// Reads the records until nobody watches any more.
async fn records(context: &Context, sights: &Sights) {
    let mut open = BTreeSet::new();
    let mut looks = 0_u32;
    while context.live.is_watched() {
        let looked = async {
            if looks.is_multiple_of(FLEET_EACH) {
                context.live.tell("fleet", 0, fleet::summary(context, sights).await?.to_string());
            }
            moves(context, &mut open).await?;
            runs(context).await
        };
        let trouble = looked.await.err().map(|error| error.to_string());
        context.live.tell("trouble", 0, json!({ "catalog": trouble }).to_string());
        looks = looks.wrapping_add(1);
        tokio::time::sleep(RECORDS_INTERVAL).await;
    }
}

/// Tells of moves under way, and of each that has ended since the last look.
async fn moves(context: &Context, open: &mut BTreeSet<i64>) -> Result<()> {
    let before: Vec<i64> = open.iter().copied().collect();
    let records = context.catalog.moves_in_sight(&before, SWITCHED_MAX).await?;
    open.clear();
    for record in records {
        let operation = &record.operation;
        context.live.tell("move", operation.id, shown_move(operation, &record.steps).to_string());
        if matches!(operation.state.as_str(), "running" | "switched") {
            open.insert(operation.id);
        }
    }
    for id in before {
        if !open.contains(&id) {
            context.live.forget("move", id);
        }
    }
    Ok(())
}

/// Tells of the newest migration run.
async fn runs(context: &Context) -> Result<()> {
    for operation in context.catalog.runs(None, 1).await? {
        let progress = context.catalog.run_progress(operation.id).await?;
        context.live.tell("migration", 0, shown_run(&operation, &progress, &[]).to_string());
    }
    Ok(())
}

/// Asks the servers. It never ends: who looks at the records says when.
async fn servers(context: &Context, sights: &Sights) {
    loop {
        if let Ok(rows) = context.catalog.servers().await {
            fleet::look(context, &rows, sights).await;
        }
        tokio::time::sleep(SERVERS_INTERVAL).await;
    }
}
