//! The second half of a cutover: the stream ends, the source is sealed, nothing has slipped in, the target decides.

use std::time::{Duration, Instant};

use shard_map::Epoch;

use super::driver::Move;
use super::fence::POLL;
use super::stragglers;
use crate::context::Work;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::server::{Connection, database, ident, registry};

/// How long those in a database may take to leave it, before new ones are taken to come in all the time.
const CLEAR: Duration = Duration::from_millis(200);

/// Disables the subscription and ends its walsender. Returns the position up to which the target has everything.
pub(crate) async fn detach(
    the_move: &Move<'_>,
    source_registry: &Connection,
    target: &Connection,
    deadline: Instant,
) -> Result<String> {
    let forward = &the_move.names.forward;
    target.run(&format!("ALTER SUBSCRIPTION {} DISABLE", ident(forward))).await?;
    failpoint::reach("detach_disabled").await;
    // Ended by hand: it would take 200 ms to notice by itself.
    const WALSENDERS: &str = "
        SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND backend_type = 'walsender'";
    while !source_registry.rows(WALSENDERS, &[&the_move.id.live_database()]).await?.is_empty() {
        still_in_time(deadline, "the walsender on the source did not end")?;
        tokio::time::sleep(POLL).await;
    }
    const WORKERS: &str = "
        SELECT count(*) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid() AND backend_type LIKE 'logical replication%'";
    while target.value::<i64>(WORKERS, &[&the_move.id.arriving_database()]).await? > 0 {
        still_in_time(deadline, "the apply worker on the target did not end")?;
        tokio::time::sleep(POLL).await;
    }
    const POSITION: &str = "
        SELECT pg_catalog.pg_replication_origin_progress('pg_' || oid, true)::text
        FROM pg_catalog.pg_subscription WHERE subname = $1";
    let position: Option<String> = target.value(POSITION, &[forward]).await?;
    position.ok_or_else(|| Error::Failed("the subscription has no position".into()))
}

/// Seals the source in one transaction: its registry says where the tenant goes, and the name is gone. The rename
/// fails (55006) while anybody else is in the database: that it succeeds proves that nobody is.
pub(crate) async fn seal(
    the_move: &Move<'_>,
    source_registry: &Connection,
    epoch: Epoch,
    deadline: Instant,
) -> Result<()> {
    let (live, sealed) = (the_move.id.live_database(), the_move.id.sealed_database());
    let target_address = the_move.target.address();
    let change = registry::Change {
        tenant: &the_move.id,
        from: &[Some("open")],
        to: "sealed",
        database: &sealed,
        epoch,
        moved_to: Some((the_move.target.name.as_str(), &target_address)),
    };
    record_and_rename(the_move.work, source_registry, &change, live, deadline).await
}

/// Proves that the slot holds no transaction that the target does not have: none was committed past the fence.
///
/// Commits are looked at, not rows: a transaction that wrote before the fence row and committed after it has rows
/// before `position`. A commit is told at its end, as `position` is; transactions without rows are not told
/// (PostgreSQL 15 and newer).
pub(crate) async fn nothing_slipped_in(the_move: &Move<'_>, position: &str) -> Result<()> {
    let connector = &the_move.work.context.connector;
    let sealed = connector.database(&the_move.source, &the_move.id.sealed_database()).await?;
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_logical_slot_peek_binary_changes($1::text::name, NULL, NULL,
                'proto_version', '1', 'publication_names', $1)
            WHERE lsn > $2::text::pg_lsn AND get_byte(data, 0) = ascii('C'))";
    let slipped = sealed.value(SQL, &[&the_move.names.forward, &position]).await?;
    sealed.close().await;
    if slipped {
        return Err(Error::Failed("a transaction was committed at the source past the fence".into()));
    }
    Ok(())
}

/// Decides, in one transaction on the target: its registry says `open`, and the database gets its name. From its
/// commit on there is only forward.
pub(crate) async fn decide(
    the_move: &Move<'_>,
    target_registry: &Connection,
    epoch: Epoch,
    deadline: Instant,
) -> Result<()> {
    let change = registry::Change {
        tenant: &the_move.id,
        from: &[Some("arriving")],
        to: "open",
        database: the_move.id.live_database(),
        epoch,
        moved_to: None,
    };
    let arriving = the_move.id.arriving_database();
    record_and_rename(the_move.work, target_registry, &change, &arriving, deadline).await
}

/// Changes a record and renames the database from `name` to the record's, in one transaction. Whoever is still in
/// the database is ended until the deadline. After an error its outcome must be looked up.
pub(crate) async fn record_and_rename(
    work: &Work,
    registry: &Connection,
    change: &registry::Change<'_>,
    name: &str,
    deadline: Instant,
) -> Result<()> {
    failpoint::reach(change.to).await;
    // A rename waits five seconds for a session to leave, longer than a hold may last: the one of a controller that stands
    // still, or of an operator who looks at the copy.
    let mut beside =
        match database::terminate(registry, name, None, deadline.min(Instant::now() + CLEAR)).await {
            Err(Error::Timeout(_)) => Some(work.context.connector.another(registry).await?),
            outcome => outcome.map(|()| None)?,
        };
    loop {
        let outcome = match &beside {
            None => write_and_rename(work, registry, change, name, None).await,
            // The rename's lock lets nobody in any more, so that those who are in need only be ended.
            Some(beside) => {
                let left = deadline.saturating_duration_since(Instant::now());
                tokio::select! {
                    outcome = write_and_rename(work, registry, change, name, Some(left)) => outcome,
                    outcome = database::terminate_all_that_come(beside, name) => outcome,
                }
            }
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(e) if e.sqlstate() == Some("55006") => {
                registry.run("ROLLBACK").await?;
                if let Some(prepared) = stragglers::prepared(registry, name).await? {
                    return Err(Error::Timeout(format!("{prepared}, keeps database {name} in use")));
                }
                still_in_time(deadline, "somebody stays in the database")?;
                if beside.is_none() {
                    beside = Some(work.context.connector.another(registry).await?);
                }
            }
            Err(e) => {
                drop(registry.run("ROLLBACK").await);
                return Err(e);
            }
        }
    }
}

/// `wait`: how long the rename may wait for sessions to leave; by default as long as Postgres does.
async fn write_and_rename(
    work: &Work,
    registry: &Connection,
    change: &registry::Change<'_>,
    name: &str,
    wait: Option<Duration>,
) -> Result<()> {
    registry.run("BEGIN").await?;
    if let Some(wait) = wait {
        registry.run(&format!("SET LOCAL statement_timeout = {}", wait.as_millis().max(1))).await?;
    }
    if !registry::write(registry, work.term, change).await? {
        let (tenant, from) = (change.tenant, change.from);
        return Err(Error::Failed(format!("tenant {tenant} is not {from:?} on record, or at a later epoch")));
    }
    database::rename(registry, name, change.database).await?;
    if wait.is_some() {
        // A commit that waits for a standby is not to be cut short.
        registry.run("SET LOCAL statement_timeout = DEFAULT").await?;
    }
    let to = change.to;
    failpoint::reach(&format!("{to}_renamed")).await;
    failpoint::unread(&format!("{to}_sent"), registry.run("COMMIT")).await
}

fn still_in_time(deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() < deadline { Ok(()) } else { Err(Error::Timeout(what.to_owned())) }
}
