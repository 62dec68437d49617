//! A managed server: whether it answers, is what it should be, and has nothing left on it that harms.

use std::collections::BTreeMap;

use catalog::{MoveState, ServerAddress, ServerRow};
use shard_map::{Server, TenantId};

use super::addresses;
use super::catalog::judge_clock;
use super::diagnosis::{Part, age, count, size};
use crate::error::{Error, Result};
use crate::server::arm::{CONNECTIONS_RESERVED, POSTGRES_VERSION_MIN, SETTINGS_MIN};
use crate::server::health::{Health, Prepared, RegistryHealth, Slot};
use crate::server::names::move_of;
use crate::server::{ident, literal, registry};

/// Connections that must be free for ordinary roles.
const CONNECTIONS_FREE_MIN: i32 = 3;
/// Log that a slot in use may keep.
const RETAINED_MAX: i64 = 8 << 30;
/// How long a transaction may stay prepared.
const PREPARED_MAX_S: i64 = 300;
/// Findings of one kind that are told one by one.
const EACH_MAX: usize = 10;

/// What was seen of a server.
pub(super) type Seen = Result<(Health, Result<RegistryHealth>)>;

/// What servers are held against.
pub(super) struct Expected<'a> {
    /// The fleet; none when the catalog does not say.
    pub(super) fleet: Option<&'a str>,
    /// The highest term that the catalog has given.
    pub(super) term: Option<i64>,
    /// Moves on record, by number.
    pub(super) moves: &'a BTreeMap<i64, MoveState>,
    /// Whether the catalog could be asked about moves.
    pub(super) moves_known: bool,
    /// What was seen where servers were, or may be.
    pub(super) addresses: &'a [ServerAddress],
}

impl Expected<'_> {
    /// Whether something under way drops this database, or will.
    fn is_dropping(&self, database: &str) -> bool {
        let tenant = TenantId::of_doomed(database);
        tenant.is_some_and(|tenant| {
            self.moves
                .values()
                .any(|known| known.state == "running" && known.tenant.as_ref() == Some(&tenant))
        })
    }
}

pub(super) fn judge(row: &ServerRow, seen: &Seen, expected: &Expected<'_>) -> Part {
    let mut part = Part::new("server", row.server.name.as_str());
    addresses::judge(&mut part, row, expected.addresses);
    let (health, registry) = match seen {
        Ok(seen) => seen,
        Err(error) => {
            judge_absence(&mut part, row, error);
            return part;
        }
    };
    let free = health.max_connections - health.reserved_connections - health.connections;
    part.see(format!(
        "PostgreSQL {}, {}, {} of {} connections free, {}",
        health.version,
        count(row.tenants as usize, "tenant"),
        free.max(0),
        health.max_connections,
        count(health.slots.len(), "slot"),
    ));
    judge_settings(&mut part, row, health);
    judge_connections(&mut part, row, health, free);
    judge_registry(&mut part, row, registry, expected);
    let left = health.invalid_databases.iter().filter(|database| !expected.is_dropping(database));
    for database in left.take(EACH_MAX) {
        part.error(
            format!("database {database} is invalid: its drop was interrupted"),
            on_server(row, &format!("DROP DATABASE {}", ident(database))),
        );
    }
    for slot in health.slots.iter() {
        judge_slot(&mut part, row, slot, expected);
    }
    for prepared in health.prepared.iter().filter(|p| p.age_s > PREPARED_MAX_S).take(EACH_MAX) {
        judge_prepared(&mut part, row, prepared);
    }
    judge_clock(&mut part, health.clock_ahead_ms, "this control plane's");
    part
}

/// A command to be run on the server by its superuser.
fn on_server(row: &ServerRow, sql: &str) -> String {
    in_database(row, "postgres", sql)
}

fn in_database(row: &ServerRow, database: &str, sql: &str) -> String {
    let Server { host, port, .. } = &row.server;
    let database = if is_plain(database) {
        database.to_owned()
    } else {
        // By itself psql may take it for an option or a connection string.
        let value = database.replace('\\', "\\\\").replace('\'', "\\'");
        word(&format!("dbname='{value}'"))
    };
    format!("psql -h {} -p {port} -U postgres -d {database} -c {}", word(host), word(sql))
}

/// One word of a shell, whatever it holds: clients choose names, and operators paste what is told.
fn word(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn is_plain(text: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._:/@-".contains(c);
    !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain)
}

fn add_again(row: &ServerRow) -> String {
    let url = format!("postgres://postgres@{}/postgres", row.server.address());
    format!("tenantry server add {} --url {}", row.server.name, word(&url))
}

fn judge_absence(part: &mut Part, row: &ServerRow, error: &Error) {
    part.see(row.server.address());
    match (error, error.sqlstate()) {
        (_, Some("3D000")) => part.error(
            "it has no registry: no tenant of it can be changed",
            "tenantry map rebuild --apply; it makes the registry anew (docs/recovery.md)",
        ),
        (_, Some("28P01" | "28000")) => part.error(
            format!("it refuses the control plane's login: {error}"),
            format!("{}; it sets the password anew", add_again(row)),
        ),
        (Error::ServerUnreachable { message, .. }, _) => part.error(
            format!("it can't be reached at {}: {message}", row.server.address()),
            format!(
                "start it; if it has another address now: {}; if it is lost for good: docs/recovery.md#a-server-is-lost-for-good",
                add_again(row)
            ),
        ),
        _ => part.error(format!("it can't be looked at: {error}"), "look at its log"),
    }
}

fn judge_settings(part: &mut Part, row: &ServerRow, health: &Health) {
    if health.version_number < POSTGRES_VERSION_MIN {
        part.error(format!("PostgreSQL {} is too old", health.version), "use PostgreSQL 15 or newer");
    }
    if health.system_identifier != row.system_identifier {
        part.error(
            format!("another Postgres cluster answers at {}", row.server.address()),
            "correct its address: tenantry server add with the right --url, or tenantry map apply",
        );
    }
    if health.standby {
        part.error(
            "it is a standby: it takes no writes",
            "give the primary's address: tenantry server add with its --url",
        );
    }
    let mut wrong = Vec::new();
    let mut settings = Vec::new();
    if health.wal_level != "logical" {
        wrong.push(format!("wal_level is {}, must be logical", health.wal_level));
        settings.push("ALTER SYSTEM SET wal_level = 'logical'".to_owned());
    }
    for ((setting, least), value) in SETTINGS_MIN.iter().zip(&health.settings) {
        if value < least {
            wrong.push(format!("{setting} is {value}, must be at least {least}"));
            settings.push(format!("ALTER SYSTEM SET {setting} = {least}"));
        }
    }
    if !wrong.is_empty() {
        let what = format!("{}: no tenant can be moved from it or to it", wrong.join("; "));
        // Each by itself: ALTER SYSTEM is refused in a transaction, which several in one string are.
        let remedy = settings.iter().map(|setting| on_server(row, setting)).collect::<Vec<_>>().join(" && ");
        part.error(what, format!("{remedy}, and restart Postgres"));
    }
}

fn judge_connections(part: &mut Part, row: &ServerRow, health: &Health, free: i32) {
    let most = (health.max_connections - CONNECTIONS_RESERVED).max(1);
    let declared = row.server.max_connections;
    if i64::from(declared) > i64::from(most) {
        part.error(
            format!(
                "routers may open {declared} connections, and its max_connections ({}) leaves {most} for them",
                health.max_connections
            ),
            format!(
                "{} --max-connections {most}; or raise max_connections in Postgres to {} and restart it",
                add_again(row),
                i64::from(declared) + i64::from(CONNECTIONS_RESERVED)
            ),
        );
    }
    if free < CONNECTIONS_FREE_MIN {
        part.warning(
            format!("{} of its {} connections are free", free.max(0), health.max_connections),
            "see who has them (SELECT usename, count(*) FROM pg_stat_activity GROUP BY 1), and leave some to the routers: lower max_connections in the map, or raise it in Postgres",
        );
    }
}

fn judge_registry(
    part: &mut Part,
    row: &ServerRow,
    registry: &Result<RegistryHealth>,
    expected: &Expected<'_>,
) {
    let seen = match registry {
        Ok(seen) => seen,
        Err(error) => {
            part.error(
                format!("its registry can't be read: {error}"),
                "tenantry map rebuild --apply; if a table of it is gone, drop its database first (docs/recovery.md)",
            );
            return;
        }
    };
    if let (Some(theirs), Some(ours)) = (seen.fleet.as_deref(), expected.fleet)
        && theirs != ours
    {
        part.error(
            "its registry is of another fleet",
            "correct its address; a rebuild takes nothing from it",
        );
    }
    if let (Some(theirs), Some(ours)) = (seen.term, expected.term)
        && theirs > ours
    {
        part.error(
            format!("it has seen term {theirs}, and the catalog is at {ours}: every change is refused there"),
            "tenantry map rebuild --apply",
        );
    }
    let newest = registry::schema_newest();
    if seen.fleet.is_none() || seen.term.is_none() || !seen.readable {
        part.error(
            "its registry is not armed: no fleet or term on record, or routers can't read it",
            add_again(row),
        );
    } else if seen.schema.is_none_or(|schema| schema < newest) {
        part.warning(
            format!("its registry's schema is older than this program's ({newest}): it does without what came since"),
            add_again(row),
        );
    }
}

fn judge_slot(part: &mut Part, row: &ServerRow, slot: &Slot, expected: &Expected<'_>) {
    let name = &slot.name;
    let retains = slot.retained.map_or_else(String::new, |bytes| format!(", retains {} of WAL", size(bytes)));
    let much = slot.lost || slot.retained.is_some_and(|bytes| bytes > RETAINED_MAX);
    let drop = on_server(row, &format!("SELECT pg_drop_replication_slot({})", literal(name)));
    let number = move_of(name);
    let on_record = number.and_then(|number| expected.moves.get(&number));
    match (number, on_record) {
        (Some(number), Some(the_move)) if ["running", "switched"].contains(&the_move.state.as_str()) => {
            if much {
                let tenant = the_move.tenant.as_ref().map_or("", |tenant| tenant.as_str());
                let give_up = if the_move.state == "switched" {
                    format!("its way back: tenantry move complete {number}")
                } else {
                    format!("the move: tenantry move abort {number}")
                };
                part.warning(
                    format!("replication slot {name} of move {number} (tenant {tenant}){retains}: the disk may fill up"),
                    format!("watch the disk; to give up {give_up}"),
                );
            }
        }
        (Some(_), _) if !expected.moves_known => {}
        (Some(number), on_record) => {
            let ended = on_record.map_or("not on record", |the_move| the_move.state.as_str());
            let what = format!("replication slot {name} was left by move {number} ({ended}){retains}");
            part.error(what, drop);
        }
        (None, _) if !slot.active => part.warning(
            format!("replication slot {name} is inactive{retains}; it belongs to no move"),
            format!("if nobody needs it: {drop}"),
        ),
        (None, _) if much => part.warning(
            format!("replication slot {name}{retains}; it belongs to no move"),
            "look at who reads it: it is too slow, and the disk may fill up",
        ),
        (None, _) => {}
    }
}

fn judge_prepared(part: &mut Part, row: &ServerRow, prepared: &Prepared) {
    let Prepared { gid, database, age_s } = prepared;
    part.warning(
        format!(
            "transaction {gid} in database {database} has been prepared for {}: it keeps its locks, and moves can't begin",
            age(age_s * 1_000)
        ),
        format!("ask whose it is; then {}", in_database(row, database, &format!("ROLLBACK PREPARED {}", literal(gid)))),
    );
}

#[cfg(test)]
mod tests;
