//! What a statement will do to the session when it succeeds, as far as its text tells.

use std::rc::Rc;

use wire::sql::{Change, Count, Effects, PinReason, Pins, Transaction};

use crate::prepared::NAME_PREFIX;

/// Functions of large objects by their OIDs, which are the same in every version (`pg_proc.dat`): clients call these, and
/// hardly anything else, by number.
const LARGE_OBJECT_FUNCTIONS: [u32; 17] =
    [715, 952, 953, 954, 955, 956, 957, 958, 964, 1004, 3170, 3171, 3172, 3457, 3458, 3459, 3460];

/// What one statement, sent to a server, will do when it succeeds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deeds {
    pub(crate) transaction: Option<Transaction>,
    pub(crate) effects: Option<Rc<Effects<'static>>>,
}

impl Deeds {
    pub(crate) fn of(effects: Effects<'_>) -> Self {
        let transaction = effects.transaction;
        let effects = (!effects.keeps_session() || effects.alters_schema || effects.alters_role)
            .then(|| Rc::new(effects.into_owned()));
        Self { transaction, effects }
    }

    /// Of a query string. Several statements without transaction control succeed or fail together, so what they do to
    /// the session is known as soon as the whole is answered, although no single one of them can be replayed alone.
    pub(crate) fn of_query(text: &[u8]) -> Self {
        let whole = wire::sql::classify_bytes(text);
        if whole.statements == Count::Many
            && whole.pins.contains(PinReason::HiddenSet)
            && let Some(together) = std::str::from_utf8(text).ok().and_then(together)
        {
            return Self::of(together);
        }
        Self::of(whole)
    }

    /// Whether it takes effect only when the whole query string is answered.
    pub(crate) fn is_of_many(&self) -> bool {
        self.effects.as_ref().is_some_and(|effects| effects.statements == Count::Many)
    }

    /// Of a text that is too long to be held and read.
    pub(crate) fn unread() -> Self {
        Self::of(Effects { pins: Pins::of(PinReason::Unreadable), ..Effects::default() })
    }

    /// Of a function called by its number. Those of large objects leave nothing behind their transaction; any other may
    /// be one that does.
    pub(crate) fn of_call(function: u32) -> Self {
        if LARGE_OBJECT_FUNCTIONS.contains(&function) {
            return Self::default();
        }
        Self::of(Effects { pins: Pins::of(PinReason::FunctionCall), ..Effects::default() })
    }

    /// Whether it makes or removes a statement of a name that only the router gives.
    pub(crate) fn names_reserved(&self) -> bool {
        let reserved = |change: &Change<'_>| match change {
            Change::Prepare(name) | Change::Deallocate(name) => name.starts_with(NAME_PREFIX),
            _ => false,
        };
        self.effects.as_ref().is_some_and(|effects| effects.changes.iter().any(reserved))
    }

    /// Whether it changes a role, which all users of an access share.
    pub(crate) fn alters_role(&self) -> bool {
        self.effects.as_ref().is_some_and(|effects| effects.alters_role)
    }

    /// Of a query string that is not sent, since it would change a role.
    pub(crate) fn of_role() -> Self {
        Self::of(Effects { alters_role: true, ..Effects::default() })
    }

    /// Whether it is among others, and statements are gone even if one of those fails.
    pub(crate) fn may_deallocate_all(&self) -> bool {
        let all = |effects: &Rc<Effects<'_>>| effects.changes.contains(&Change::DeallocateAll);
        self.is_of_many() && self.effects.as_ref().is_some_and(all)
    }

    pub(crate) fn commits(&self) -> bool {
        matches!(self.transaction, Some(Transaction::Commit { .. } | Transaction::PrepareTransaction))
    }

    pub(crate) fn is_nothing(&self) -> bool {
        self.transaction.is_none() && self.effects.is_none()
    }
}

/// The effects of several statements as those of one, if each is understood by itself.
fn together(text: &str) -> Option<Effects<'static>> {
    let mut all = Effects { statements: Count::Many, ..Effects::default() };
    for statement in wire::sql::statements(text) {
        let one = wire::sql::classify(statement.text);
        if one.transaction.is_some()
            || one.pins.contains(PinReason::HiddenSet)
            || one.statements == Count::Many
        {
            return None;
        }
        all.pins.add(one.pins);
        all.unpins.add(one.unpins);
        all.alters_schema |= one.alters_schema;
        all.alters_role |= one.alters_role;
        all.changes.extend(one.changes.into_iter().map(Change::into_owned));
    }
    Some(all)
}
