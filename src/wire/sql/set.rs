//! SET and RESET: which parameter, for how long, and how to say it again.
//!
//! The forms are those of `set_rest` and `VariableResetStmt` in `gram.y` (version 18). A form that is not among them is
//! one the server refuses, or one that a later version has added: it pins.

use super::effects::{Change, Effects, PinReason};
use super::scan::Token;
use super::setting::{canonical, is_of_transaction, pins_of_setting, plain};
use super::statement::Cursor;
use std::borrow::Cow;

/// Reads what follows SET.
pub(super) fn set<'a>(text: &'a str, cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    let local = cursor.take_form("LOCAL");
    let mut session = !local && cursor.take_form("SESSION");
    session |= cursor.take_form("SESSION");
    if cursor.take_form("CONSTRAINTS") || cursor.take_form("TRANSACTION") {
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
    let values = value.into_iter().chain(std::iter::from_fn(|| cursor.next()));
    for value in values.filter(|value| !value.is_symbol(",")) {
        effects.pins.add(pins_of_setting(&parameter, plain(value).as_deref()));
    }
    if local || is_of_transaction(&parameter) {
        return;
    }
    let default = match value {
        Some(value) => value.is("DEFAULT") || (parameter == "timezone" && value.is("LOCAL")),
        None => parameter == "client_encoding",
    };
    let text = Cow::Borrowed(text);
    effects.changes.push(if default {
        Change::Reset { parameter, text }
    } else {
        Change::Set { parameter, text }
    });
}

/// Reads what follows RESET.
pub(super) fn reset<'a>(text: &'a str, cursor: &mut Cursor<'a>, effects: &mut Effects<'a>) {
    let parameter = if cursor.take_form("ALL") {
        effects.changes.push(Change::ResetAll);
        return;
    } else if cursor.take_form("TRANSACTION") {
        return;
    } else if cursor.take_form("TIME") {
        Some(Cow::Borrowed("timezone"))
    } else if cursor.take_form("SESSION") {
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
    if let Some(name) = special_form(cursor) {
        return Some((Cow::Borrowed(name), cursor.next()));
    }
    let name = qualified_name(cursor)?;
    if cursor.take("TO") || cursor.take_symbol("=") {
        return Some((name, Some(cursor.next()?)));
    }
    None
}

/// The parameter's name in the forms without TO or `=`. `AUTHORIZATION` follows a SESSION that was taken already.
fn special_form(cursor: &mut Cursor<'_>) -> Option<&'static str> {
    if cursor.take_form("TIME") {
        return cursor.take("ZONE").then_some("timezone");
    }
    if cursor.take_form("XML") {
        return cursor.take("OPTION").then_some("xmloption");
    }
    let forms = [
        ("AUTHORIZATION", "session_authorization"),
        ("NAMES", "client_encoding"),
        ("ROLE", "role"),
        ("SCHEMA", "search_path"),
    ];
    forms.into_iter().find(|(keyword, _)| cursor.take_form(keyword)).map(|(_, parameter)| parameter)
}

/// Parameter names ignore case, even in quotes.
fn qualified_name<'a>(cursor: &mut Cursor<'a>) -> Option<Cow<'a, str>> {
    let mut name = lower(cursor.take_name()?.name());
    while cursor.take_symbol(".") {
        let part = lower(cursor.take_name()?.name());
        let whole = name.to_mut();
        whole.push('.');
        whole.push_str(&part);
    }
    Some(canonical(name))
}

fn lower(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.bytes().any(|b| b.is_ascii_uppercase()) { Cow::Owned(name.to_ascii_lowercase()) } else { name }
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
