//! Who is in the way of a short hold, by name: transactions that stay open, prepared ones, sessions that can't be held.
//!
//! Routers hold the transactions that go through them, so what they run under the tenant's roles ends by itself. A session
//! that came past them (an operator's psql, a job with a role of its own) is not held: in a transaction it is waited for,
//! idle it is ended by the fence. A prepared transaction has no session that could be ended, and whoever prepared it was
//! told that it can be committed: it is never rolled back.

use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use shard_map::{Access, TenantId};
use tokio_postgres::Row;

use super::driver::Move;
use super::held;
use crate::error::{Error, Result};
use crate::server::names::OF_READERS;
use crate::server::{CONTROL_ROLE, Connection};

/// How long is waited for them, unless the move says otherwise.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// The same, of a move that may end them.
const WAIT_BEFORE_KILL: Duration = Duration::from_secs(10);
/// How long those that are ended may take for it.
const END_MAX: Duration = Duration::from_mins(1);
/// How many are named.
const NAMED_MAX: usize = 3;
/// How often one that keeps a slot from being made is looked for.
const SLOT_POLL: Duration = Duration::from_secs(1);

/// The columns by which a session in a transaction is told.
const SESSION: &str = "
    pid, coalesce(usename::text, '?'), coalesce(application_name, ''), coalesce(state, '?'),
    coalesce(extract(epoch FROM clock_timestamp() - xact_start), 0)::float8, datname::text";

/// Patience with them, over all looks of one move.
pub(super) struct Patience {
    most: Duration,
    spent: Duration,
    last: Option<Instant>,
}

impl Patience {
    /// As much as is left of it.
    pub(super) async fn of(the_move: &Move<'_>) -> Result<Self> {
        let default = if the_move.input.kill_stragglers { WAIT_BEFORE_KILL } else { WAIT_MAX };
        let most = the_move.input.max_wait_ms.map_or(default, Duration::from_millis);
        let operation = the_move.work.context.catalog.operation(the_move.work.operation.id).await?;
        let spent = operation.data.get("waited_ms").and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok(Self { most, spent: Duration::from_millis(spent), last: None })
    }

    /// What is waited for now, in words; none when nothing is in the way. Only the time that passes with somebody in the way
    /// counts. When it is over, those who can be are ended if that is allowed; else the move is.
    pub(super) async fn wait(&mut self, the_move: &Move<'_>, source: &Connection) -> Result<Option<String>> {
        let kill = the_move.input.kill_stragglers && self.spent >= self.most;
        let found = look(the_move, source, kill).await?;
        let now = Instant::now();
        if found.is_empty() {
            self.last = None;
            return Ok(None);
        }
        self.spent += self.last.map_or(Duration::ZERO, |last| now - last);
        self.last = Some(now);
        let names = named(&found);
        let waited_ms = u64::try_from(self.spent.as_millis()).unwrap_or(u64::MAX);
        the_move.work.remember(&json!({ "waited_ms": waited_ms })).await?;
        // Those that are told to end have a while for it.
        let are_ended = the_move.input.kill_stragglers && found.iter().all(|one| one.can_be_ended);
        if self.spent < self.most + if are_ended { END_MAX } else { Duration::ZERO } {
            return Ok(Some(names));
        }
        Err(Error::Failed(format!("waited {:?} (max_wait) for {names}; {}", self.most, remedy(&found))))
    }
}

/// Something in the way.
struct Straggler {
    what: String,
    remedy: &'static str,
    can_be_ended: bool,
}

const END_IT: &str = "end it, or start the move with --kill-stragglers";
const SETTLE_IT: &str = "COMMIT PREPARED or ROLLBACK PREPARED it";
const LEAVE: &str = "let the clients reconnect, or start the move without --wait-sessions";

fn remedy(found: &[Straggler]) -> &'static str {
    // What an operator has to do before all else.
    let first = found.iter().find(|one| !one.can_be_ended).or(found.first());
    first.map_or("", |one| one.remedy)
}

fn named(found: &[Straggler]) -> String {
    let mut names: Vec<&str> = found.iter().take(NAMED_MAX).map(|one| one.what.as_str()).collect();
    let more = format!("{} more", found.len().saturating_sub(NAMED_MAX));
    if found.len() > NAMED_MAX {
        names.push(&more);
    }
    names.join("; ")
}

/// Looks for all of them; with `kill`, sessions in a transaction are ended, and others are not told.
async fn look(the_move: &Move<'_>, source: &Connection, kill: bool) -> Result<Vec<Straggler>> {
    let sql = format!(
        "SELECT {SESSION}, CASE WHEN $3 THEN pg_catalog.pg_terminate_backend(pid) END
        FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
            AND xact_start < clock_timestamp() - $2 * interval '1 second'
        ORDER BY xact_start"
    );
    let (database, seconds) = (the_move.id.live_database(), (the_move.max_hold() / 2).as_secs_f64());
    let open = source.rows(&sql, &[&database, &seconds, &kill]).await?;
    let mut found: Vec<Straggler> =
        open.iter().map(|row| Straggler { what: session(row), remedy: END_IT, can_be_ended: true }).collect();
    if let Some(what) = prepared(source, database).await? {
        found.push(Straggler { what, remedy: SETTLE_IT, can_be_ended: false });
    }
    for (what, remedy) in held::too_much(the_move, source).await? {
        found.push(Straggler { what, remedy, can_be_ended: false });
    }
    if the_move.input.wait_sessions && !kill {
        let context = &the_move.work.context;
        for router in context.catalog.live_routers(context.config.router_timeout).await? {
            for (reason, count) in router.report.pinned.get(the_move.id.as_str()).into_iter().flatten() {
                let what = format!(
                    "{} at router {} that can't be held ({reason})",
                    sessions_of(*count),
                    router.name
                );
                found.push(Straggler { what, remedy: LEAVE, can_be_ended: the_move.input.kill_stragglers });
            }
        }
    }
    Ok(found)
}

fn sessions_of(count: u32) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

/// A row of [`SESSION`], in words.
fn session(row: &Row) -> String {
    let (pid, role, application): (i32, &str, &str) = (row.get(0), row.get(1), row.get(2));
    let (state, age): (&str, f64) = (row.get(3), row.get(4));
    let application = match application {
        "" => String::new(),
        name => format!(", application {name:?}"),
    };
    format!("a transaction of {role} (pid {pid}{application}, {state}) is open for {age:.1} s")
}

/// The oldest prepared transaction of a database, in words.
pub(super) async fn prepared(connection: &Connection, database: &str) -> Result<Option<String>> {
    Ok(prepared_now(connection, database).await?.0)
}

/// The same, and when that was, by the server's clock.
pub(super) async fn prepared_now(
    connection: &Connection,
    database: &str,
) -> Result<(Option<String>, SystemTime)> {
    const SQL: &str = "
        SELECT clock_timestamp(), (SELECT format('prepared transaction %L of %s, prepared %s s ago', gid, owner,
                extract(epoch FROM clock_timestamp() - prepared)::bigint)
            FROM pg_catalog.pg_prepared_xacts WHERE database = $1 ORDER BY prepared LIMIT 1)";
    let row = connection.row(SQL, &[&database]).await?;
    let row = row.ok_or_else(|| Error::Failed("no answer to the time of day".into()))?;
    Ok((row.get(1), row.get(0)))
}

/// Ends the sessions at a fenced source but `spared`, and waits until they are gone. Nobody's but the tenant's and the
/// control plane's roles are ended in a transaction that was open before `since`, unless that is allowed: until
/// `drained_by` their ends are waited for. Those who came later are ended and not waited for: superusers pass the fence,
/// and may come without end; the seal sees to them.
pub(super) async fn end_sessions(
    the_move: &Move<'_>,
    registry: &Connection,
    (since, spared): (SystemTime, i32),
    (drained_by, deadline): (Instant, Instant),
) -> Result<()> {
    let sql = format!(
        "SELECT {SESSION}, backend_start < $3, is_waited_for,
            CASE WHEN NOT is_waited_for THEN pg_catalog.pg_terminate_backend(pid) END
        FROM (SELECT *, coalesce(NOT $4 AND backend_type = 'client backend' AND NOT usename::text = ANY ($5)
                AND usename::text !~ '{OF_READERS}' AND xact_start < $3, false) AS is_waited_for
            FROM pg_catalog.pg_stat_activity
            WHERE datname = $1 AND backend_type <> 'walsender' AND pid <> $2) sessions"
    );
    let (database, kill) = (the_move.id.live_database(), the_move.input.kill_stragglers);
    let roles = own_roles(&the_move.id);
    loop {
        let left = registry.rows(&sql, &[&database, &spared, &since, &kill, &roles]).await?;
        if !left.iter().any(|row| row.get::<_, bool>(6)) {
            return Ok(());
        }
        let now = Instant::now();
        if let Some(waited_for) = left.iter().find(|row| row.get(7)).filter(|_| now >= drained_by) {
            let what = session(waited_for);
            return Err(Error::Timeout(format!("past the routers, {what}; {END_IT}")));
        }
        if now >= deadline {
            return Err(Error::Timeout(format!("sessions of database {database} did not end in time")));
        }
        tokio::time::sleep(super::fence::POLL).await;
    }
}

/// Under which routers and the control plane work.
fn own_roles(tenant: &TenantId) -> Vec<String> {
    let mut roles: Vec<String> = Access::ALL.map(|access| access.role(tenant)).into();
    roles.push(CONTROL_ROLE.to_owned());
    roles
}

/// Waits until a slot is made, and tells meanwhile whose transaction it waits for: anybody's on that server.
pub(super) async fn tell_while<T>(
    the_move: &Move<'_>,
    registry: &Connection,
    slot: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut holder = None;
    let tell = async {
        loop {
            tokio::time::sleep(SLOT_POLL).await;
            // What is told does not end what it is told of.
            let Ok(found) = oldest_writer(registry).await else { continue };
            holder = found;
            match the_move.work.remember(&json!({ "waiting_for": holder })).await {
                Err(error) if error.must_stop() => return Err(error),
                _ => {}
            }
        }
    };
    let outcome: Result<T> = tokio::select! {
        biased;
        outcome = slot => outcome,
        outcome = tell => outcome,
    };
    let Some(holder) = holder else { return outcome };
    the_move.work.remember(&json!({ "waiting_for": null })).await?;
    outcome.map_err(|error| match error {
        Error::Timeout(what) => Error::Timeout(format!("{what}: {holder}")),
        error if error.sqlstate() == Some("57014") => {
            Error::Timeout(format!("the slot was not ready within slot_timeout: {holder}"))
        }
        error => error,
    })
}

/// The oldest transaction of a server that has written, prepared ones included, in words.
pub(super) async fn oldest_writer(connection: &Connection) -> Result<Option<String>> {
    let sql = format!(
        "SELECT {SESSION} FROM pg_catalog.pg_stat_activity
        WHERE backend_xid IS NOT NULL AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()
        ORDER BY xact_start LIMIT 1"
    );
    let in_database = |what: String, database: &str| format!("in database {database}, {what}");
    if let Some(row) = connection.row(&sql, &[]).await? {
        return Ok(Some(in_database(session(&row), row.get::<_, Option<&str>>(5).unwrap_or("?"))));
    }
    const PREPARED: &str =
        "SELECT database::text FROM pg_catalog.pg_prepared_xacts ORDER BY prepared LIMIT 1";
    let Some(row) = connection.row(PREPARED, &[]).await? else { return Ok(None) };
    let database: &str = row.get(0);
    Ok(prepared(connection, database).await?.map(|what| in_database(what, database)))
}
