//! The Postgres protocol, pure: bytes to messages and back, the SCRAM exchange, and what a query string does to a session.
//!
//! Nothing here does I/O or keeps time, so that every prefix of every message can be tried in a test. Lengths and order
//! are checked before anything is believed. What it does not do: decide what to answer (package `router`).

pub mod backend;
pub mod error_fields;
pub mod frame;
pub mod frontend;
pub mod proxy;
pub mod results;
pub mod scram;
pub mod sql;
pub mod startup;

pub use error_fields::{ErrorFields, Severity};
pub use frame::{HEADER_BYTES, Header, WireError, header};
