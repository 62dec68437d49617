//! A move that an operator has paused takes no more of its servers than it must: no copy is begun, a range under way is the
//! last one, nothing is built, nobody is cut over. What follows goes on following, since a slot that nobody reads keeps log.
//! The wish stands in the record, so it outlives whoever drives the move. It is never looked at between a hold and its
//! release: by then the record says that the move can't be paused any more.

use std::time::Duration;

use catalog::{Catalog, Operation};
use serde::Deserialize;

use crate::error::Result;

/// How often the record is looked at.
const POLL: Duration = Duration::from_millis(300);

/// A pause on record.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Pause {
    /// Since when (RFC 3339).
    pub(crate) since: String,
    /// Who asked for it.
    pub(crate) by: String,
}

impl Pause {
    /// The pause that a move is in, if it is.
    pub(crate) fn of(operation: &Operation) -> Option<Self> {
        serde_json::from_value(operation.data.get("paused")?.clone()).ok()
    }

    /// What a move waits for that is paused, in words.
    pub(super) fn told(&self) -> String {
        format!("tenantry move resume: {} paused it at {}", self.by, self.since)
    }
}

/// Whether a move is paused now.
pub(super) async fn now(catalog: &Catalog, id: i64) -> Result<Option<Pause>> {
    Ok(Pause::of(&catalog.operation(id).await?))
}

/// Waits for as long as a move is paused. A catalog that is away for a moment stops none that was not.
pub(super) async fn wait(catalog: &Catalog, id: i64) -> Result<()> {
    let mut paused = false;
    loop {
        match now(catalog, id).await {
            Ok(pause) => paused = pause.is_some(),
            Err(error) if !error.is_transient() => return Err(error),
            Err(_) => {}
        }
        if !paused {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}
