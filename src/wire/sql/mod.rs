//! Reading SQL just far enough to know what it does to a session.
//!
//! A router in transaction pooling hands a server connection to another client after each transaction, so it must know
//! which statements leave something behind: a parameter, a lock, a temporary table, a prepared statement. It does not
//! need a parser for that, only the lexer's rules (what is text and what is string) and a look at the first words.
//! [`classify`] is that look; it runs on every query, so the common statements take one pass and no allocation.
//!
//! When in doubt the answer is to pin: a pin too many costs a connection, a pin too few gives one client's state to
//! another. What cannot be seen in the text is not promised: a function that is called may hide anything, and C libraries
//! keep what they like.
//!
//! Strings are read as with `standard_conforming_strings = on`, and in an encoding that is ASCII wherever it looks so. Other
//! settings are not understood; a statement that makes one pins with [`PinReason::StringSyntax`], and nothing short of
//! `DISCARD ALL`, which also undoes it, lifts that. A router should refuse them as startup options.

mod classify;
mod danger;
mod effects;
mod hidden;
mod scan;
mod set;
mod set_config;
mod setting;
mod split;
mod statement;
mod watch;

#[cfg(test)]
mod tests;

pub use classify::{classify, classify_bytes};
pub use effects::{Change, Count, Effects, PinReason, Pins, Transaction};
pub use scan::{Scanner, Token, TokenKind};
pub use setting::pins_of_setting;
pub use split::{Statement, Statements, statements};
