//! How far a copy is: counted without waiting, written to the operation's record once a second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;

use super::throttle::Throttle;
use crate::context::Work;
use crate::error::Result;

/// How often the record is written.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counters of one move.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) tables: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Progress {
    /// What was counted counts no more.
    pub(crate) fn take_back(&self, rows: u64, bytes: u64) {
        for (counter, less) in [(&self.rows, rows), (&self.bytes, bytes)] {
            // It may be on record, and its worker have been disturbed before it was counted.
            let _ = counter.fetch_update(Relaxed, Relaxed, |count| Some(count.saturating_sub(less)));
        }
    }

    /// Writes the counters to the record until dropped, with what the servers bear.
    pub(crate) async fn report(&self, work: &Work, throttle: &Throttle) -> Result<()> {
        let mut before = (Instant::now(), self.bytes.load(Relaxed));
        loop {
            tokio::time::sleep(INTERVAL).await;
            let bytes = self.bytes.load(Relaxed);
            let seconds = before.0.elapsed().as_secs_f64();
            // Rounded to whole bytes: it is for people.
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let rate = ((bytes - before.1) as f64 / seconds) as u64;
            before = (Instant::now(), bytes);
            match self.write(work, rate, Some(throttle)).await {
                // The copy does not depend on anybody reading how far it is.
                Err(error) if error.is_transient() => {}
                outcome => outcome?,
            }
        }
    }

    /// Writes the counters as they are; without a throttle, nothing is copied any more.
    pub(crate) async fn write(
        &self,
        work: &Work,
        bytes_per_second: u64,
        throttle: Option<&Throttle>,
    ) -> Result<()> {
        let (most, why) = throttle.map(Throttle::told).unzip();
        work.remember(&json!({
            "tables_copied": self.tables.load(Relaxed),
            "rows_copied": self.rows.load(Relaxed),
            "bytes_copied": self.bytes.load(Relaxed),
            "bytes_per_second": bytes_per_second,
            "bytes_per_second_max": most,
            "slowed_by": why.flatten(),
        }))
        .await
    }
}
