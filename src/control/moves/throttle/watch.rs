//! Looks once a second at the servers at which something is copied: what routers report of them, and how far their standbys
//! are behind.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shard_map::Server;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::Result;

/// How often it looks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a server may take to tell of its standbys.
const LAG_TIMEOUT: Duration = Duration::from_secs(1);

/// Watches until `stop`. Whatever does the copying, on whichever instance, has its budgets here.
pub(crate) async fn watch(context: Arc<Context>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(INTERVAL) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = look(&context) => {}
        }
    }
}

async fn look(context: &Context) {
    let budgets = context.budgets.in_use();
    if budgets.is_empty() {
        return context.metrics.copy_rate.reset();
    }
    let routers = context.catalog.live_routers(context.config.router_timeout).await.ok();
    let lags = join_all(budgets.iter().map(|budget| {
        // Without a standby, and without an answer, there is nothing to be careful of.
        async { tokio::time::timeout(LAG_TIMEOUT, lag(context, &budget.server)).await.ok()?.ok()? }
    }));
    let lags = lags.await;
    // Set at once, so that a scrape in between finds them.
    context.metrics.copy_rate.reset();
    for (budget, lag) in budgets.iter().zip(lags) {
        let rate = budget.tick(routers.as_deref(), lag);
        let gauge = context.metrics.copy_rate.with_label_values(&[budget.server.name.as_str()]);
        gauge.set(i64::try_from(rate).unwrap_or(i64::MAX));
    }
}

/// How far the last of a server's standbys is behind. Streams of moves are none: they are in a database.
async fn lag(context: &Context, server: &Server) -> Result<Option<Duration>> {
    const SQL: &str = "
        SELECT extract(epoch FROM max(r.replay_lag))::float8
        FROM pg_catalog.pg_stat_replication r JOIN pg_catalog.pg_stat_activity a USING (pid)
        WHERE a.datid IS NULL AND r.state IN ('streaming', 'catchup')";
    let registry = context.connector.warm_registry(server).await?;
    let seconds: Option<f64> = registry.value(SQL, &[]).await?;
    context.connector.keep_warm(server, registry);
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}
