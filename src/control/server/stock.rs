//! Prepared databases, as a server's registry has them. Every change carries the controller's term.

use shard_map::{Tenant, TenantId};

use super::Connection;
use crate::error::{Error, Result};

/// One prepared database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// Names its database and roles, as a tenant's id does.
    pub(crate) id: TenantId,
    pub(crate) state: State,
    /// Fingerprint of the migrations that ran in it.
    pub(crate) schema: Option<String>,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Making,
    Ready,
    Dropping,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Ready => "ready",
            Self::Dropping => "dropping",
        }
    }
}

/// What came of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The tenant is open.
    Done,
    /// There is nothing to claim.
    None,
    /// A database or record of the tenant's name is there.
    Taken,
}

/// All on record, oldest first. One whose database is gone, or half dropped, is yet to be made.
pub(crate) async fn list(registry: &Connection) -> Result<Vec<Item>> {
    const SQL: &str = "
        SELECT s.name, CASE WHEN s.state = 'ready' AND d.datname IS NULL THEN 'making' ELSE s.state END, s.schema
        FROM public.stock s
        LEFT JOIN pg_catalog.pg_database d ON d.datname = s.name AND d.datconnlimit <> -2
        ORDER BY s.made_at, s.name";
    let item = |row: &tokio_postgres::Row| {
        let state = match row.get::<_, &str>(1) {
            "ready" => State::Ready,
            "dropping" => State::Dropping,
            _ => State::Making,
        };
        // Nobody can have put another name in but by hand.
        Some(Item { id: TenantId::of_stock(row.get(0))?, state, schema: row.get(2) })
    };
    Ok(registry.rows(SQL, &[]).await?.iter().filter_map(item).collect())
}

/// Puts a new one on record.
pub(crate) async fn add(registry: &Connection, term: i64) -> Result<TenantId> {
    let name: String = registry.value("SELECT public.add_stock($1)", &[&term]).await?;
    TenantId::of_stock(&name)
        .ok_or_else(|| Error::Failed(format!("{name} is no name for a prepared database")))
}

/// Changes one's record. `false`: a tenant has claimed it.
pub(crate) async fn set(
    registry: &Connection,
    term: i64,
    id: &TenantId,
    (state, schema): (State, Option<&str>),
) -> Result<bool> {
    const SQL: &str = "SELECT public.set_stock($1, $2, $3, $4)";
    registry.value(SQL, &[&term, &id.as_str(), &state.as_str(), &schema]).await
}

/// Takes one that was dropped off the record.
pub(crate) async fn remove(registry: &Connection, term: i64, id: &TenantId) -> Result<()> {
    registry.rows("SELECT public.remove_stock($1, $2)", &[&term, &id.as_str()]).await.map(drop)
}

/// Makes one of the stock the tenant's: one transaction, one round trip.
pub(crate) async fn claim(
    registry: &Connection,
    term: i64,
    tenant: &Tenant,
    schema: Option<&str>,
    verifiers: &[String; 3],
) -> Result<Claim> {
    const SQL: &str = "SELECT public.claim_stock($1, $2, $3, $4, $5)";
    let (id, epoch) = (tenant.id.as_str(), tenant.epoch.0);
    let outcome: String = registry.value(SQL, &[&term, &id, &epoch, &schema, &verifiers.as_slice()]).await?;
    Ok(match outcome.as_str() {
        "claimed" => Claim::Done,
        "taken" => Claim::Taken,
        _ => Claim::None,
    })
}
