//! The effects of one statement, told by its first words.

use super::classify::{KEYWORD_BYTES_MAX, fold};
use super::effects::{Change, Effects, PinReason, Pins, Transaction};
use super::scan::{Scanner, Token};
use super::{danger, hidden, set, set_config, watch};
use std::iter::Peekable;

/// The tokens of a statement, with a look ahead.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    tokens: Peekable<Scanner<'a>>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { tokens: Scanner::new(text).peekable() }
    }

    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        self.tokens.next()
    }

    pub(super) fn peek(&mut self) -> Option<Token<'a>> {
        self.tokens.peek().copied()
    }

    /// Takes the next token if it is this keyword.
    pub(super) fn take(&mut self, keyword: &str) -> bool {
        self.tokens.next_if(|token| token.is(keyword)).is_some()
    }

    /// Takes the next token if it is this keyword and not the beginning of a parameter's name being assigned: most
    /// keywords may also be names, as in `SET local.user = 1`.
    pub(super) fn take_form(&mut self, keyword: &str) -> bool {
        let mut ahead = self.clone();
        let assigns = |token: Token<'_>| token.is_symbol(".") || token.is_symbol("=") || token.is("TO");
        if !ahead.take(keyword) || ahead.peek().is_some_and(assigns) {
            return false;
        }
        *self = ahead;
        true
    }

    /// Takes the next token if it is this symbol.
    pub(super) fn take_symbol(&mut self, symbol: &str) -> bool {
        self.tokens.next_if(|token| token.is_symbol(symbol)).is_some()
    }

    /// Takes the next token if it is a name.
    pub(super) fn take_name(&mut self) -> Option<Token<'a>> {
        self.tokens.next_if(Token::is_name)
    }

    pub(super) fn at_end(&mut self) -> bool {
        self.peek().is_none()
    }
}

/// The effects of one statement, given without its semicolon.
pub(super) fn effects(text: &str) -> Effects<'_> {
    let mut effects = Effects::one();
    let mut cursor = Cursor::new(text);
    let Some(verb) = cursor.next() else {
        return Effects::default();
    };
    let mut buffer = [0; KEYWORD_BYTES_MAX];
    match fold(verb.text.as_bytes(), &mut buffer) {
        b"set" => set::set(text, &mut cursor, &mut effects),
        b"reset" => set::reset(text, &mut cursor, &mut effects),
        b"discard" => discard(&mut cursor, &mut effects),
        b"listen" => listen(&mut cursor, &mut effects),
        b"unlisten" => unlisten(&mut cursor, &mut effects),
        b"prepare" => prepare(&mut cursor, &mut effects),
        b"deallocate" => deallocate(&mut cursor, &mut effects),
        b"declare" => declare(&mut cursor, &mut effects),
        b"close" => close(&mut cursor, &mut effects),
        b"load" => effects.pins.insert(PinReason::Load),
        b"alter" | b"drop" => {
            effects.alters_schema = true;
            effects.alters_role = alters_role(&verb, &mut cursor);
        }
        // What is temporary is so often made that other statements would hardly ever keep their plans.
        b"create" => effects.alters_schema = !(cursor.take("TEMP") || cursor.take("TEMPORARY")),
        b"do" => hidden::look(text, &mut effects.pins),
        // Nothing but such calls: there is nothing to look for beside them.
        b"select" if set_config::select(cursor.clone(), &mut effects) => return effects,
        b"select" => unlock_all(&mut cursor, &mut effects),
        keyword => effects.transaction = transaction(keyword, &mut cursor),
    }
    if danger::is_suspect(text.as_bytes(), 0) {
        watch::look(text, &mut effects.pins);
    }
    effects
}

/// `ALTER ROLE`, `ALTER USER` (but not that of a mapping), and `DROP OWNED`, which also takes what a role was granted.
fn alters_role(verb: &Token<'_>, cursor: &mut Cursor<'_>) -> bool {
    if verb.is("DROP") {
        return cursor.take("OWNED");
    }
    cursor.take("ROLE") || (cursor.take("USER") && !(cursor.take("MAPPING") && cursor.take("FOR")))
}

fn transaction(keyword: &[u8], cursor: &mut Cursor<'_>) -> Option<Transaction> {
    match keyword {
        b"begin" | b"start" => Some(Transaction::Begin),
        b"savepoint" => Some(Transaction::Savepoint),
        b"release" => Some(Transaction::Release),
        b"commit" if cursor.take("PREPARED") => Some(Transaction::CommitPrepared),
        b"commit" | b"end" => Some(Transaction::Commit { chain: chain(cursor) }),
        b"rollback" if cursor.take("PREPARED") => Some(Transaction::RollbackPrepared),
        b"rollback" | b"abort" => {
            let chain = chain(cursor);
            Some(if cursor.take("TO") { Transaction::RollbackTo } else { Transaction::Rollback { chain } })
        }
        _ => None,
    }
}

/// `[WORK | TRANSACTION] [AND [NO] CHAIN]`.
fn chain(cursor: &mut Cursor<'_>) -> bool {
    let _ = cursor.take("WORK") || cursor.take("TRANSACTION");
    cursor.take("AND") && cursor.take("CHAIN")
}

fn discard(cursor: &mut Cursor<'_>, effects: &mut Effects<'_>) {
    if cursor.take("ALL") {
        effects.changes.push(Change::DiscardAll);
        effects.unpins = Pins::DISCARDED;
    } else if cursor.take("TEMP") || cursor.take("TEMPORARY") {
        effects.changes.push(Change::DiscardTemp);
        effects.unpins = Pins::of(PinReason::TemporaryObject);
    } else if cursor.take("PLANS") {
        effects.changes.push(Change::DiscardPlans);
    } else if cursor.take("SEQUENCES") {
        effects.changes.push(Change::DiscardSequences);
        effects.unpins = Pins::of(PinReason::Sequence);
    }
}

fn listen<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    effects.pins.insert(PinReason::Listen);
    if let Some(channel) = cursor.take_name() {
        effects.changes.push(Change::Listen(channel.name()));
    }
}

fn unlisten<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    if cursor.take_symbol("*") {
        effects.changes.push(Change::UnlistenAll);
        effects.unpins = Pins::of(PinReason::Listen);
    } else if let Some(channel) = cursor.take_name() {
        effects.changes.push(Change::Unlisten(channel.name()));
    }
}

/// A statement may itself be named `transaction`; the two-phase command is followed by a string.
fn prepare<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    let Some(name) = cursor.take_name() else {
        effects.pins.insert(PinReason::PreparedStatement);
        return;
    };
    if name.is("TRANSACTION") && cursor.peek().is_some_and(|id| id.is_string()) {
        effects.transaction = Some(Transaction::PrepareTransaction);
        return;
    }
    effects.pins.insert(PinReason::PreparedStatement);
    effects.changes.push(Change::Prepare(name.name()));
}

fn deallocate<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    let Some(mut name) = cursor.take_name() else {
        return;
    };
    if name.is("PREPARE") {
        name = cursor.take_name().unwrap_or(name);
    }
    if name.is("ALL") {
        effects.changes.push(Change::DeallocateAll);
        effects.unpins = Pins::of(PinReason::PreparedStatement);
    } else {
        effects.changes.push(Change::Deallocate(name.name()));
    }
}

fn declare<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    let name = cursor.take_name();
    while let Some(token) = cursor.next() {
        if token.is("FOR") {
            return;
        }
        if token.is("WITH") && cursor.take("HOLD") {
            effects.pins.insert(PinReason::HoldCursor);
            effects.changes.extend(name.map(|name| Change::HoldCursor(name.name())));
            return;
        }
    }
}

fn close<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    if cursor.take("ALL") {
        effects.changes.push(Change::CloseAll);
        effects.unpins = Pins::of(PinReason::HoldCursor);
    } else if let Some(name) = cursor.take_name() {
        effects.changes.push(Change::CloseCursor(name.name()));
    }
}

/// Only `SELECT pg_advisory_unlock_all()` and nothing else: with a WHERE or FROM it may never be called.
fn unlock_all(cursor: &mut Cursor<'_>, effects: &mut Effects<'_>) {
    if cursor.take("pg_catalog") && !cursor.take_symbol(".") {
        return;
    }
    let called = cursor.take("pg_advisory_unlock_all") && cursor.take_symbol("(") && cursor.take_symbol(")");
    if called && cursor.at_end() {
        effects.changes.push(Change::UnlockAll);
        effects.unpins = Pins::of(PinReason::AdvisoryLock);
    }
}
