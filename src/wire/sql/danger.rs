//! The cheap look at a query: may it hold anything but plain data access?
//!
//! One pass over the bytes, stopping only at the rarer letters of the words that matter. A hit (which may be inside a
//! string or comment) only means that the text must be tokenised.

use super::scan::skip_blank;

const fn stops() -> [bool; 256] {
    let mut table = [false; 256];
    let anchors = b";&vVmMgGkKdD";
    let mut at = 0;
    while at < anchors.len() {
        table[anchors[at] as usize] = true;
        at += 1;
    }
    table
}

static STOPS: [bool; 256] = stops();

/// Whether the text from `from` on holds a word that can touch the session, a name in Unicode escapes, or a semicolon
/// with more behind it.
pub(super) fn is_suspect(sql: &[u8], from: usize) -> bool {
    let mut at = from;
    while let Some(step) = sql.get(at..).and_then(|rest| rest.iter().position(|b| STOPS[usize::from(*b)])) {
        at += step;
        if sql[at] == b';' {
            // Either something follows, or nothing does: no need to look further, and no time to look again.
            return !ends_at(sql, at + 1);
        }
        if confirm(sql, at) {
            return true;
        }
        at += 1;
    }
    false
}

/// Whether only semicolons, white space and comments follow.
pub(super) fn ends_at(sql: &[u8], mut at: usize) -> bool {
    loop {
        at = skip_blank(sql, at);
        match sql.get(at) {
            None => return true,
            Some(b';') => at += 1,
            Some(_) => return false,
        }
    }
}

/// Whether one of the words stands around the stop at `at`. The byte before it tells most others apart.
fn confirm(sql: &[u8], at: usize) -> bool {
    let Some(before) = at.checked_sub(1).and_then(|before| sql.get(before)) else {
        return false;
    };
    match (before.to_ascii_lowercase(), sql[at].to_ascii_lowercase()) {
        (b'u', b'&') => holds(sql, at, 1, b"u&\""),
        (b'd', b'v') => holds(sql, at, 2, b"advisory"),
        (b'r', b'v') => holds(sql, at, 4, b"currval"),
        (b't', b'v') => holds(sql, at, 4, b"lastval"),
        (b'e', b'm') => holds(sql, at, 2, b"temp"),
        (b'i', b'm') => holds(sql, at, 6, b"set_limit"),
        (b'n', b'k') => holds(sql, at, 5, b"dblink"),
        (b'e', b'd') => holds(sql, at, 6, b"setseed"),
        (b'i', b'g') => holds(sql, at, 9, b"set_config"),
        (b'p', b'g') => {
            holds(sql, at, 1, b"pg_settings")
                || holds(sql, at, 1, b"pg_replication_origin")
                || holds(sql, at, 1, b"pg_create_")
                || holds(sql, at, 1, b"pg_copy_")
        }
        _ => false,
    }
}

/// Whether `word` stands `before` bytes before `at`, in any case.
fn holds(sql: &[u8], at: usize, before: usize, word: &[u8]) -> bool {
    at.checked_sub(before)
        .and_then(|start| sql.get(start..start + word.len()))
        .is_some_and(|found| found.eq_ignore_ascii_case(word))
}
