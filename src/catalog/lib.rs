//! The catalog: the shard map in Postgres, with the control plane's operations, its lease, and the routers' reports.
//!
//! It is an index, not the truth (each server's registry is): losing it stops changes, never traffic. Every query has
//! a name and is timed under it. This package decides nothing; it reads and writes.

mod addresses;
mod api_tokens;
mod audit;
mod connect;
mod draining;
mod error;
mod failovers;
mod feed;
mod health;
mod holds;
mod housekeeping;
#[cfg(test)]
mod hung;
mod idempotency;
mod latency;
mod lease;
mod lifecycle;
mod load;
mod map_checks;
pub mod metrics;
mod migration_runs;
mod move_figures;
mod obstacle;
mod operations;
mod overview;
mod placing;
mod query;
mod recovery;
mod removal;
mod routers;
mod servers;
mod tenants;
pub mod tls;
mod users;
mod uses;

pub use addresses::{AddressState, SeenAddress, ServerAddress};
pub use api_tokens::{ApiToken, Role, TokenHolder};
pub use audit::{Asked, AuditFilter, AuditRecord};
pub use connect::each_host;
pub use draining::{Aside, FailedMove, Leaving, MadeMove, SealedCopy, UnderWay};
pub use error::{Error, Result};
pub use failovers::Pointing;
pub use feed::Feed;
pub use health::{
    Health, HoldHealth, LeaseHealth, MoveState, OperationHealth, RouterHealth, RunHealth, Standby, Trying,
    UnfinishedTenant,
};
pub use holds::HoldAck;
pub use idempotency::{KEY_ALIVE_INTERVAL, Keyed};
pub use latency::{BUCKETS as LATENCY_BUCKETS, Latency, bucket as latency_bucket};
pub use lease::Lease;
pub use lifecycle::Expired;
pub use load::{Load, LoadedRouter, RouterLoad, TenantLoad};
pub use map_checks::MapCheck;
pub use migration_runs::{NewTarget, Outlook, RunProgress, SchemaMark, Target, TargetState, TurnEnd};
pub use move_figures::MoveFigures;
pub use obstacle::Obstacle;
pub use operations::{Kind, Operation, Step};
pub use overview::{Crowd, MoveRecord, PastOperation, RouterView, Serving};
pub use placing::NEIGHBOURS_NAMED_MAX;
pub use query::{Catalog, timings};
pub use recovery::{Opened, Repair, Writing};
pub use removal::{Removal, Removed};
pub use routers::{Copying, InService, Report, Reporter, RouterRow};
pub use servers::{Identity, ServerRow};
pub use tenants::{TenantFilter, TenantRow};
pub use uses::{ServerUse, SizeRow, TenantUse, TenantUses};
