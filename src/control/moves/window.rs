//! The window in which a switched move can be turned round: the sealed source follows the target, so that going back is a
//! cutover without a copy. It is open from the end of the comparison (the stream changes what is compared) until its time
//! is over, or something closes it before; why, is on record. Closing removes all that streams, the slot first: it keeps
//! the target's log, and must never fill its disk.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::driver::Move;
use super::stream::{self, Publisher};
use super::watchdog::{self, Change};
use super::{arm, guard, identity, undo};
use crate::context::{Work, back_off};
use crate::error::{Error, Result};
use crate::failpoint::reach;
use crate::server::{Connection, database, ident, roles};

/// Tries to open the window; a stream that can't be made must not keep the move from its end.
const OPEN_TRIES: u32 = 5;
/// Slots, senders and workers that are left to moves: a window takes none of the last ones.
const ROOM_MIN: i32 = 2;

/// The record of a window, in the move's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum Window {
    /// The move can be turned round.
    Open {
        /// Of the target's schema, which must be the same when it is.
        fingerprint: String,
    },
    /// It can't any more.
    Closed {
        #[serde(flatten)]
        closing: Closing,
        /// Whether nothing is left of the stream.
        removed: bool,
    },
}

/// Why a window was closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Closing {
    /// When (RFC 3339).
    pub(crate) at: Option<String>,
    pub(crate) why: String,
    /// The command that changed the schema, if that was it.
    pub(crate) what: Option<String>,
    /// The role that gave it.
    pub(crate) who: Option<String>,
}

impl Closing {
    /// Closed now, by nobody's schema change.
    pub(crate) fn because(why: impl Into<String>) -> Self {
        Self { at: None, why: why.into(), what: None, who: None }
    }

    /// What was seen in the target's database.
    pub(super) fn of(seen: &watchdog::Seen) -> Option<Self> {
        let why = seen.why_over()?;
        Some(match &seen.change {
            Some(Change { at, what, who }) => {
                Self { at: Some(at.clone()), why, what: Some(what.clone()), who: Some(who.clone()) }
            }
            None => Self::because(why),
        })
    }
}

impl Window {
    /// The window of a move with this data. `None`: it has none yet, or was made by a program that knew none.
    pub(crate) fn of(data: &Value) -> Option<Self> {
        serde_json::from_value(data.get("window")?.clone()).ok()
    }
}

/// Opens it, unless it was closed meanwhile. One that can't be opened is closed, with the reason.
pub(super) async fn open(the_move: &Move<'_>) -> Result<()> {
    let work = the_move.work;
    let mut tries = 0;
    loop {
        match try_open(the_move).await {
            Ok(None) => return Ok(()),
            Ok(Some(closing)) => return close(the_move, closing).await,
            Err(error) if error.must_stop() => return Err(error),
            Err(error) => {
                tries += 1;
                tracing::warn!(operation = work.operation.id, tries, %error, "the way back can't be made yet");
                if tries >= OPEN_TRIES {
                    let why = format!("the stream back could not be made: {error}");
                    return close(the_move, Closing::because(why)).await;
                }
                back_off(tries).await;
            }
        }
    }
}

/// `Some`: why it is not to be opened.
async fn try_open(the_move: &Move<'_>) -> Result<Option<Closing>> {
    let (work, back) = (the_move.work, &the_move.names.reverse);
    let operation = work.context.catalog.operation(work.operation.id).await?;
    match Window::of(&operation.data) {
        Some(Window::Open { .. }) => return Ok(None),
        Some(Window::Closed { closing, .. }) => return Ok(Some(closing)),
        None => {}
    }
    let target_registry = the_move.target_registry().await?;
    let source_registry = the_move.source_registry().await?;
    if let Some(why) = without_room(the_move, &source_registry, &target_registry).await? {
        return Ok(Some(Closing::because(why)));
    }
    let connector = &work.context.connector;
    let live = the_move.id.live_database();
    let target = connector.database(&the_move.target, live).await?;
    // Read before the look: a change in between is seen by it.
    let fingerprint = crate::server::tables::fingerprint(&target).await?;
    if let Some(closing) = Closing::of(&watchdog::look(&target, back).await?) {
        return Ok(Some(closing));
    }
    let password = work.context.key.move_password(work.operation.id);
    roles::put_login(&target_registry, back, "REPLICATION NOSUPERUSER", &password).await?;
    target_registry.run(&format!("GRANT CONNECT ON DATABASE {} TO {}", ident(live), ident(back))).await?;
    reach("window_role").await;
    let sealed = connector.database(&the_move.source, &the_move.id.sealed_database()).await?;
    // The first changes what the guard keeps.
    sealed.run("SET tenantry.move = 'on'").await?;
    guard::lift(&sealed).await?;
    watchdog::take_down(&sealed).await?;
    watchdog::make_notes(&sealed).await?;
    sealed.run(&format!("DROP PUBLICATION IF EXISTS {}", ident(&the_move.names.forward))).await?;
    reach("window_sealed").await;
    let version = stream::version(&target).await?;
    let publisher = Publisher { server: &the_move.target, database: live, name: back, password, version };
    stream::follow(&work.context, &publisher, &sealed).await?;
    reach("window_follows").await;
    work.remember(&json!({ "window": Window::Open { fingerprint } })).await?;
    reach("window_open").await;
    Ok(None)
}

/// What a window would take the last of, in words.
async fn without_room(
    the_move: &Move<'_>,
    source: &Connection,
    target: &Connection,
) -> Result<Option<String>> {
    let workers = format!(
        "SELECT least(current_setting('max_logical_replication_workers')::int, {})
            - (SELECT count(*) FROM pg_catalog.pg_subscription WHERE subenabled)::int",
        stream::ORIGINS_MAX
    );
    const SLOTS: &str = "
        SELECT least(current_setting('max_replication_slots')::int
                - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int,
            current_setting('max_wal_senders')::int
                - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int)";
    let workers: i32 = source.value(&workers, &[]).await?;
    let slots: i32 = target.value(SLOTS, &[]).await?;
    let of = |server: &shard_map::ServerName, settings: &str| {
        Some(format!("server {server} has no room for one more stream: raise {settings}"))
    };
    Ok(match (workers > ROOM_MIN, slots >= ROOM_MIN) {
        (false, _) => of(
            &the_move.source.name,
            "max_logical_replication_workers and max_replication_slots (max_active_replication_origins from 18 on)",
        ),
        (_, false) => of(&the_move.target.name, "max_replication_slots and max_wal_senders"),
        _ => None,
    })
}

/// Closes a move's window, if it is not closed with nothing left. The caller has the move's turn.
pub(super) async fn close_of(work: &Work, closing: Closing) -> Result<()> {
    let operation = work.context.catalog.operation(work.operation.id).await?;
    if matches!(Window::of(&operation.data), Some(Window::Closed { removed: true, .. })) {
        return Ok(());
    }
    close(&Move::load(work, &operation).await?, closing).await
}

/// Puts the reason on record, unless one is; then removes what streams. Can be repeated.
pub(super) async fn close(the_move: &Move<'_>, closing: Closing) -> Result<()> {
    let work = the_move.work;
    let catalog = &work.context.catalog;
    let operation = catalog.operation(work.operation.id).await?;
    let mut closing = match Window::of(&operation.data) {
        Some(Window::Closed { removed: true, .. }) => return Ok(()),
        Some(Window::Closed { closing, .. }) => closing,
        _ => closing,
    };
    if closing.at.is_none() {
        closing.at = Some(catalog.timestamp(None).await?);
    }
    tracing::info!(operation = work.operation.id, why = closing.why, "the way back closes");
    let window = |removed| json!({ "window": Window::Closed { closing: closing.clone(), removed } });
    work.remember(&window(false)).await?;
    reach("window_closing").await;
    remove(the_move).await?;
    work.remember(&window(true)).await
}

/// Removes what streams: on the target, where the tenant lives, whatever it takes; on the source as far as that answers. What
/// stays there goes with the sealed copy.
async fn remove(the_move: &Move<'_>) -> Result<()> {
    let back = &the_move.names.reverse;
    let target_registry = the_move.target_registry().await?;
    undo::drop_slot(&target_registry, back).await?;
    reach("window_slot_dropped").await;
    if let Err(error) = end_following(the_move).await {
        if error.must_stop() {
            return Err(error);
        }
        tracing::warn!(operation = the_move.work.operation.id, %error, "the sealed copy's subscription is left for later");
    }
    let live = the_move.id.live_database();
    if database::is_valid(&target_registry, live).await? {
        let target = the_move.work.context.connector.database(&the_move.target, live).await?;
        target.run(&format!("DROP PUBLICATION IF EXISTS {}", ident(back))).await?;
        guard::take_down(&target).await?;
        identity::put_back(&target, &arm::identities_recorded(the_move).await?).await?;
    }
    reach("window_taken_down").await;
    undo::drop_role(&target_registry, &the_move.id, back).await
}

/// Drops what follows in the sealed copy.
pub(super) async fn end_following(the_move: &Move<'_>) -> Result<()> {
    let source_registry = the_move.source_registry().await?;
    let sealed = the_move.id.sealed_database();
    if !database::is_valid(&source_registry, &sealed).await? {
        return Ok(());
    }
    let sealed = the_move.work.context.connector.database(&the_move.source, &sealed).await?;
    undo::drop_subscriptions(&sealed).await?;
    sealed.close().await;
    Ok(())
}

/// Waits until the slot back, which nobody reads before the window is open, keeps more of the target's log than it may.
pub(super) async fn outgrown(the_move: &Move<'_>) -> Closing {
    loop {
        tokio::time::sleep(super::window_watch::INTERVAL).await;
        let retained = async {
            let registry = the_move.target_registry().await?;
            let sql = format!("{} WHERE slot_name = $1", super::window_watch::SLOTS);
            Ok::<_, Error>(
                registry
                    .row(&sql, &[&the_move.names.reverse])
                    .await?
                    .map(|row| super::window_watch::Slot::of(&row)),
            )
        };
        let most = the_move.work.context.config.reverse_wal_bytes_max;
        if let Ok(Some(slot)) = retained.await
            && let Some(why) = slot.too_much(&the_move.target.name, most)
        {
            return Closing::because(why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let closing = Closing { what: Some("ALTER TABLE".into()), ..Closing::because("a change") };
        for window in [
            Window::Open { fingerprint: "f".into() },
            Window::Closed { closing: closing.clone(), removed: false },
            Window::Closed { closing, removed: true },
        ] {
            assert_eq!(Window::of(&json!({ "window": window })), Some(window));
        }
        assert_eq!(Window::of(&json!({})), None);
    }
}
