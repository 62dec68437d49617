//! SQL text to tokens, as the Postgres lexer cuts it (`src/backend/parser/scan.l`, version 18).
//!
//! The scanner never fails: a string or comment without an end reaches to the end of the text. The server refuses such
//! a text as a whole, so nothing in it takes effect.

use std::borrow::Cow;

/// Identifiers are cut to this many bytes by the server (`NAMEDATALEN - 1`).
const NAME_BYTES_MAX: usize = 63;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A keyword or an identifier without quotes.
    Word,
    /// `"name"`.
    QuotedName,
    /// `U&"name"`.
    UnicodeName,
    /// `'text'` or `N'text'`.
    String,
    /// `E'text'`, where a backslash escapes.
    EscapeString,
    /// `U&'text'`.
    UnicodeString,
    /// `$tag$text$tag$`.
    DollarString,
    /// `B'0101'` or `X'1F'`.
    BitString,
    /// A number.
    Number,
    /// `$1`.
    Parameter,
    /// A run of operator characters.
    Operator,
    /// One of `, ( ) [ ] . ; :`.
    Punctuation,
    /// A byte that begins nothing Postgres knows.
    Other,
}

/// A token and where it stands; white space and comments are not tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    /// What it is.
    pub kind: TokenKind,
    /// The byte offset of its start.
    pub start: usize,
    /// Its text, with quotes and prefix.
    pub text: &'a str,
}

impl<'a> Token<'a> {
    /// The byte offset after its end.
    #[must_use]
    pub fn end(&self) -> usize {
        self.start + self.text.len()
    }

    /// Whether it is this keyword, in any case and without quotes.
    #[must_use]
    pub fn is(&self, keyword: &str) -> bool {
        self.kind == TokenKind::Word && self.text.eq_ignore_ascii_case(keyword)
    }

    /// Whether it is this punctuation or operator.
    #[must_use]
    pub fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.kind, TokenKind::Punctuation | TokenKind::Operator) && self.text == symbol
    }

    /// Whether it is any kind of string.
    #[must_use]
    pub fn is_string(&self) -> bool {
        use TokenKind::{DollarString, EscapeString, String, UnicodeString};
        matches!(self.kind, String | EscapeString | UnicodeString | DollarString)
    }

    /// Whether it can be a name.
    #[must_use]
    pub fn is_name(&self) -> bool {
        use TokenKind::{QuotedName, UnicodeName, Word};
        matches!(self.kind, Word | QuotedName | UnicodeName)
    }

    /// The identifier's text without its quotes, doubled quotes and escapes left as they are.
    #[must_use]
    pub fn bare(&self) -> &'a str {
        let text = match self.kind {
            TokenKind::QuotedName => self.text.get(1..),
            TokenKind::UnicodeName => self.text.get(3..),
            _ => return self.text,
        };
        let text = text.unwrap_or_default();
        text.strip_suffix('"').unwrap_or(text)
    }

    /// The identifier as the server sees it: folded unless quoted, and cut to 63 bytes. Unicode escapes stay.
    #[must_use]
    pub fn name(&self) -> Cow<'a, str> {
        let bare = self.bare();
        let name = match self.kind {
            TokenKind::Word if bare.bytes().any(|b| b.is_ascii_uppercase()) => {
                Cow::Owned(bare.to_ascii_lowercase())
            }
            TokenKind::QuotedName | TokenKind::UnicodeName if bare.contains("\"\"") => {
                Cow::Owned(bare.replace("\"\"", "\""))
            }
            _ => Cow::Borrowed(bare),
        };
        if name.len() <= NAME_BYTES_MAX {
            return name;
        }
        let end = name.floor_char_boundary(NAME_BYTES_MAX);
        match name {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..end]),
            Cow::Owned(mut text) => {
                text.truncate(end);
                Cow::Owned(text)
            }
        }
    }
}

/// An iterator over the tokens of a text.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    sql: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the text's beginning.
    #[must_use]
    pub fn new(sql: &'a str) -> Self {
        Self { sql, at: 0 }
    }
}

impl<'a> Iterator for Scanner<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        let bytes = self.sql.as_bytes();
        let start = skip_blank(bytes, self.at);
        if start >= bytes.len() {
            self.at = bytes.len();
            return None;
        }
        let (kind, end) = token(bytes, start);
        self.at = end;
        Some(Token { kind, start, text: self.sql.get(start..end).unwrap_or_default() })
    }
}

/// The offset of the first byte from `at` on that is neither white space nor comment.
pub(super) fn skip_blank(sql: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = sql.get(at) {
        at = match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => at + 1,
            b'-' if sql.get(at + 1) == Some(&b'-') => line_end(sql, at),
            b'/' if sql.get(at + 1) == Some(&b'*') => comment_end(sql, at + 2),
            _ => return at,
        };
    }
    at
}

/// The offset after the word that starts at `at`, which is `at` when none does.
pub(super) fn word_end(sql: &[u8], at: usize) -> usize {
    match sql.get(at) {
        Some(&byte) if is_name_start(byte) => {
            at + run(&sql[at..], |b| is_name_start(b) || is_digit(b) || b == b'$')
        }
        _ => at,
    }
}

fn token(sql: &[u8], at: usize) -> (TokenKind, usize) {
    let next = sql.get(at + 1).copied().unwrap_or(0);
    match (sql[at], next) {
        (b'\'', _) => (TokenKind::String, string_end(sql, at + 1, false)),
        (b'"', _) => (TokenKind::QuotedName, name_end(sql, at + 1)),
        (b'e' | b'E', b'\'') => (TokenKind::EscapeString, string_end(sql, at + 2, true)),
        (b'n' | b'N', b'\'') => (TokenKind::String, string_end(sql, at + 2, false)),
        (b'b' | b'B' | b'x' | b'X', b'\'') => (TokenKind::BitString, string_end(sql, at + 2, false)),
        (b'u' | b'U', b'&') if sql.get(at + 2) == Some(&b'\'') => {
            (TokenKind::UnicodeString, string_end(sql, at + 3, false))
        }
        (b'u' | b'U', b'&') if sql.get(at + 2) == Some(&b'"') => {
            (TokenKind::UnicodeName, name_end(sql, at + 3))
        }
        (b'$', _) => dollar(sql, at),
        (b'.', b'0'..=b'9') | (b'0'..=b'9', _) => (TokenKind::Number, number_end(sql, at)),
        (byte, _) if is_name_start(byte) => (TokenKind::Word, word_end(sql, at)),
        (b',' | b'(' | b')' | b'[' | b']' | b'.' | b';' | b':', _) => (TokenKind::Punctuation, at + 1),
        (byte, _) if is_operator(byte) => (TokenKind::Operator, operator_end(sql, at)),
        _ => (TokenKind::Other, at + 1),
    }
}

fn is_name_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn is_operator(byte: u8) -> bool {
    b"~!@#^&|`?+-*/%<>=".contains(&byte)
}

fn run(sql: &[u8], belongs: impl Fn(u8) -> bool) -> usize {
    sql.iter().position(|&b| !belongs(b)).unwrap_or(sql.len())
}

fn line_end(sql: &[u8], at: usize) -> usize {
    at + run(&sql[at..], |b| b != b'\n' && b != b'\r')
}

/// Comments nest in Postgres.
fn comment_end(sql: &[u8], mut at: usize) -> usize {
    let mut depth = 1_usize;
    while at + 1 < sql.len() {
        match (sql[at], sql[at + 1]) {
            (b'*', b'/') => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            (b'/', b'*') => {
                depth += 1;
                at += 2;
            }
            _ => at += 1,
        }
    }
    sql.len()
}

fn string_end(sql: &[u8], mut at: usize, escapes: bool) -> usize {
    while let Some(&byte) = sql.get(at) {
        at += 1;
        if byte == b'\\' && escapes {
            at += 1;
        } else if byte == b'\'' {
            if sql.get(at) == Some(&b'\'') {
                at += 1;
            } else if let Some(resumed) = continued(sql, at) {
                at = resumed;
            } else {
                return at;
            }
        }
    }
    sql.len()
}

/// A string goes on, by the rules of its first part, when only white space with a line break separates it from the
/// next quote; the offset after that quote.
fn continued(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut line_break = false;
    loop {
        match *sql.get(at)? {
            b'\n' | b'\r' => line_break = true,
            b' ' | b'\t' | 0x0b | 0x0c => {}
            b'-' if sql.get(at + 1) == Some(&b'-') => {
                at = line_end(sql, at);
                continue;
            }
            b'\'' if line_break => return Some(at + 1),
            _ => return None,
        }
        at += 1;
    }
}

fn name_end(sql: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = sql.get(at) {
        at += 1;
        if byte == b'"' {
            if sql.get(at) != Some(&b'"') {
                return at;
            }
            at += 1;
        }
    }
    sql.len()
}

fn dollar(sql: &[u8], at: usize) -> (TokenKind, usize) {
    let digits = run(&sql[at + 1..], is_digit);
    if digits > 0 {
        return (TokenKind::Parameter, at + 1 + digits);
    }
    let tag = run(&sql[at + 1..], |b| is_name_start(b) || is_digit(b));
    let open = at + 1 + tag;
    if sql.get(open) != Some(&b'$') {
        return (TokenKind::Other, at + 1);
    }
    let delimiter = &sql[at..=open];
    let mut from = open + 1;
    while let Some(offset) = sql[from..].iter().position(|&b| b == b'$') {
        from += offset;
        if sql[from..].starts_with(delimiter) {
            return (TokenKind::DollarString, from + delimiter.len());
        }
        from += 1;
    }
    (TokenKind::DollarString, sql.len())
}

fn number_end(sql: &[u8], at: usize) -> usize {
    if sql[at] == b'0' && matches!(sql.get(at + 1), Some(b'x' | b'X' | b'o' | b'O' | b'b' | b'B')) {
        let digits = run(&sql[at + 2..], |b| b.is_ascii_hexdigit() || b == b'_');
        return if digits > 0 { at + 2 + digits } else { at + 1 };
    }
    let digits = |from: usize| from + run(&sql[from..], |b| is_digit(b) || b == b'_');
    let mut end = digits(at);
    if sql.get(end) == Some(&b'.') && sql.get(end + 1) != Some(&b'.') {
        end = digits(end + 1);
    }
    if matches!(sql.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(sql.get(end + 1), Some(b'+' | b'-')));
        if sql.get(end + 1 + sign).copied().is_some_and(is_digit) {
            end = digits(end + 1 + sign);
        }
    }
    end
}

/// An operator ends where a comment begins.
fn operator_end(sql: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while let Some(&byte) = sql.get(end) {
        let comment = matches!((byte, sql.get(end + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*')));
        if comment || !is_operator(byte) {
            break;
        }
        end += 1;
    }
    end
}
