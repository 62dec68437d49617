//! What a comparison has come to: on record while it goes on, so that who takes over goes on from there, and afterwards.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::driver::{Move, Verify};
use crate::context::Work;
use crate::error::{Error, Result};

/// How often the record is written.
const INTERVAL: Duration = Duration::from_secs(1);
/// Tables that are on record by name: the largest, since they come first. Others are compared once more by who takes over.
const NAMED_MAX: usize = 100;

/// The record, in the move's data.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Compared {
    pub(super) how: Verify,
    pub(super) tables_total: usize,
    pub(super) tables_done: usize,
    pub(super) rows: i64,
    pub(super) ranges: u64,
    /// Ranges that differed at first, as both sides changed.
    pub(super) ranges_looked_again: u64,
    /// Rows that did.
    pub(super) rows_settled: usize,
    /// Tables with too many rows and without a key: how many, and the first of them.
    pub(super) left_out: usize,
    pub(super) left_out_tables: Vec<String>,
    /// When it began and ended (RFC 3339); it has not ended without the latter.
    pub(super) began_at: String,
    pub(super) ended_at: Option<String>,
    /// Rows of tables that are done.
    pub(super) done: BTreeMap<String, i64>,
}

impl Compared {
    /// What an earlier try, or another controller, had come to; else nothing yet.
    pub(super) async fn found(the_move: &Move<'_>) -> Result<Self> {
        let catalog = &the_move.work.context.catalog;
        let operation = catalog.operation(the_move.work.operation.id).await?;
        let found = operation.data.get("compared").cloned().unwrap_or_default();
        if let Ok(found) = serde_json::from_value::<Self>(found)
            && found.how == the_move.input.verify
        {
            return Ok(found);
        }
        Ok(Self {
            how: the_move.input.verify,
            tables_total: 0,
            tables_done: 0,
            rows: 0,
            ranges: 0,
            ranges_looked_again: 0,
            rows_settled: 0,
            left_out: 0,
            left_out_tables: Vec::new(),
            began_at: catalog.timestamp(None).await?,
            ended_at: None,
            done: BTreeMap::new(),
        })
    }
}

/// The record, shared by the workers.
pub(super) struct Tally {
    compared: Mutex<Compared>,
}

impl Tally {
    pub(super) fn of(mut compared: Compared, tables: usize) -> Self {
        compared.tables_total = tables;
        // What is not on record by name is compared once more, and counted then.
        compared.tables_done = compared.done.len();
        compared.rows = compared.done.values().sum();
        compared.left_out = 0;
        compared.left_out_tables.clear();
        Self { compared: Mutex::new(compared) }
    }

    /// Whether a table is done already.
    pub(super) fn has(&self, table: &str) -> bool {
        self.compared().done.contains_key(table)
    }

    pub(super) fn table_done(&self, table: &str, rows: i64) {
        let mut compared = self.compared();
        compared.tables_done += 1;
        compared.rows += rows;
        if compared.done.len() < NAMED_MAX {
            compared.done.insert(table.to_owned(), rows);
        }
    }

    pub(super) fn left_out(&self, table: &str) {
        let mut compared = self.compared();
        compared.left_out += 1;
        if compared.left_out_tables.len() < NAMED_MAX {
            compared.left_out_tables.push(table.to_owned());
        }
    }

    pub(super) fn range_done(&self) {
        self.compared().ranges += 1;
    }

    pub(super) fn looked_again(&self) {
        self.compared().ranges_looked_again += 1;
    }

    pub(super) fn settling(&self, rows: usize) {
        self.compared().rows_settled += rows;
    }

    /// Writes the record until dropped.
    pub(super) async fn report(&self, work: &Work) -> Result<()> {
        loop {
            tokio::time::sleep(INTERVAL).await;
            match self.write(work).await {
                // The comparison does not depend on anybody reading how far it is.
                Err(error) if error.is_transient() => {}
                outcome => outcome?,
            }
        }
    }

    /// Writes that it has ended.
    pub(super) async fn end(&self, work: &Work) -> Result<()> {
        let now = work.context.catalog.timestamp(None).await?;
        self.compared().ended_at = Some(now);
        self.write(work).await
    }

    async fn write(&self, work: &Work) -> Result<()> {
        let compared = self.compared().clone();
        let compared = serde_json::to_value(compared).map_err(|e| Error::Failed(e.to_string()))?;
        work.remember(&json!({ "compared": compared })).await
    }

    fn compared(&self) -> MutexGuard<'_, Compared> {
        self.compared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
