//! The stream of changes, as a comparison needs it: kept going, and asked whether it has brought what was there a moment ago.

use std::time::{Duration, Instant};

use serde_json::json;

use super::super::catch_up::{self, Following};
use super::super::driver::Move;
use crate::error::{Error, Result};
use crate::server::Connection;

/// How often the stream is looked after.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);
/// How often a probe is looked for.
const POLL: Duration = Duration::from_millis(2);
/// How long a probe may take, before the comparison is begun anew from its record. A transaction that takes as long to apply
/// holds all others up.
const PROBE_TIMEOUT: Duration = Duration::from_mins(10);

pub(super) struct Stream<'m> {
    pub(super) the_move: &'m Move<'m>,
}

impl Stream<'_> {
    /// Looks after it, until dropped.
    pub(super) async fn keep(&self) -> Result<()> {
        let source = self.the_move.source_database().await?;
        let target = self.the_move.arriving_database().await?;
        let mut following = Following::default();
        loop {
            following.keep(self.the_move, &target).await?;
            catch_up::lag_bytes(self.the_move, &source).await?;
            tokio::time::sleep(KEEP_INTERVAL).await;
        }
    }

    /// Waits until the target has what was written while its copy was made.
    pub(super) async fn comes_close(&self, source: &Connection, target: &Connection) -> Result<()> {
        loop {
            let lag = catch_up::lag_bytes(self.the_move, source).await?;
            if lag <= catch_up::LAG_BYTES_MAX {
                self.the_move.work.remember(&json!({ "waiting_for": null })).await?;
                return self.brings_all(source, target).await;
            }
            let waiting_for = format!("the target is {lag} bytes behind");
            self.the_move.work.remember(&json!({ "waiting_for": waiting_for })).await?;
            tokio::time::sleep(KEEP_INTERVAL).await;
        }
    }

    /// Waits until the target has all that the source has now.
    pub(super) async fn brings_all(&self, source: &Connection, target: &Connection) -> Result<()> {
        let probe = self.probe(source).await?;
        while !probe.has_arrived(target).await? {
            probe.wait().await?;
        }
        probe.remove(source).await
    }

    /// Sends a row along.
    pub(super) async fn probe(&self, source: &Connection) -> Result<Probe> {
        let probe = Probe { id: catch_up::probe_id(), sent: Instant::now() };
        source.rows("INSERT INTO tenantry.fence (id) VALUES ($1)", &[&probe.id]).await?;
        Ok(probe)
    }
}

/// A row on its way. When it is there, all that was committed before it is.
pub(super) struct Probe {
    id: i64,
    sent: Instant,
}

impl Probe {
    pub(super) async fn has_arrived(&self, target: &Connection) -> Result<bool> {
        let arrived = "SELECT EXISTS (SELECT FROM tenantry.fence WHERE id = $1)";
        target.value(arrived, &[&self.id]).await
    }

    /// Waits before the next look for it.
    pub(super) async fn wait(&self) -> Result<()> {
        if self.sent.elapsed() > PROBE_TIMEOUT {
            return Err(Error::Timeout(format!("the target did not apply a row within {PROBE_TIMEOUT:?}")));
        }
        tokio::time::sleep(POLL).await;
        Ok(())
    }

    pub(super) async fn remove(self, source: &Connection) -> Result<()> {
        source.rows("DELETE FROM tenantry.fence WHERE id = $1", &[&self.id]).await.map(drop)
    }
}
