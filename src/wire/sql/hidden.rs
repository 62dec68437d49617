//! What a DO block does, as far as its text tells.
//!
//! The body is a string in some language, usually PL/pgSQL, and may hold strings that it executes. Each string is read
//! as SQL in turn. What is put together at run time is not seen, except that its parts mostly begin with the verb.

use super::effects::{PinReason, Pins};
use super::scan::{Token, TokenKind};
use super::statement::Cursor;
use super::watch;
use std::borrow::Cow;

/// Strings in strings are followed this far; what lies deeper pins.
const DEPTH_MAX: usize = 6;

/// Adds the pins for what the block's strings say.
pub(super) fn look(text: &str, pins: &mut Pins) {
    text_at(text, 0, pins);
}

fn text_at(text: &str, depth: usize, pins: &mut Pins) {
    watch::look(text, pins);
    let mut cursor = Cursor::new(text);
    let mut begins = true;
    while let Some(token) = cursor.next() {
        if begins && token.kind == TokenKind::Word {
            verb(token, &mut cursor, pins);
        }
        begins = begins_statement(token);
        if !token.is_string() && token.kind != TokenKind::QuotedName {
            continue;
        }
        match content(token) {
            Some(inner) if depth < DEPTH_MAX => text_at(&inner, depth + 1, pins),
            _ => pins.insert(PinReason::HiddenSet),
        }
    }
}

/// After these a PL/pgSQL statement may begin.
fn begins_statement(token: Token<'_>) -> bool {
    token.is_symbol(";")
        || token.is_symbol(">>")
        || ["BEGIN", "THEN", "ELSE", "LOOP"].iter().any(|keyword| token.is(keyword))
}

fn verb(token: Token<'_>, cursor: &mut Cursor<'_>, pins: &mut Pins) {
    if token.is("SET") {
        let harmless = cursor
            .peek()
            .is_some_and(|next| ["LOCAL", "TRANSACTION", "CONSTRAINTS"].iter().any(|word| next.is(word)));
        if !harmless {
            pins.insert(PinReason::HiddenSet);
        }
    } else if ["RESET", "DEALLOCATE", "DISCARD"].iter().any(|verb| token.is(verb)) {
        pins.insert(PinReason::HiddenSet);
    } else if token.is("LISTEN") {
        pins.insert(PinReason::Listen);
    } else if token.is("LOAD") {
        pins.insert(PinReason::Load);
    } else if token.is("PREPARE") {
        pins.insert(PinReason::PreparedStatement);
    }
}

/// The text that a string stands for; none when it holds escapes or is made of several parts.
pub(super) fn content(token: Token<'_>) -> Option<Cow<'_, str>> {
    let text = token.text;
    match token.kind {
        TokenKind::DollarString => {
            let delimiter = text.get(1..)?.find('$')? + 2;
            Some(Cow::Borrowed(text.get(delimiter..text.len().checked_sub(delimiter)?).unwrap_or_default()))
        }
        TokenKind::QuotedName => Some(Cow::Borrowed(token.bare())),
        _ => {
            let escapes = matches!(token.kind, TokenKind::EscapeString | TokenKind::UnicodeString);
            let open = text.find('\'')? + 1;
            let inner = text.get(open..)?;
            let inner = inner.strip_suffix('\'').unwrap_or(inner);
            let parts = inner.replace("''", "").contains('\'');
            if parts || (escapes && inner.contains('\\')) {
                return None;
            }
            Some(if inner.contains('\'') {
                Cow::Owned(inner.replace("''", "'"))
            } else {
                Cow::Borrowed(inner)
            })
        }
    }
}
