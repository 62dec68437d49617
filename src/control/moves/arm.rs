//! Arms the source: what the stream of changes needs, and the guard. The application keeps reading and writing.

use serde_json::json;

use super::driver::Move;
use super::identity::{self, Changed};
use super::{complete, guard, pause, stragglers, undo};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::fleet::tenant;
use crate::server::walsender::Walsender;
use crate::server::{ident, registry, roles, tables};

/// Arms the source, and opens the snapshot that the copy is made from.
pub(crate) async fn run(the_move: &mut Move<'_>) -> Result<()> {
    let work = the_move.work;
    // Before there is a slot, which keeps log that nobody reads.
    pause::wait(&work.context.catalog, work.operation.id).await?;
    complete::finish_earlier(work, &the_move.id, Some(&the_move.target.name)).await?;
    let source_registry = the_move.source_registry().await?;
    registry::raise_term(&source_registry, work.term).await?;
    registry::raise_term(&the_move.target_registry().await?, work.term).await?;
    failpoint::reach("arm_terms").await;

    the_move.note_limit(&source_registry).await?;
    let live = the_move.id.live_database();

    let source = the_move.source_database().await?;
    // A migration of this tenant ends first; the next one finds the guard, and waits for the move's end.
    tenant::keep_migrations_off(&source).await?;
    // The identity first: a table that is published without one refuses the application's updates. What is about
    // to be changed is recorded before it is. Then once more: until the guard is up, tables may appear.
    let mut changed = identities_recorded(the_move).await?;
    for guarded in [false, true] {
        if guarded {
            guard::put_up(&source).await?;
        }
        let missing = identity::missing(&source).await?;
        if !missing.is_empty() {
            changed.extend(missing.iter().cloned());
            work.remember(&json!({ "identities": changed })).await?;
            failpoint::reach("arm_noted").await;
            identity::set(&source, &missing).await?;
        }
    }
    failpoint::reach("arm_guarded").await;
    tenant::let_migrations_on(&source).await?;
    let forward = &the_move.names.forward;
    source
        .run(&format!(
            "DROP PUBLICATION IF EXISTS {name}; CREATE PUBLICATION {name} FOR ALL TABLES",
            name = ident(forward)
        ))
        .await?;

    failpoint::reach("arm_published").await;
    // The role with which the target follows: it can stream, and nothing else.
    let password = work.context.key.move_password(work.operation.id);
    roles::put_login(&source_registry, forward, "REPLICATION NOSUPERUSER", &password).await?;
    source_registry.run(&format!("GRANT CONNECT ON DATABASE {} TO {}", ident(live), ident(forward))).await?;

    failpoint::reach("arm_role").await;
    undo::drop_slot(&source_registry, forward).await?;
    let mut walsender = Walsender::connect(&work.context.connector, &the_move.source, live).await?;
    let slot = walsender.create_slot(forward, work.context.config.slot_timeout);
    let slot = stragglers::tell_while(the_move, &source_registry, slot).await?;
    the_move.snapshot = Some((walsender, slot.snapshot));
    failpoint::reach("arm_slot").await;

    // Creating the slot waited for every transaction that was open: what such a one created is seen only now.
    let late = identity::missing(&source).await?;
    if !late.is_empty() {
        changed.extend(late.iter().cloned());
        work.remember(&json!({ "identities": changed })).await?;
        identity::set(&source, &late).await?;
    }
    let fingerprint = tables::fingerprint(&source).await?;
    // What was compared before was another copy.
    work.remember(&json!({ "fingerprint": fingerprint, "compared": null })).await?;
    source.close().await;
    Ok(())
}

/// Identities that this move changed already, before it was restarted.
pub(crate) async fn identities_recorded(the_move: &Move<'_>) -> Result<Vec<Changed>> {
    let operation = the_move.work.context.catalog.operation(the_move.work.operation.id).await?;
    match operation.data.get("identities") {
        Some(recorded) => serde_json::from_value(recorded.clone())
            .map_err(|e| Error::Failed(format!("the record of replica identities can't be read: {e}"))),
        None => Ok(Vec::new()),
    }
}
