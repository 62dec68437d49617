//! What the log does not tell of: rows of unlogged tables, an extension's rows of its user, large objects. They are copied whole
//! in the hold, when the source is closed for writes and the target has all that the log told; so they have to be few.
//! What an earlier try, or an earlier stay there, left on the target goes first. Where there is nothing of them, no part of this
//! is in the hold.
//!
//! Rows are written by the owners of their tables, as in the copy. Those can't keep their triggers from firing, so these are
//! disabled on the target before the hold, and enabled in its last statement there.

mod large_objects;
mod plan;

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use shard_map::Access;

use plan::{Carried, TRIGGERS_OF};
pub(super) use plan::{KINDS, UNLOGGED_ROWS, sequences};

use super::copy::TEXT_SETTINGS;
use super::driver::Move;
use crate::error::{Error, Result};
use crate::server::{Connection, database};

/// Sessions of the tenant's roles that are let in to write.
const SESSIONS_MAX: i32 = 8;
/// Classes of errors that another try brings again: of data, of constraints, of what is not there or not allowed.
const HOPELESS: [&str; 3] = ["22", "23", "42"];
/// A session that is let through by guards, and fires no triggers.
const CONTROL_SETTINGS: &str = "SET tenantry.move = 'on'; SET session_replication_role = 'replica'";

/// What is copied in one hold, with sessions for it.
pub(super) struct Held {
    tables: Vec<Carried>,
    has_large_objects: bool,
    /// At the target, as the control plane.
    control: Connection,
    /// At the target, as those who own the tables.
    writers: HashMap<Access, Connection>,
}

impl Held {
    /// Looks at both sides, and makes ready; none when there is nothing to copy. Also gives the statements with which the target
    /// is made good when all is copied.
    pub(super) async fn prepare(
        the_move: &Move<'_>,
        (source, target): (&Connection, &Connection),
    ) -> Result<(Option<Self>, String)> {
        let tables = plan::tables(source, &the_move.id, accepts_unlogged(the_move)).await?;
        let has_large_objects =
            large_objects::are_there(source).await? || large_objects::are_there(target).await?;
        if tables.is_empty() && !has_large_objects {
            return Ok((None, String::new()));
        }
        let control = the_move.arriving_database().await?;
        control.run(TEXT_SETTINGS).await?;
        control.run(CONTROL_SETTINGS).await?;
        source.run(TEXT_SETTINGS).await?;
        let at_last = disable_triggers(&tables, source, &control).await?;
        let writers = writers(the_move, &tables).await?;
        Ok((Some(Self { tables, has_large_objects, control, writers }), at_last))
    }

    pub(super) fn has_large_objects(&self) -> bool {
        self.has_large_objects
    }

    /// Copies, from a source that is fenced, to a target that follows no more behind it.
    pub(super) async fn carry(self, source: &Connection, deadline: Instant) -> Result<()> {
        let carried = tokio::time::timeout_at(deadline.into(), self.carry_all(source)).await;
        match carried {
            // A row that a check or a type of the target does not take is not taken the next time either.
            Ok(Err(error)) if error.sqlstate().is_some_and(|code| HOPELESS.contains(&&code[..2])) => {
                Err(Error::refused(
                    format!("what is copied in the hold can't be: {error}"),
                    "mend that, and move again",
                ))
            }
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout(
                "unlogged tables and large objects were not copied within the hold's budget".into(),
            )),
        }
    }

    async fn carry_all(self, source: &Connection) -> Result<()> {
        self.control.run(&plan::emptied(&self.tables)).await?;
        for carried in &self.tables {
            if let Some(out) = carried.copy_out() {
                let writer = carried.writer.and_then(|access| self.writers.get(&access));
                pipe((source, &out), (writer.unwrap_or(&self.control), &carried.copy_in())).await?;
            }
        }
        if self.has_large_objects {
            large_objects::carry(source, &self.control).await?;
        }
        // Nobody may be in a database that is renamed.
        for (_, writer) in self.writers {
            writer.close().await;
        }
        self.control.close().await;
        Ok(())
    }
}

/// Whether unlogged tables that are too large may arrive empty.
fn accepts_unlogged(the_move: &Move<'_>) -> bool {
    the_move.input.accepted.iter().any(|code| code == UNLOGGED_ROWS)
}

/// What is more than a hold takes, in words, each with what to do.
pub(super) async fn too_much(
    the_move: &Move<'_>,
    source: &Connection,
) -> Result<Vec<(String, &'static str)>> {
    let mut found = Vec::new();
    for kind in &KINDS {
        if kind.code == UNLOGGED_ROWS && accepts_unlogged(the_move) {
            continue;
        }
        if let Some(much) = kind.over(source).await? {
            found.push((format!("{}: {much}", kind.what), kind.remedy));
        }
    }
    Ok(found)
}

/// Disables the triggers of these tables on the target. Returns what makes them again what they are on the source.
async fn disable_triggers(tables: &[Carried], source: &Connection, target: &Connection) -> Result<String> {
    let mut at_last = String::new();
    let names: Vec<&str> = tables.iter().map(|carried| carried.table.name.as_str()).collect();
    for row in source.rows(TRIGGERS_OF, &[&names]).await? {
        let (table, disabled): (&str, Vec<&str>) = (row.get(0), row.get(1));
        target.run(&format!("ALTER TABLE ONLY {table} DISABLE TRIGGER ALL")).await?;
        at_last += &format!("ALTER TABLE ONLY {table} ENABLE TRIGGER ALL; ");
        for trigger in disabled {
            at_last += &format!("ALTER TABLE ONLY {table} DISABLE TRIGGER {trigger}; ");
        }
    }
    Ok(at_last)
}

/// A session for each role that owns some of them. Nobody else gets into the target meanwhile: no router leads there.
async fn writers(the_move: &Move<'_>, tables: &[Carried]) -> Result<HashMap<Access, Connection>> {
    let owners: Vec<Access> = Access::ALL
        .into_iter()
        .filter(|access| tables.iter().any(|carried| carried.writer == Some(*access)))
        .collect();
    let (registry, arriving) = (the_move.target_registry().await?, the_move.id.arriving_database());
    let term = the_move.work.term;
    // Also where nobody writes: an earlier try may have died in between.
    database::set_limit(&registry, term, &arriving, if owners.is_empty() { 0 } else { SESSIONS_MAX }).await?;
    if owners.is_empty() {
        return Ok(HashMap::new());
    }
    let opened = open(the_move, owners, &arriving).await;
    database::set_limit(&registry, term, &arriving, 0).await?;
    opened
}

async fn open(
    the_move: &Move<'_>,
    owners: Vec<Access>,
    arriving: &str,
) -> Result<HashMap<Access, Connection>> {
    let tenant = the_move.tenant().await?;
    let mut writers = HashMap::new();
    for access in owners {
        let connector = &the_move.work.context.connector;
        let writer = connector.as_role_in(&the_move.target, (&tenant, access), arriving).await?;
        writer.run(TEXT_SETTINGS).await?;
        writers.insert(access, writer);
    }
    Ok(writers)
}

/// Streams the rows of one COPY into another.
async fn pipe((source, out): (&Connection, &str), (target, into): (&Connection, &str)) -> Result<()> {
    let rows = source.client().copy_out(out).await.map_err(|e| source.error(&e))?;
    let sink = target.client().copy_in::<_, Bytes>(into).await.map_err(|e| target.error(&e))?;
    tokio::pin!(rows, sink);
    while let Some(row) = rows.next().await {
        sink.feed(row.map_err(|e| source.error(&e))?).await.map_err(|e| target.error(&e))?;
    }
    sink.finish().await.map(drop).map_err(|e| target.error(&e))
}
