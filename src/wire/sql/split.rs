//! A query string to its statements.
//!
//! A semicolon ends a statement unless it stands in parentheses (the actions of a rule) or in the `BEGIN ATOMIC` body
//! of a function. Where such a body ends can't be known without a parser (`SELECT 1 case` names a column), so
//! [`classify`](super::classify) looks at the pieces inside as well.

use super::scan::{Scanner, Token};
use std::iter::Peekable;

/// A statement of a query string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// The byte offset of its start.
    pub start: usize,
    /// Its text from first to last token: no comment around it, no semicolon.
    pub text: &'a str,
    /// Whether it is (or seems to be) a piece after the first of a function's body.
    pub(super) in_body: bool,
}

/// An iterator over the statements of a query string; empty ones are left out.
#[derive(Debug, Clone)]
pub struct Statements<'a> {
    sql: &'a str,
    tokens: Peekable<Scanner<'a>>,
    pieces: bool,
    body_depth: usize,
}

/// The statements of a query string; the body of a function belongs to its statement.
#[must_use]
pub fn statements(sql: &str) -> Statements<'_> {
    Statements { sql, tokens: Scanner::new(sql).peekable(), pieces: false, body_depth: 0 }
}

/// As [`statements`], but cut also inside the bodies of functions.
pub(super) fn pieces(sql: &str) -> Statements<'_> {
    Statements { pieces: true, ..statements(sql) }
}

impl<'a> Iterator for Statements<'a> {
    type Item = Statement<'a>;

    fn next(&mut self) -> Option<Statement<'a>> {
        let in_body = self.body_depth > 0;
        let mut range: Option<(usize, usize)> = None;
        let mut routine = Routine::default();
        let mut parentheses = 0_usize;
        while let Some(token) = self.tokens.next() {
            if token.is_symbol(";") && parentheses == 0 && (self.pieces || self.body_depth == 0) {
                if range.is_some() {
                    break;
                }
                continue;
            }
            range = Some((range.map_or(token.start, |(start, _)| start), token.end()));
            if token.is_symbol("(") {
                parentheses += 1;
            } else if token.is_symbol(")") {
                parentheses = parentheses.saturating_sub(1);
            }
            if self.body_depth > 0 {
                if token.is("CASE") || self.opens_body(token) {
                    self.body_depth += 1;
                } else if token.is("END") {
                    self.body_depth -= 1;
                }
            } else if routine.seen(token) && self.opens_body(token) {
                self.body_depth = 1;
            }
        }
        let (start, end) = range?;
        Some(Statement { start, text: self.sql.get(start..end).unwrap_or_default(), in_body })
    }
}

impl<'a> Statements<'a> {
    fn opens_body(&mut self, token: Token<'a>) -> bool {
        token.is("BEGIN") && self.tokens.peek().is_some_and(|next| next.is("ATOMIC"))
    }
}

/// Recognises `CREATE [OR REPLACE] {FUNCTION | PROCEDURE}` at the start of a statement.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Routine {
    #[default]
    Start,
    Create,
    Yes,
    No,
}

impl Routine {
    fn seen(&mut self, token: Token<'_>) -> bool {
        *self = match *self {
            Self::Start if token.is("CREATE") => Self::Create,
            Self::Create if token.is("OR") || token.is("REPLACE") => Self::Create,
            Self::Create if token.is("FUNCTION") || token.is("PROCEDURE") => Self::Yes,
            Self::Yes => Self::Yes,
            _ => Self::No,
        };
        *self == Self::Yes
    }
}
