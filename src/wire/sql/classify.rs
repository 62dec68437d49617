//! The entry: the quick answer for the common statements, the careful one for the rest.

use super::danger::{ends_at, is_suspect};
use super::effects::{Change, Count, Effects, PinReason, Transaction};
use super::scan::{skip_blank, word_end};
use super::{split, statement};

/// What a query string or the text of a Parse does to the session. For a Parse, it does so when the statement is
/// executed.
#[must_use]
pub fn classify(sql: &str) -> Effects<'_> {
    quick(sql.as_bytes()).unwrap_or_else(|| careful(sql))
}

/// As [`classify`], for a text in any encoding that a client may use. A SET that is not UTF-8 pins instead of being
/// replayed, since the connection it is replayed on may use another encoding.
#[must_use]
pub fn classify_bytes(sql: &[u8]) -> Effects<'_> {
    if let Some(effects) = quick(sql) {
        return effects;
    }
    if let Ok(sql) = std::str::from_utf8(sql) {
        return careful(sql);
    }
    let mut effects = careful(&String::from_utf8_lossy(sql)).into_owned();
    let pins = &mut effects.pins;
    effects.changes.retain(|change| {
        let set = matches!(change, Change::Set { .. } | Change::Reset { .. });
        if set {
            pins.insert(PinReason::HiddenSet);
        }
        !set
    });
    effects
}

/// The answer for plain data access and bare transaction control, found without tokens or allocation.
fn quick(sql: &[u8]) -> Option<Effects<'static>> {
    let start = skip_blank(sql, 0);
    if sql.get(start) == Some(&b'(') {
        return (!is_suspect(sql, start)).then(Effects::one);
    }
    // By far the most frequent word first.
    let select = start + b"select".len();
    let is_select = sql.get(start..select).is_some_and(|word| word.eq_ignore_ascii_case(b"select"));
    if is_select && sql.get(select).is_some_and(u8::is_ascii_whitespace) {
        return (!is_suspect(sql, select)).then(Effects::one);
    }
    let end = word_end(sql, start);
    let mut buffer = [0; KEYWORD_BYTES_MAX];
    let transaction = match fold(&sql[start..end], &mut buffer) {
        b"select" | b"insert" | b"update" | b"delete" | b"with" | b"values" | b"merge" | b"copy"
        | b"explain" | b"table" | b"show" | b"fetch" | b"move" | b"execute" | b"call" => {
            return (!is_suspect(sql, end)).then(Effects::one);
        }
        b"begin" => Transaction::Begin,
        b"commit" | b"end" => Transaction::Commit { chain: false },
        b"rollback" | b"abort" => Transaction::Rollback { chain: false },
        _ => return ends_at(sql, start).then(Effects::default),
    };
    ends_at(sql, end).then(|| Effects { transaction: Some(transaction), ..Effects::one() })
}

fn careful(sql: &str) -> Effects<'_> {
    let mut all = Effects::default();
    for piece in split::pieces(sql) {
        let mut one = statement::effects(piece.text);
        if all.statements == Count::Zero {
            all = one;
            continue;
        }
        if piece.in_body {
            one.transaction = None;
        } else {
            all.statements = Count::Many;
        }
        all.among_others();
        one.among_others();
        all.transaction = one.transaction.or(all.transaction);
        all.changes.append(&mut one.changes);
        all.pins.add(one.pins);
        all.alters_schema |= one.alters_schema;
        all.alters_role |= one.alters_role;
    }
    all
}

/// No keyword that matters here is longer.
pub(super) const KEYWORD_BYTES_MAX: usize = 12;

/// A keyword in lower case, empty when it is too long to be one.
pub(super) fn fold<'b>(word: &[u8], buffer: &'b mut [u8; KEYWORD_BYTES_MAX]) -> &'b [u8] {
    let Some(target) = buffer.get_mut(..word.len()) else {
        return &[];
    };
    target.copy_from_slice(word);
    target.make_ascii_lowercase();
    target
}
