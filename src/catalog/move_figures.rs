//! What past moves took: the best that is known of how long the next one will.

use serde::Deserialize;

use crate::error::Result;
use crate::query::Catalog;

/// Newest moves that count.
const MOVES_MAX: i64 = 20;
/// A copy of fewer bytes says how long everything beside the bytes takes, and nothing of the bytes.
const LARGE_BYTES: i64 = 64 << 20;

/// Figures of the newest moves that switched. `None`: no move to tell by.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct MoveFigures {
    /// Moves whose hold is on record, ways back among them.
    pub holds: u32,
    /// Median of their holds, in milliseconds.
    pub hold_ms: Option<f64>,
    /// The longest of them.
    pub hold_ms_max: Option<f64>,
    /// Moves that copied much.
    pub copies: u32,
    /// Median of what these copied in a second, the building of indexes included.
    pub bytes_per_second: Option<f64>,
    /// Median of the seconds that a move took until its cutover beside copying and building.
    pub beside_seconds: Option<f64>,
}

impl Catalog {
    /// What the newest moves took.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn move_figures(&self) -> Result<MoveFigures> {
        const SQL: &str = "
            WITH recent AS MATERIALIZED (
                SELECT * FROM operation WHERE kind = 'move' AND state IN ('switched', 'completed') ORDER BY id DESC LIMIT $1
            ), timed AS (
                SELECT (data->>'hold_ms')::float8 AS hold_ms, coalesce((data->>'bytes_copied')::bigint, 0) AS bytes,
                    nullif(greatest(0, extract(epoch FROM s.built - s.copied)), 0)::float8 AS copying,
                    extract(epoch FROM s.cutover - created_at)::float8 AS whole
                FROM recent r, LATERAL (
                    SELECT max(started_at) FILTER (WHERE step = 'copy') AS copied,
                        min(started_at) FILTER (WHERE step IN ('compare', 'catch_up')) AS built,
                        min(started_at) FILTER (WHERE step = 'cutover') AS cutover
                    FROM operation_step WHERE operation = r.id
                ) s
            )
            SELECT jsonb_build_object(
                'holds', count(hold_ms), 'hold_ms', percentile_cont(0.5) WITHIN GROUP (ORDER BY hold_ms),
                'hold_ms_max', max(hold_ms),
                'copies', count(copying) FILTER (WHERE bytes >= $2),
                'bytes_per_second', percentile_cont(0.5) WITHIN GROUP (ORDER BY bytes / copying) FILTER (WHERE bytes >= $2),
                'beside_seconds', percentile_cont(0.5) WITHIN GROUP (ORDER BY whole - copying))
            FROM timed";
        let rows = self.json("move_figures", SQL, &[&MOVES_MAX, &LARGE_BYTES]).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}
