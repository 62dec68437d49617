//! What a session has set: what to replay on another connection, and what pins the client to the one it has.
//!
//! A change counts when the server has confirmed it, and is undone with its transaction. What the text of a statement
//! does not show is not known here: see `wire::sql`.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

use bytes::BytesMut;
use wire::backend;
use wire::sql::{Change, PinReason, Pins, Transaction};

mod deeds;

pub(crate) use deeds::Deeds;

/// Settings by canonical name: the statement that makes each.
pub(crate) type Settings = BTreeMap<String, Rc<str>>;

/// What a server reports of its parameters, without `application_name`, which is the client's own affair.
pub(crate) type Params = BTreeMap<Box<[u8]>, Box<[u8]>>;

pub(crate) const APPLICATION_NAME: &str = "application_name";

/// The settings that begin a session, from its startup packet.
fn startup_settings(pairs: &[(String, String)]) -> Settings {
    pairs
        .iter()
        .map(|(name, value)| {
            // set_config takes a value as the startup packet does, lists included; SET would quote them into one.
            let text = format!("SELECT pg_catalog.set_config({}, {}, false)", literal(name), literal(value));
            (name.to_ascii_lowercase(), text.into())
        })
        .collect()
}

/// Why a client with these settings needs a connection of its own from the first.
fn startup_pins(pairs: &[(String, String)]) -> Pins {
    let mut pins = Pins::NONE;
    for (name, value) in pairs {
        pins.add(wire::sql::pins_of_setting(&name.to_ascii_lowercase(), Some(value)));
    }
    pins
}

/// A string constant that means the same with either value of standard_conforming_strings.
fn literal(text: &str) -> String {
    let doubled = text.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// Each SET of this one changes its style, the order of day and month, or both.
const CUMULATIVE: &str = "datestyle";

/// Statements that were made and one more, which takes the place of an earlier one that is the same.
fn added(before: &str, text: &Rc<str>) -> Rc<str> {
    let mut all: Vec<&str> = before.split(';').filter(|earlier| *earlier != &**text).collect();
    all.push(text);
    all.join(";").into()
}

/// Settings that say how a statement runs or what is told of it, not what it means: not those of how values are written, as
/// a plan has constants of the kind. Clients that differ in nothing else
/// share their statements.
const NOT_OF_MEANING: [&str; 16] = [
    APPLICATION_NAME,
    "client_min_messages",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "jit",
    "lock_timeout",
    "log_min_duration_statement",
    "log_statement",
    "maintenance_work_mem",
    "statement_timeout",
    "synchronous_commit",
    "transaction_timeout",
    "work_mem",
];

fn reading_of(settings: &Settings) -> u64 {
    let mut hasher = DefaultHasher::new();
    for setting in settings.iter().filter(|(name, _)| !NOT_OF_MEANING.contains(&name.as_str())) {
        setting.hash(&mut hasher);
    }
    hasher.finish()
}

/// Most bytes of a client's settings that are replayed, names included: more than come from a startup packet.
const SETTINGS_BYTES_MAX: usize = 32 * 1024;

fn bytes_of(settings: &Settings) -> usize {
    settings.iter().map(|(name, text)| name.len() + text.len()).sum()
}

/// Most bytes of names that are kept, with what each takes beside itself.
const NAMES_BYTES_MAX: usize = 64 * 1024;
const NAME_BYTES: usize = 64;

fn identifier(name: &str) -> String {
    name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect::<Vec<_>>().join(".")
}

/// Changes of these two change one another, and everything else is set under them.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

/// The statements that make a connection with the settings `applied` one with `wanted`; `None` when it is one already.
pub(crate) fn replay(applied: &Rc<Settings>, wanted: &Rc<Settings>) -> Option<String> {
    if Rc::ptr_eq(applied, wanted) || applied == wanted {
        return None;
    }
    let identity_differs = IDENTITY.iter().any(|name| applied.get(*name) != wanted.get(*name));
    let mut sql = String::new();
    if identity_differs {
        sql.push_str("RESET SESSION AUTHORIZATION;RESET ROLE;");
        for name in IDENTITY {
            if let Some(text) = wanted.get(name) {
                let _ = write!(sql, "{text};");
            }
        }
    }
    let plain = |name: &str| !IDENTITY.contains(&name);
    for name in applied.keys().filter(|name| plain(name) && !wanted.contains_key(*name)) {
        let _ = write!(sql, "RESET {};", identifier(name));
    }
    for (name, text) in wanted.iter().filter(|(name, _)| plain(name)) {
        if applied.get(name) != Some(text) {
            let _ = write!(sql, "{text};");
        }
    }
    Some(sql)
}

/// Notes a ParameterStatus.
pub(crate) fn note_parameter(params: &mut Rc<Params>, name: &[u8], value: &[u8]) {
    if name != APPLICATION_NAME.as_bytes() && params.get(name).is_none_or(|known| **known != *value) {
        Rc::make_mut(params).insert(name.into(), value.into());
    }
}

/// Tells a client the parameters that differ from what it was told.
pub(crate) fn tell_differences(told: &mut Rc<Params>, params: &Rc<Params>, out: &mut BytesMut) {
    if Rc::ptr_eq(told, params) {
        return;
    }
    for (name, value) in params.iter() {
        if told.get(name) != Some(value) {
            backend::write_parameter_status(out, name, value);
        }
    }
    *told = params.clone();
}

/// What is to be done with the statements that a client and its connection have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatementsGone {
    None,
    All,
}

/// The state of one session.
#[derive(Debug, Default)]
pub(crate) struct SessionState {
    startup: Rc<Settings>,
    pub(crate) settings: Rc<Settings>,
    pub(crate) pins: Pins,
    /// Reasons in the settings that it began with, which come back with them.
    lasting: Pins,
    /// Reasons that are gone if the transaction commits.
    released: Pins,
    listens: BTreeSet<String>,
    prepared: BTreeSet<String>,
    cursors: BTreeSet<String>,
    /// The client's and the connection's settings before the transaction changed them.
    before: Option<(Rc<Settings>, Rc<Settings>)>,
    /// Settings, and the number for how texts are read under them.
    reading: RefCell<(Rc<Settings>, u64)>,
}

impl SessionState {
    /// One that begins with the settings of a startup packet.
    pub(crate) fn begin(pairs: &[(String, String)]) -> Self {
        Self::new(Rc::new(startup_settings(pairs)), startup_pins(pairs))
    }

    fn new(startup: Rc<Settings>, lasting: Pins) -> Self {
        Self { settings: startup.clone(), startup, pins: lasting, lasting, ..Self::default() }
    }

    /// Begins with the same settings in another place in memory.
    pub(crate) fn begin_as(&mut self, startup: Rc<Settings>) {
        self.settings = startup.clone();
        self.startup = startup;
    }

    pub(crate) fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Takes account of a statement as it is sent; gives the reasons that are new.
    pub(crate) fn sending(&mut self, deeds: &Deeds, in_transaction: bool) -> Pins {
        let Some(effects) = &deeds.effects else {
            return Pins::NONE;
        };
        let mut pins = effects.pins;
        if in_transaction {
            // What it asks for was most likely done earlier in the transaction, on this connection.
            pins.remove(PinReason::Sequence);
        }
        let mut new = pins;
        new.subtract(self.pins);
        self.pins.add(pins);
        // Even if this release succeeds later, the new pin stays.
        self.released.subtract(pins);
        new
    }

    /// Takes account of a statement's success on a connection with the settings `applied`.
    pub(crate) fn succeeded(&mut self, deeds: &Deeds, applied: &mut Rc<Settings>) -> StatementsGone {
        match deeds.transaction {
            Some(Transaction::Commit { .. } | Transaction::PrepareTransaction) => self.committed(),
            Some(Transaction::Rollback { .. }) => self.rolled_back(applied),
            Some(Transaction::RollbackTo) if self.before.is_some() => {
                // Which of the changes it undid depends on where the savepoint was.
                self.pins.insert(PinReason::HiddenSet);
            }
            _ => {}
        }
        let Some(effects) = deeds.effects.clone() else {
            return StatementsGone::None;
        };
        let mut gone = StatementsGone::None;
        for change in &effects.changes {
            if self.change(change, applied) == StatementsGone::All {
                gone = StatementsGone::All;
            }
        }
        let mut released = effects.unpins;
        released.subtract(effects.pins);
        self.released.add(released);
        gone
    }

    fn change(&mut self, change: &Change<'static>, applied: &mut Rc<Settings>) -> StatementsGone {
        match change {
            Change::Set { parameter, text } => self.set(parameter, Some(text), applied),
            Change::Reset { parameter, .. } => self.set(parameter, None, applied),
            Change::ResetAll => {
                self.remember(applied);
                let keep = |settings: &Settings| {
                    let kept = settings.iter().filter(|(name, _)| IDENTITY.contains(&name.as_str()));
                    kept.map(|(name, text)| (name.clone(), text.clone())).collect::<Settings>()
                };
                let mut settings = Settings::clone(&self.startup);
                settings.extend(keep(&self.settings));
                self.settings =
                    if settings == *self.startup { self.startup.clone() } else { settings.into() };
                *applied = keep(applied).into();
            }
            Change::DiscardAll => {
                self.settings = self.startup.clone();
                *applied = Rc::default();
                self.before = None;
                self.listens.clear();
                self.prepared.clear();
                self.cursors.clear();
                self.released.add(Pins::DISCARDED);
                return StatementsGone::All;
            }
            Change::DeallocateAll => {
                self.prepared.clear();
                self.released.add(Pins::of(PinReason::PreparedStatement));
                return StatementsGone::All;
            }
            Change::Listen(name) => self.note(name, |state| &mut state.listens),
            Change::Prepare(name) => self.note(name, |state| &mut state.prepared),
            Change::HoldCursor(name) => self.note(name, |state| &mut state.cursors),
            Change::UnlistenAll => self.listens.clear(),
            Change::CloseAll => self.cursors.clear(),
            Change::Unlisten(name) => {
                if self.listens.remove(name.as_ref()) && self.listens.is_empty() {
                    self.released.insert(PinReason::Listen);
                }
            }
            Change::Deallocate(name) => {
                if self.prepared.remove(name.as_ref()) && self.prepared.is_empty() {
                    self.released.insert(PinReason::PreparedStatement);
                }
            }
            Change::CloseCursor(name) => {
                if self.cursors.remove(name.as_ref()) && self.cursors.is_empty() {
                    self.released.insert(PinReason::HoldCursor);
                }
            }
            Change::DiscardTemp | Change::DiscardPlans | Change::DiscardSequences | Change::UnlockAll => {}
        }
        StatementsGone::None
    }

    /// Notes a name, by which the client may end its pin. With too many, it stays pinned until it discards all.
    fn note(&mut self, name: &str, set: impl FnOnce(&mut Self) -> &mut BTreeSet<String>) {
        let sets = [&self.listens, &self.prepared, &self.cursors];
        let bytes: usize = sets.into_iter().flatten().map(|known| known.len() + NAME_BYTES).sum();
        if bytes + name.len() > NAMES_BYTES_MAX {
            self.pins.insert(PinReason::HiddenSet);
        } else {
            set(self).insert(name.to_owned());
        }
    }

    fn remember(&mut self, applied: &Rc<Settings>) {
        if self.before.is_none() {
            self.before = Some((self.settings.clone(), applied.clone()));
        }
    }

    fn set(&mut self, parameter: &str, text: Option<&str>, applied: &mut Rc<Settings>) {
        let before = self.settings.get(parameter).filter(|_| parameter != CUMULATIVE);
        let bytes = bytes_of(&self.settings) - before.map_or(0, |before| parameter.len() + before.len());
        if text.is_some_and(|text| bytes + parameter.len() + text.len() > SETTINGS_BYTES_MAX) {
            // Too much to be kept: so the client keeps the connection, where it is set.
            self.pins.insert(PinReason::HiddenSet);
            return;
        }
        self.remember(applied);
        let text: Option<Rc<str>> = text.map(Into::into);
        let mine = text.clone().or_else(|| self.startup.get(parameter).cloned());
        for (settings, text) in [(&mut self.settings, mine), (applied, text)] {
            let settings = Rc::make_mut(settings);
            if parameter == IDENTITY[0] {
                settings.remove(IDENTITY[1]);
            }
            match text {
                Some(text) if parameter == CUMULATIVE => {
                    let before = settings.get(parameter);
                    let together = before.map_or_else(|| text.clone(), |before| added(before, &text));
                    settings.insert(parameter.to_owned(), together);
                }
                Some(text) => drop(settings.insert(parameter.to_owned(), text)),
                None => drop(settings.remove(parameter)),
            }
        }
    }

    fn committed(&mut self) {
        self.before = None;
        self.pins.subtract(self.released);
        self.pins.add(self.lasting);
        self.released = Pins::NONE;
    }

    fn rolled_back(&mut self, applied: &mut Rc<Settings>) {
        self.released = Pins::NONE;
        if let Some((mine, theirs)) = self.before.take() {
            self.settings = mine;
            *applied = theirs;
        }
    }

    /// Takes account of a transaction's end; `failed` when something in it failed since its last COMMIT or ROLLBACK.
    pub(crate) fn transaction_over(&mut self, failed: bool, applied: &mut Rc<Settings>) {
        if failed { self.rolled_back(applied) } else { self.committed() }
    }

    /// A number for the settings by which a server reads a statement's text: the same text under other ones may be
    /// another statement.
    pub(crate) fn reading(&self) -> u64 {
        let mut known = self.reading.borrow_mut();
        if !Rc::ptr_eq(&known.0, &self.settings) {
            *known = (self.settings.clone(), reading_of(&self.settings));
        }
        known.1
    }

    /// Whether it has statements made by SQL.
    pub(crate) fn has_sql_statements(&self) -> bool {
        self.pins.contains(PinReason::PreparedStatement)
    }
}

#[cfg(test)]
mod tests;
