//! Setting a lost or damaged catalog right: what the three records say, where they differ, and what is to be done.
//!
//! Each server's registry holds the truth about its own tenants; the catalog is an index. Here both are plain values, and
//! so is what follows from them: [`find`] names the differences, [`rebuild`], [`import`] and [`declare`] give the changes
//! of the catalog that end them. Nothing is read or done here: package `catalog` writes changes, package `control`
//! surveys servers.

mod changes;
mod declare;
mod file;
mod findings;
mod import;
mod moves;
mod rebuild;
mod records;
mod view;

pub use changes::{Changes, OperationChange, Step};
pub use declare::declare;
pub use file::{BadMapFile, MapFile};
pub use findings::{Finding, Kind, find};
pub use import::{Refused, import};
pub use rebuild::{Sources, rebuild};
pub use view::{
    CatalogServer, CatalogView, OperationView, Record, RecordState, Registry, Seen, Survey,
    tenant_of_database,
};

#[cfg(test)]
mod tests;
