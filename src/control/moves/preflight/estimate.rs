//! What a move will take, by what moves before took.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::server::Connection;

/// For how long a dry run watches the source's log.
const WATCHED: Duration = Duration::from_secs(1);
/// Seconds that a move takes beside its copy, where no move was made yet to tell by.
const BESIDE_SECONDS: f64 = 3.0;

/// What a move will take.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Estimate {
    /// Until the cutover.
    pub(crate) seconds: u64,
    /// The copy's speed, the building of indexes included.
    pub(crate) bytes_per_second: u64,
    /// Moves before from which that speed is known; with none it is the most that is allowed.
    pub(crate) from_copies: u32,
    /// Log of the source, as of now, and what its slot will keep of it until the cutover.
    pub(crate) wal_bytes_per_second: u64,
    pub(crate) wal_bytes: u64,
    /// The hold: the median and the longest of so many moves before.
    pub(crate) hold_ms: Option<f64>,
    pub(crate) hold_ms_max: Option<f64>,
    pub(crate) from_holds: u32,
}

/// Where a server's log was, and when.
pub(super) struct Log {
    position: i64,
    at: Instant,
    /// Since Postgres began to count.
    average: f64,
}

const POSITION: &str = "(pg_catalog.pg_current_wal_lsn() - '0/0')::bigint";

impl Log {
    pub(super) async fn watch(connection: &Connection) -> Result<Self> {
        let sql = format!(
            "SELECT {POSITION}, (wal_bytes / greatest(extract(epoch FROM clock_timestamp() - stats_reset), 1))::float8
             FROM pg_catalog.pg_stat_wal"
        );
        let row = connection.row(&sql, &[]).await?;
        let (position, average) = row.map_or((0, 0.0), |row| (row.get(0), row.get(1)));
        Ok(Self { position, at: Instant::now(), average })
    }

    /// The higher of what it was on average and, where it was watched for long enough to tell, of what it is.
    pub(super) async fn bytes_per_second(&self, connection: &Connection, is_dry: bool) -> Result<f64> {
        if !is_dry {
            return Ok(self.average);
        }
        tokio::time::sleep(WATCHED.saturating_sub(self.at.elapsed())).await;
        let position: i64 = connection.value(&format!("SELECT {POSITION}"), &[]).await?;
        let now = (position - self.position) as f64 / self.at.elapsed().as_secs_f64();
        Ok(self.average.max(now))
    }
}

pub(super) async fn make(context: &Context, bytes: i64, wal_bytes_per_second: f64) -> Result<Estimate> {
    let before = context.catalog.move_figures().await?;
    let most = context.config.copy_bytes_per_second_max as f64;
    let rate = before.bytes_per_second.unwrap_or(most).clamp(1.0, most);
    let seconds = bytes as f64 / rate + before.beside_seconds.unwrap_or(BESIDE_SECONDS);
    Ok(Estimate {
        seconds: seconds.ceil() as u64,
        bytes_per_second: rate as u64,
        from_copies: before.copies,
        wal_bytes_per_second: wal_bytes_per_second as u64,
        wal_bytes: (seconds * wal_bytes_per_second) as u64,
        hold_ms: before.hold_ms,
        hold_ms_max: before.hold_ms_max,
        from_holds: before.holds,
    })
}
