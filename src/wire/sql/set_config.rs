//! `SELECT set_config('name', 'value', false)`: a SET in the form of a query, which some drivers prefer because it takes
//! parameters. Alone in its statement and with its values in the text it is replayed as one.

use super::effects::{Change, Effects};
use super::scan::Token;
use super::setting::{canonical, is_of_transaction, pins_of_setting, plain};
use super::statement::Cursor;
use std::borrow::Cow;

/// Reads what follows SELECT; `false`, and nothing noted, when there is anything but such calls.
pub(super) fn select(mut cursor: Cursor<'_>, effects: &mut Effects<'_>) -> bool {
    let mut calls = Vec::new();
    loop {
        let Some(call) = call(&mut cursor) else { return false };
        calls.push(call);
        if cursor.at_end() {
            break;
        }
        if !cursor.take_symbol(",") {
            return false;
        }
    }
    for call in calls {
        call.note(effects);
    }
    true
}

struct Call<'a> {
    name: Token<'a>,
    value: Token<'a>,
    parameter: String,
    local: bool,
}

/// `[pg_catalog.]set_config('name', 'value', {true|false}) [AS alias]`.
fn call<'a>(cursor: &mut Cursor<'a>) -> Option<Call<'a>> {
    if cursor.take("pg_catalog") && !cursor.take_symbol(".") {
        return None;
    }
    if !(cursor.take("set_config") && cursor.take_symbol("(")) {
        return None;
    }
    let name = cursor.next().filter(Token::is_string)?;
    let parameter = canonical(Cow::Owned(plain(name)?.to_ascii_lowercase())).into_owned();
    let value = cursor.take_symbol(",").then(|| cursor.next()).flatten().filter(Token::is_string)?;
    plain(value)?;
    if !cursor.take_symbol(",") {
        return None;
    }
    let local = cursor.take("true");
    if !((local || cursor.take("false")) && cursor.take_symbol(")")) {
        return None;
    }
    if cursor.take("AS") {
        cursor.take_name()?;
    }
    Some(Call { name, value, parameter, local })
}

impl Call<'_> {
    fn note(self, effects: &mut Effects<'_>) {
        effects.pins.add(pins_of_setting(&self.parameter, plain(self.value).as_deref()));
        if !self.local && !is_of_transaction(&self.parameter) {
            let (name, value) = (self.name.text, self.value.text);
            let text = format!("SELECT pg_catalog.set_config({name}, {value}, false)");
            effects.changes.push(Change::Set { parameter: self.parameter.into(), text: text.into() });
        }
    }
}
