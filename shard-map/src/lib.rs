//! The shard map: which tenant lives on which server, at which epoch, and the laws by which that may change.
//!
//! This package is pure: it does no I/O, and takes time and randomness as arguments, so that the router and the
//! control plane, which never see each other, can agree on one set of rules that tests can run through completely.
//! What it does not do: talk to Postgres (package `catalog`), move anything (package `control`).

pub mod bytes;
pub mod duration;
pub mod fleet;
pub mod ids;
pub mod keys;
pub mod labels;
pub mod moves;
pub mod placement;
pub mod policy;
pub mod recovery;
pub mod route;
pub mod selector;
pub mod server;
pub mod snapshot;
pub mod tenant;
pub mod trail;
pub mod upgrade;
pub mod user;

pub use ids::{DOOMED_SUFFIX, Epoch, InvalidName, ServerName, TRIAL_SUFFIX, TenantId};
pub use keys::MasterKey;
pub use route::{Refusal, Route};
pub use selector::Selector;
pub use server::{Server, ServerClass, ServerState};
pub use snapshot::{Change, Entry, ShardMap, SnapshotEncoder};
pub use tenant::{Hold, Tenant, TenantState};
pub use trail::{MARKS_MAX, Trail};
pub use user::{Access, PoolMode, User};
