//! Parameters that are more than a value to remember: by what they are, or by what they are set to.

use super::effects::{PinReason, Pins};
use super::hidden::content;
use super::scan::{Token, TokenKind};
use std::borrow::Cow;

/// The pins that come with a parameter, named in lower case, when it is set to this value, as a startup packet and
/// `set_config` take it; with none, to one that can't be read.
#[must_use]
pub fn pins_of_setting(name: &str, value: Option<&str>) -> Pins {
    let (reason, pins) = match name {
        "standard_conforming_strings" => (PinReason::StringSyntax, !value.is_some_and(is_on)),
        "client_encoding" => (PinReason::StringSyntax, !value.is_some_and(is_like_ascii)),
        "search_path" => (PinReason::TemporarySchema, value.is_none_or(names_temporary_schema)),
        "seed" => (PinReason::SessionFunction, true),
        _ => return Pins::NONE,
    };
    if pins { Pins::of(reason) } else { Pins::NONE }
}

/// The value that a token stands for; none when only the server's own lexer can tell.
pub(super) fn plain(token: Token<'_>) -> Option<Cow<'_, str>> {
    match token.kind {
        TokenKind::UnicodeName | TokenKind::UnicodeString => None,
        TokenKind::Word | TokenKind::QuotedName => Some(token.name()),
        _ if token.is_string() => content(token),
        _ => Some(Cow::Borrowed(token.text)),
    }
}

/// Former names that every server still takes (`map_old_guc_names` in `guc.c`); a newer one is left, as older servers do
/// not know what it has become.
pub(super) fn canonical(name: Cow<'_, str>) -> Cow<'_, str> {
    match name.as_ref() {
        "sort_mem" => Cow::Borrowed("work_mem"),
        "vacuum_mem" => Cow::Borrowed("maintenance_work_mem"),
        _ => name,
    }
}

/// These belong to the transaction however they are set.
pub(super) fn is_of_transaction(parameter: &str) -> bool {
    matches!(parameter, "transaction_isolation" | "transaction_read_only" | "transaction_deferrable")
}

fn is_on(value: &str) -> bool {
    ["on", "true", "yes", "1", "default"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

/// Whether each byte below 128 is that character of ASCII. In the encodings that Postgres takes from clients and does not
/// store (`pg_wchar.h`) it may be the second half of another. Names are compared as the server does: letters and digits.
fn is_like_ascii(encoding: &str) -> bool {
    const OTHERS: [&str; 15] = [
        "sjis",
        "mskanji",
        "shiftjis",
        "shiftjis2004",
        "win932",
        "windows932",
        "big5",
        "win950",
        "windows950",
        "gbk",
        "win936",
        "windows936",
        "gb18030",
        "uhc",
        "johab",
    ];
    let name: String = encoding.chars().filter(char::is_ascii_alphanumeric).collect();
    !OTHERS.contains(&name.to_ascii_lowercase().as_str()) && !name.ends_with("949")
}

/// In a path with the temporary schema, any CREATE may make a temporary object.
fn names_temporary_schema(path: &str) -> bool {
    path.to_ascii_lowercase().contains("pg_temp")
}
