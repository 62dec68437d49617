//! What a query string does to the session, as a plain value that the router acts on.
//!
//! The text only says what will happen *if it succeeds*. The router applies [`Effects`] when the server has answered:
//! changes and releases after success and, where Postgres undoes them with the transaction (parameters, LISTEN and
//! UNLISTEN, held cursors, temporary objects), at its commit; pins at once, since some states survive even an error.
//! Changes and releases come first and pins after, so that a pin in the same string stays.

use std::borrow::Cow;

/// Why a client must keep its server connection. A closed set, fit for a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum PinReason {
    /// LISTEN.
    Listen,
    /// A temporary table, view, sequence or function.
    TemporaryObject,
    /// A search path with the temporary schema, where any CREATE may make a temporary object.
    TemporarySchema,
    /// A cursor WITH HOLD.
    HoldCursor,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// A prepared statement made by SQL.
    PreparedStatement,
    /// LOAD of a library.
    Load,
    /// `set_config` that is neither plainly local to the transaction nor all there is in its statement, with its values
    /// in the text; or an update of `pg_settings`, which calls it.
    SetConfig,
    /// A parameter changed (or a statement deallocated) where it can't be replayed: among other statements, in a DO
    /// block, or in a form not understood.
    HiddenSet,
    /// `standard_conforming_strings` turned off, or an encoding in which a backslash may be part of a character: texts
    /// can't be read reliably any more.
    StringSyntax,
    /// A function that leaves something in the backend: a dblink connection, a random seed, a replication origin.
    SessionFunction,
    /// A name written with Unicode escapes, which may be any function.
    Unreadable,
    /// `currval` or `lastval`, whose answer depends on what the session did before.
    Sequence,
    /// A function called by its number, which may be any.
    FunctionCall,
}

impl PinReason {
    /// Every reason.
    pub const ALL: [Self; 14] = [
        Self::Listen,
        Self::TemporaryObject,
        Self::TemporarySchema,
        Self::HoldCursor,
        Self::AdvisoryLock,
        Self::PreparedStatement,
        Self::Load,
        Self::SetConfig,
        Self::HiddenSet,
        Self::StringSyntax,
        Self::SessionFunction,
        Self::Unreadable,
        Self::Sequence,
        Self::FunctionCall,
    ];

    /// The reason as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listen => "listen",
            Self::TemporaryObject => "temporary_object",
            Self::TemporarySchema => "temporary_schema",
            Self::HoldCursor => "hold_cursor",
            Self::AdvisoryLock => "advisory_lock",
            Self::PreparedStatement => "prepared_statement",
            Self::Load => "load",
            Self::SetConfig => "set_config",
            Self::HiddenSet => "hidden_set",
            Self::StringSyntax => "string_syntax",
            Self::SessionFunction => "session_function",
            Self::Unreadable => "unreadable",
            Self::Sequence => "sequence",
            Self::FunctionCall => "function_call",
        }
    }
}

/// A set of pin reasons.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pins(u16);

impl Pins {
    /// No reason.
    pub const NONE: Self = Self(0);

    /// What `DISCARD ALL` undoes: all but libraries, and what functions left in the backend.
    pub const DISCARDED: Self = Self::all()
        .without(PinReason::Load)
        .without(PinReason::SessionFunction)
        .without(PinReason::Unreadable)
        .without(PinReason::FunctionCall);

    const fn all() -> Self {
        Self((1 << PinReason::ALL.len()) - 1)
    }

    const fn without(self, reason: PinReason) -> Self {
        Self(self.0 & !(1 << reason as u8))
    }

    /// The set of one reason.
    #[must_use]
    pub const fn of(reason: PinReason) -> Self {
        Self(1 << reason as u8)
    }

    /// Adds a reason.
    pub fn insert(&mut self, reason: PinReason) {
        self.0 |= Self::of(reason).0;
    }

    /// Takes a reason away.
    pub fn remove(&mut self, reason: PinReason) {
        *self = self.without(reason);
    }

    /// Adds all of another set.
    pub fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes all of another set away.
    pub fn subtract(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Whether the reason is in the set.
    #[must_use]
    pub const fn contains(self, reason: PinReason) -> bool {
        self.0 & Self::of(reason).0 != 0
    }

    /// Whether there is no reason.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The reasons in the set.
    pub fn iter(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.into_iter().filter(move |reason| self.contains(*reason))
    }
}

/// How many statements the string holds; empty ones don't count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Count {
    /// Only white space, comments and semicolons.
    #[default]
    Zero,
    /// One.
    One,
    /// Several: one implicit transaction unless the string controls its own.
    Many,
}

/// A transaction control statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END; with `chain`, a new transaction begins at once.
    Commit {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK, ABORT; with `chain`, a new transaction begins at once.
    Rollback {
        /// AND CHAIN.
        chain: bool,
    },
    /// ROLLBACK TO a savepoint; the transaction goes on.
    RollbackTo,
    /// SAVEPOINT.
    Savepoint,
    /// RELEASE of a savepoint.
    Release,
    /// PREPARE TRANSACTION: ends the transaction.
    PrepareTransaction,
    /// COMMIT PREPARED, of some other transaction.
    CommitPrepared,
    /// ROLLBACK PREPARED, of some other transaction.
    RollbackPrepared,
}

/// A change to the session that the router keeps account of. Names are as the server folds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'a> {
    /// A parameter set for the session. A change of `session_authorization` also puts `role` back to none.
    Set {
        /// Its canonical name, in lower case.
        parameter: Cow<'a, str>,
        /// The statement to replay.
        text: Cow<'a, str>,
    },
    /// A parameter back at its default, by RESET or SET … TO DEFAULT.
    Reset {
        /// Its canonical name, in lower case.
        parameter: Cow<'a, str>,
        /// The statement itself.
        text: Cow<'a, str>,
    },
    /// RESET ALL: every parameter but `role` and `session_authorization`.
    ResetAll,
    /// DISCARD ALL: parameters (those two also), statements, cursors, channels, locks, temporary objects.
    DiscardAll,
    /// DISCARD TEMP.
    DiscardTemp,
    /// DISCARD PLANS.
    DiscardPlans,
    /// DISCARD SEQUENCES.
    DiscardSequences,
    /// LISTEN on a channel.
    Listen(Cow<'a, str>),
    /// UNLISTEN of a channel.
    Unlisten(Cow<'a, str>),
    /// UNLISTEN *.
    UnlistenAll,
    /// PREPARE of a statement.
    Prepare(Cow<'a, str>),
    /// DEALLOCATE of a statement, made by SQL or by the protocol.
    Deallocate(Cow<'a, str>),
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// DECLARE … WITH HOLD.
    HoldCursor(Cow<'a, str>),
    /// CLOSE of a cursor.
    CloseCursor(Cow<'a, str>),
    /// CLOSE ALL.
    CloseAll,
    /// `pg_advisory_unlock_all`.
    UnlockAll,
}

impl Change<'_> {
    /// The same, holding its own text.
    #[must_use]
    pub fn into_owned(self) -> Change<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Set { parameter, text } => Change::Set { parameter: own(parameter), text: own(text) },
            Self::Reset { parameter, text } => Change::Reset { parameter: own(parameter), text: own(text) },
            Self::Listen(name) => Change::Listen(own(name)),
            Self::Unlisten(name) => Change::Unlisten(own(name)),
            Self::Prepare(name) => Change::Prepare(own(name)),
            Self::Deallocate(name) => Change::Deallocate(own(name)),
            Self::HoldCursor(name) => Change::HoldCursor(own(name)),
            Self::CloseCursor(name) => Change::CloseCursor(own(name)),
            Self::ResetAll => Change::ResetAll,
            Self::DiscardAll => Change::DiscardAll,
            Self::DiscardTemp => Change::DiscardTemp,
            Self::DiscardPlans => Change::DiscardPlans,
            Self::DiscardSequences => Change::DiscardSequences,
            Self::UnlistenAll => Change::UnlistenAll,
            Self::DeallocateAll => Change::DeallocateAll,
            Self::CloseAll => Change::CloseAll,
            Self::UnlockAll => Change::UnlockAll,
        }
    }
}

/// What a query string or Parse text does to the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects<'a> {
    /// How many statements there are.
    pub statements: Count,
    /// The transaction control statement; among several statements, the last.
    pub transaction: Option<Transaction>,
    /// What changes, in order. Among several statements only what is added, and what is deallocated: if such a
    /// string fails, how far it came is not known.
    pub changes: Vec<Change<'a>>,
    /// Why the client must keep its connection from here on.
    pub pins: Pins,
    /// Which reasons are gone altogether. Empty among several statements.
    pub unpins: Pins,
    /// Whether it may change what other statements mean: their columns, types, or what a name stands for.
    pub alters_schema: bool,
    /// Whether it changes a role itself: its password, its settings, its name, or all of its rights at once.
    pub alters_role: bool,
}

impl Effects<'_> {
    /// One statement without effects.
    #[must_use]
    pub(super) const fn one() -> Self {
        Self {
            statements: Count::One,
            transaction: None,
            changes: Vec::new(),
            pins: Pins::NONE,
            unpins: Pins::NONE,
            alters_schema: false,
            alters_role: false,
        }
    }

    /// Whether the session stays as it is; a transaction may still begin or end.
    #[must_use]
    pub fn keeps_session(&self) -> bool {
        self.changes.is_empty() && self.pins.is_empty() && self.unpins.is_empty()
    }

    /// The same, holding its own texts.
    #[must_use]
    pub fn into_owned(self) -> Effects<'static> {
        Effects {
            statements: self.statements,
            transaction: self.transaction,
            changes: self.changes.into_iter().map(Change::into_owned).collect(),
            pins: self.pins,
            unpins: self.unpins,
            alters_schema: self.alters_schema,
            alters_role: self.alters_role,
        }
    }

    /// As one statement among several: it can't be replayed alone, and whether it released anything depends on the
    /// others.
    pub(super) fn among_others(&mut self) {
        use Change::{
            Deallocate, DeallocateAll, DiscardAll, HoldCursor, Listen, Prepare, Reset, ResetAll, Set,
        };
        self.unpins = Pins::NONE;
        let pins = &mut self.pins;
        self.changes.retain(|change| {
            if matches!(change, Set { .. } | Reset { .. } | ResetAll | DiscardAll) {
                pins.insert(PinReason::HiddenSet);
            }
            matches!(change, Listen(_) | Prepare(_) | HoldCursor(_) | Deallocate(_) | DeallocateAll)
        });
    }
}
