//! SET and RESET: which parameter, for how long, and how to say it again.
//!
//! The forms are those of `set_rest` and `VariableResetStmt` in `gram.y` (version 18). A form that is not among them is
//! one the server refuses, or one that a later version has added: it pins.

use super::effects::{Change, Effects, PinReason};
use super::scan::Token;
use super::statement::Cursor;
use std::borrow::Cow;

const TEMPORARY_SCHEMA: &str = "pg_temp";

/// Reads what follows SET.
pub(super) fn set<'a>(text: &'a str, cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    if mentions_temporary_schema(text) {
        effects.pins.insert(PinReason::TemporarySchema);
    }
    let local = cursor.take("LOCAL");
    let mut session = !local && cursor.take("SESSION");
    if session && cursor.peek().is_some_and(|t| t.is_symbol(".") || t.is_symbol("=") || t.is("TO")) {
        // Not the noise word but a parameter of that name, which the server refuses today.
        effects.pins.insert(PinReason::HiddenSet);
        return;
    }
    if cursor.take("SESSION") {
        session = true;
    }
    if cursor.take("CONSTRAINTS") || cursor.take("TRANSACTION") {
        return;
    }
    if session && cursor.take("CHARACTERISTICS") {
        if !local && characteristics(cursor, effects).is_none() {
            effects.pins.insert(PinReason::HiddenSet);
        }
        return;
    }
    let Some((parameter, value)) = parameter(cursor) else {
        if !local {
            effects.pins.insert(PinReason::HiddenSet);
        }
        return;
    };
    if parameter == "standard_conforming_strings" && !is_on_or_default(value) {
        effects.pins.insert(PinReason::StringSyntax);
    }
    if parameter == "seed" {
        effects.pins.insert(PinReason::SessionFunction);
    }
    if local || is_of_transaction(&parameter) {
        return;
    }
    let default = match value {
        Some(value) => value.is("DEFAULT") || (parameter == "timezone" && value.is("LOCAL")),
        None => parameter == "client_encoding",
    };
    let text = Cow::Borrowed(text);
    effects.changes.push(if default { Change::Reset { parameter, text } } else { Change::Set { parameter, text } });
}

/// Reads what follows RESET.
pub(super) fn reset<'a>(text: &'a str, cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    let parameter = if cursor.take("ALL") {
        effects.changes.push(Change::ResetAll);
        return;
    } else if cursor.take("TRANSACTION") {
        return;
    } else if cursor.take("TIME") {
        Some(Cow::Borrowed("timezone"))
    } else if cursor.take("SESSION") {
        Some(Cow::Borrowed("session_authorization"))
    } else {
        qualified_name(cursor)
    };
    match parameter {
        Some(parameter) if is_of_transaction(&parameter) => {}
        Some(parameter) => effects.changes.push(Change::Reset { parameter, text: Cow::Borrowed(text) }),
        None => effects.pins.insert(PinReason::HiddenSet),
    }
}

/// The parameter's canonical name and the first token of its value.
fn parameter<'a>(cursor: &mut Cursor<'a>) -> Option<(Cow<'a, str>, Option<Token<'a>>)> {
    let special = special_form(&mut cursor.clone());
    if let Some((name, words)) = special {
        for _ in 0..words {
            cursor.next();
        }
        return Some((Cow::Borrowed(name), cursor.next()));
    }
    let name = qualified_name(cursor)?;
    if cursor.take("TO") || cursor.take_symbol("=") {
        return Some((name, Some(cursor.next()?)));
    }
    None
}

/// The forms without TO or `=`: the parameter's name, and how many words stand for it. `AUTHORIZATION` follows a
/// SESSION that was taken already.
fn special_form(cursor: &mut Cursor<'_>) -> Option<(&'static str, usize)> {
    let first = cursor.next()?;
    let assigned = cursor.peek().is_some_and(|t| t.is_symbol("=") || t.is_symbol(".") || t.is("TO"));
    if assigned {
        return None;
    }
    let found = if first.is("TIME") && cursor.take("ZONE") {
        ("timezone", 2)
    } else if first.is("XML") && cursor.take("OPTION") {
        ("xmloption", 2)
    } else if first.is("AUTHORIZATION") {
        ("session_authorization", 1)
    } else if first.is("NAMES") {
        ("client_encoding", 1)
    } else if first.is("ROLE") {
        ("role", 1)
    } else if first.is("SCHEMA") {
        ("search_path", 1)
    } else {
        return None;
    };
    Some(found)
}

/// Parameter names ignore case, even in quotes.
fn qualified_name<'a>(cursor: &mut Cursor<'a>) -> Option<Cow<'a, str>> {
    let mut name = lower(cursor.take_name()?.name());
    while cursor.take_symbol(".") {
        let part = lower(cursor.take_name()?.name());
        name = Cow::Owned(format!("{name}.{part}"));
    }
    Some(name)
}

fn lower(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { Cow::Owned(name.to_ascii_lowercase()) } else { name }
}

/// These belong to the transaction whatever the form of the SET.
fn is_of_transaction(parameter: &str) -> bool {
    matches!(parameter, "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

fn is_on_or_default(value: Option<Token<'_>>) -> bool {
    let text = value.map_or("", |token| token.text).trim_matches('\'');
    ["on", "true", "yes", "1", "default"].iter().any(|on| text.eq_ignore_ascii_case(on))
}

/// A value may be quoted in any way; one with escapes may say anything.
fn mentions_temporary_schema(text: &str) -> bool {
    text.as_bytes().windows(TEMPORARY_SCHEMA.len()).any(|found| found.eq_ignore_ascii_case(TEMPORARY_SCHEMA.as_bytes()))
        || text.contains('\\')
}

/// `AS TRANSACTION mode [[,] mode …]`: each mode is a parameter of its own, and is said again as such.
fn characteristics<'a>(cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) -> Option<()> {
    if !(cursor.take("AS") && cursor.take("TRANSACTION")) {
        return None;
    }
    while !cursor.at_end() {
        let (parameter, text) = mode(cursor)?;
        effects.changes.push(Change::Set { parameter: Cow::Borrowed(parameter), text: Cow::Borrowed(text) });
        cursor.take_symbol(",");
    }
    Some(())
}

fn mode(cursor: &mut Cursor<'_>) -> Option<(&'static str, &'static str)> {
    if cursor.take("ISOLATION") {
        return if cursor.take("LEVEL") { isolation(cursor) } else { None };
    }
    let mode = if cursor.take("READ") {
        let text = if cursor.take("ONLY") {
            "SET default_transaction_read_only TO on"
        } else if cursor.take("WRITE") {
            "SET default_transaction_read_only TO off"
        } else {
            return None;
        };
        ("default_transaction_read_only", text)
    } else if cursor.take("DEFERRABLE") {
        ("default_transaction_deferrable", "SET default_transaction_deferrable TO on")
    } else if cursor.take("NOT") && cursor.take("DEFERRABLE") {
        ("default_transaction_deferrable", "SET default_transaction_deferrable TO off")
    } else {
        return None;
    };
    Some(mode)
}

fn isolation(cursor: &mut Cursor<'_>) -> Option<(&'static str, &'static str)> {
    let text = if cursor.take("SERIALIZABLE") {
        "SET default_transaction_isolation TO 'serializable'"
    } else if cursor.take("REPEATABLE") && cursor.take("READ") {
        "SET default_transaction_isolation TO 'repeatable read'"
    } else if cursor.take("READ") {
        if cursor.take("COMMITTED") {
            "SET default_transaction_isolation TO 'read committed'"
        } else if cursor.take("UNCOMMITTED") {
            "SET default_transaction_isolation TO 'read uncommitted'"
        } else {
            return None;
        }
    } else {
        return None;
    };
    Some(("default_transaction_isolation", text))
}
