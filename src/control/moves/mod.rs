//! The online move: one tenant's database to another server while its application keeps working.
//!
//! The law is `shard_map::moves`: which phase may follow which. Here are the deeds, a file for each phase. Every deed
//! looks at what is there before it acts, so that it can be repeated by whoever finds the record; and nothing that
//! decides is kept in memory: the target's registry decides.

mod arm;
mod build;
mod catch_up;
mod compare;
mod complete;
mod copier;
pub(crate) mod copy;
mod cutover;
mod driver;
mod failed_over;
pub(crate) mod fence;
mod force_security;
mod freshen;
mod given_up;
mod guard;
mod held;
mod identity;
mod journal;
mod names;
mod pause;
mod preflight;
pub(crate) mod programs;
mod progress;
mod queue;
mod ranges;
mod receipt;
mod release;
mod schema;
mod seal;
mod shown;
pub(crate) mod start;
pub(crate) mod statistics;
mod stragglers;
mod stream;
mod take_back;
pub(crate) mod throttle;
mod turn_back;
mod turn_round;
mod undo;
mod verify;
mod wal_watch;
mod watchdog;
mod window;
mod window_watch;

pub(crate) use build::refresh_views;
pub(crate) use complete::{close_windows, finish_earlier};
pub(crate) use driver::{Input, Verify, drive, is_due, servers_of, turns_round};
pub(crate) use failed_over::{seal_again, settle as settle_failed_over};
pub(crate) use guard::{GUARD_SQLSTATE, take_down as take_guard_down};
pub(crate) use pause::Pause;
pub(crate) use programs::Programs;
pub(crate) use seal::record_and_rename;
pub(crate) use shown::shown;
pub(crate) use stream::major;
pub(crate) use wal_watch::watch as watch_wal;
pub(crate) use window::Window;
pub(crate) use window_watch::watch;
