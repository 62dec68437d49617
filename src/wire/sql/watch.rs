//! What leaves state behind wherever it stands in a statement: certain functions, and temporary objects.

use super::effects::{PinReason, Pins};
use super::scan::{Token, TokenKind};
use super::statement::Cursor;

/// Adds the pins for what the tokens name. Strings are not looked into.
pub(super) fn look(text: &str, pins: &mut Pins) {
    let mut cursor = Cursor::new(text);
    let mut before: [Option<Token<'_>>; 2] = [None, None];
    let mut seen = Seen::default();
    while let Some(token) = cursor.next() {
        if token.is_name() {
            name(token, &mut cursor, before, pins);
            seen.name(token, before);
        }
        before = [before[1], Some(token)];
    }
    seen.judge(pins);
}

/// Names that mean something only beside others.
#[derive(Debug, Default)]
struct Seen {
    temporary: usize,
    dropped_at_commit: usize,
    settings: bool,
    update: bool,
    asks_sequence: bool,
    moves_sequence: bool,
}

impl Seen {
    fn name(&mut self, token: Token<'_>, before: [Option<Token<'_>>; 2]) {
        let bare = token.bare();
        let is_any = |names: &[&str]| names.iter().any(|name| bare.eq_ignore_ascii_case(name));
        let earlier_are = |first, second| {
            before[0].is_some_and(|token| token.is(first)) && before[1].is_some_and(|token| token.is(second))
        };
        self.temporary += usize::from(is_any(&["temp", "temporary"]) && makes_object(before));
        self.dropped_at_commit += usize::from(is_any(&["drop"]) && earlier_are("ON", "COMMIT"));
        self.settings |= is_any(&["pg_settings"]);
        self.update |= token.is("UPDATE");
        self.asks_sequence |= is_any(&["currval", "lastval"]);
        self.moves_sequence |= is_any(&["nextval", "setval"]);
    }

    fn judge(&self, pins: &mut Pins) {
        // Those with ON COMMIT DROP end with the transaction that makes them.
        if self.temporary > self.dropped_at_commit {
            pins.insert(PinReason::TemporaryObject);
        }
        // A rule of the view calls set_config.
        if self.settings && self.update {
            pins.insert(PinReason::SetConfig);
        }
        if self.asks_sequence && !self.moves_sequence {
            pins.insert(PinReason::Sequence);
        }
    }
}

fn name(token: Token<'_>, cursor: &mut Cursor<'_>, before: [Option<Token<'_>>; 2], pins: &mut Pins) {
    let bare = token.bare();
    let is_any = |names: &[&str]| names.iter().any(|name| bare.eq_ignore_ascii_case(name));
    if token.kind == TokenKind::UnicodeName
        && (bare.contains('\\') || cursor.peek().is_some_and(|next| next.is("UESCAPE")))
    {
        pins.insert(PinReason::Unreadable);
    }
    if is_any(&ADVISORY_LOCKS) {
        pins.insert(PinReason::AdvisoryLock);
    }
    if is_any(&["set_config"]) && !is_local_set_config(cursor.clone()) {
        pins.insert(PinReason::SetConfig);
    }
    if is_any(&SESSION_FUNCTIONS) {
        pins.insert(PinReason::SessionFunction);
    }
    let schema = bare.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("pg_temp"));
    // As it stands in `CREATE EXTENSION … SCHEMA` and `IMPORT FOREIGN SCHEMA … INTO`.
    let alone = before[1].is_some_and(|last| last.is("SCHEMA") || last.is("INTO"));
    if schema && (alone || cursor.peek().is_some_and(|next| next.is_symbol("."))) {
        pins.insert(PinReason::TemporaryObject);
    }
}

const ADVISORY_LOCKS: [&str; 4] =
    ["pg_advisory_lock", "pg_advisory_lock_shared", "pg_try_advisory_lock", "pg_try_advisory_lock_shared"];

const SESSION_FUNCTIONS: [&str; 9] = [
    "dblink_connect",
    "dblink_connect_u",
    "setseed",
    "set_limit",
    "pg_replication_origin_session_setup",
    "pg_create_logical_replication_slot",
    "pg_create_physical_replication_slot",
    "pg_copy_logical_replication_slot",
    "pg_copy_physical_replication_slot",
];

/// TEMP makes an object after CREATE, OR REPLACE, LOCAL and GLOBAL, and after the INTO of a SELECT.
fn makes_object(before: [Option<Token<'_>>; 2]) -> bool {
    let [earlier, last] = before;
    let earlier_is = |keyword| earlier.is_some_and(|token| token.is(keyword));
    last.is_some_and(|last| {
        let created = ["CREATE", "REPLACE", "LOCAL", "GLOBAL"].iter().any(|keyword| last.is(keyword));
        created || (last.is("INTO") && !earlier_is("INSERT") && !earlier_is("MERGE"))
    })
}

/// A longer call is not read to its end, so that calls within calls cost linear time.
const TOKENS_MAX: usize = 64;

/// What makes even a local setting one that can leave objects behind, or statements be read in another way.
const NEVER_LOCAL: [&str; 3] = ["pg_temp", "standard_conforming_strings", "client_encoding"];

/// Whether the call's third and last argument is the word `true`.
fn is_local_set_config(mut cursor: Cursor<'_>) -> bool {
    let (mut depth, mut commas, mut third, mut says_true) = (0_usize, 0_usize, 0_usize, false);
    for _ in 0..TOKENS_MAX {
        let Some(token) = cursor.next() else {
            return false;
        };
        let lower = token.text.to_ascii_lowercase();
        let never_local = NEVER_LOCAL.iter().any(|text| lower.contains(text));
        if depth == 0 && !token.is_symbol("(") || never_local {
            return false;
        }
        if token.is_symbol("(") || token.is_symbol("[") {
            depth += 1;
        } else if token.is_symbol(")") || token.is_symbol("]") {
            depth -= 1;
            if depth == 0 {
                return commas == 2 && third == 1 && says_true;
            }
        }
        if depth == 1 && token.is_symbol(",") {
            commas += 1;
        } else if commas == 2 {
            third += 1;
            says_true = token.is("TRUE");
        }
    }
    false
}
