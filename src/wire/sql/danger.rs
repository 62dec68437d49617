//! The cheap look at a query: may it hold anything but plain data access?
//!
//! Each of the words that matter has two letters beside one another that hardly any other text has. Blocks of bytes are
//! searched for such pairs at once; only a text with one of them is searched byte by byte, stopping at the rarer letters
//! of those words. A hit (which may be inside a string or comment) only means that the text must be tokenised.

use super::scan::skip_blank;

/// Bytes that are compared at once.
const BLOCK: usize = 16;

const fn stops() -> [bool; 256] {
    let mut table = [false; 256];
    let anchors = b"&vVmMgGkKdD";
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
    let end = memchr::memchr(b';', &sql[from..]).map_or(sql.len(), |step| from + step);
    if !ends_at(sql, end) {
        return true;
    }
    // A word may begin where the first one ends, never before.
    has_pair(&sql[from..end]) && has_word(&sql[..end], from)
}

/// Whether one of the pairs is in the text.
fn has_pair(text: &[u8]) -> bool {
    // A block is followed by the first byte of the next one.
    let Some(last) = text.len().checked_sub(BLOCK + 1) else {
        let mut padded = [0; BLOCK + 1];
        padded[..text.len()].copy_from_slice(text);
        return block_has_pair(&padded);
    };
    let mut at = 0;
    while let Some(block) = text[at..].first_chunk() {
        if block_has_pair(block) {
            return true;
        }
        at += BLOCK;
    }
    text[last..].first_chunk().is_none_or(block_has_pair)
}

/// The same for a block. There is no branch, so that its bytes are compared all at once.
fn block_has_pair(block: &[u8; BLOCK + 1]) -> bool {
    let mut any = false;
    for at in 0..BLOCK {
        any |= is_pair(block[at], block[at + 1]);
    }
    any
}

/// Whether two bytes are the pair of `u&"`, `advisory`, `currval`, `lastval`, `temp`, `set_limit`, `dblink`, `setseed`,
/// `set_config`, or of `pg_` with something behind it.
#[inline(always)]
fn is_pair(one: u8, two: u8) -> bool {
    // This makes an underscore a DEL.
    let (one, two) = (one | 0x20, two | 0x20);
    ((one == b'u') & (two == b'&'))
        | ((two == b'v') & ((one == b'd') | (one == b'r') | (one == b't')))
        | ((one == b'm') & (two == b'p'))
        | ((one == 0x7f) & (two == b'l'))
        | ((one == b'd') & (two == b'b'))
        | ((one == b'e') & (two == b'e'))
        | ((one == b'n') & (two == b'f'))
        | ((one == b'g') & (two == 0x7f))
}

/// Whether one of the words is in the text, with a stop from `from` on.
fn has_word(sql: &[u8], from: usize) -> bool {
    let mut at = from;
    while let Some(step) = sql.get(at..).and_then(|rest| rest.iter().position(|b| STOPS[usize::from(*b)])) {
        at += step;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_found_wherever_it_stands() {
        let words = [
            "u&\"",
            "advisory",
            "currval",
            "lastval",
            "temp",
            "set_limit",
            "dblink",
            "setseed",
            "set_config",
            "pg_settings",
            "pg_replication_origin",
            "pg_create_",
            "pg_copy_",
        ];
        for word in words.iter().flat_map(|word| [(*word).to_owned(), word.to_ascii_uppercase()]) {
            for (before, behind) in (0..40).flat_map(|before| (0..20).map(move |behind| (before, behind))) {
                let with = |word: &str| format!("select {}{word}{}", ".".repeat(before), ".".repeat(behind));
                assert!(is_suspect(with(&word).as_bytes(), 6), "{}", with(&word));
                let cut = &word[..word.len() - 1];
                assert!(!is_suspect(with(cut).as_bytes(), 6), "{}", with(cut));
            }
        }
    }

    #[test]
    fn what_stands_behind_a_semicolon_is_suspect() {
        assert!(is_suspect(b"select 1; x", 6));
        assert!(is_suspect(b"select temp; -- x", 6));
        assert!(!is_suspect(b"select 1 ; ; -- temp", 6));
    }
}
