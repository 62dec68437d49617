//! Tenants and their placements in the catalog.

use serde::{Deserialize, Serialize};
use shard_map::{Epoch, Selector, ServerName, Tenant, TenantId, TenantState};
use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::query::{Catalog, Params, limited};

/// A tenant with what only the control plane needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TenantRow {
    /// As the map has it.
    #[serde(flatten)]
    pub tenant: Tenant,
    /// The newest migration that ran in its database.
    pub schema_version: Option<i32>,
}

/// Which tenants are wanted, by id.
#[derive(Debug, Clone, Default)]
pub struct TenantFilter {
    /// On this server.
    pub server: Option<ServerName>,
    /// Of this selector.
    pub selector: Selector,
    /// With this in their id.
    pub contains: Option<String>,
    /// Those after this id.
    pub after: Option<String>,
    /// So many.
    pub limit: usize,
}

/// Tenants that are read at once while some are looked for by their labels.
const BATCH: usize = 5_000;

fn no_such_tenant(id: &TenantId) -> Error {
    Error::NotFound(format!("tenant {id} does not exist"))
}

impl Catalog {
    /// Tenants by id: of one server, of a selector, or all.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn tenants(&self, server: Option<&ServerName>, selector: &Selector) -> Result<Vec<TenantRow>> {
        const SQL: &str =
            "SELECT to_jsonb(t) FROM tenant t WHERE $1::text IS NULL OR server = $1 ORDER BY id";
        let mut rows: Vec<TenantRow> =
            self.json("tenant_list", SQL, &[&server.map(ServerName::as_str)]).await?;
        rows.retain(|row| selector.matches(&row.tenant.id, &row.tenant.labels));
        Ok(rows)
    }

    /// A part of all tenants, by id.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn some_tenants(&self, filter: &TenantFilter) -> Result<Vec<TenantRow>> {
        const SQL: &str = "
            SELECT to_jsonb(t) FROM tenant t
            WHERE ($1::text IS NULL OR server = $1) AND ($2::text IS NULL OR strpos(id, $2) > 0)
                AND ($3::text IS NULL OR id > $3)
            ORDER BY id LIMIT $4";
        let TenantFilter { server, selector, contains, after, limit } = filter;
        let server = server.as_ref().map(ServerName::as_str);
        let batch = if *selector == Selector::default() { *limit } else { BATCH.max(*limit) };
        let batch_max = i64::try_from(batch).unwrap_or(i64::MAX);
        let (mut found, mut after) = (Vec::new(), after.clone());
        loop {
            let params: Params<'_> = &[&server, contains, &after, &batch_max];
            let rows: Vec<TenantRow> = self.json("tenant_page", SQL, params).await?;
            let is_last = rows.len() < batch;
            after = rows.last().map(|row| row.tenant.id.to_string());
            found.extend(rows.into_iter().filter(|row| selector.matches(&row.tenant.id, &row.tenant.labels)));
            if is_last || found.len() >= *limit {
                found.truncate(*limit);
                return Ok(found);
            }
        }
    }

    /// One tenant.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the catalog can't be reached or read.
    pub async fn tenant(&self, id: &TenantId) -> Result<TenantRow> {
        const SQL: &str = "SELECT to_jsonb(t) FROM tenant t WHERE id = $1";
        let rows = self.json("tenant_show", SQL, &[&id.as_str()]).await?;
        rows.into_iter().next().ok_or_else(|| no_such_tenant(id))
    }

    /// Opens a tenant that was made, and ends the operation that made it: one change.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's; [`Error::Ended`].
    pub async fn finish_creation(
        &self,
        id: &TenantId,
        schema_version: Option<i32>,
        operation: i64,
        term: i64,
    ) -> Result<()> {
        const SQL: &str = "
            WITH open AS (
                SELECT FROM lease, operation o
                WHERE lease.term = $4 AND o.id = $3 AND o.state = 'running' FOR UPDATE OF o),
            opened AS (
                UPDATE tenant SET state = 'open', schema_version = $2
                WHERE id = $1 AND state = 'creating' AND EXISTS (SELECT FROM open)),
            closed AS (
                UPDATE operation_step SET ended_at = clock_timestamp(), result = 'done'
                WHERE operation = $3 AND ended_at IS NULL AND EXISTS (SELECT FROM open))
            UPDATE operation SET state = 'done', updated_at = now() WHERE id = $3 AND EXISTS (SELECT FROM open)";
        let params: Params<'_> = &[&id.as_str(), &schema_version, &operation, &term];
        let written = self.execute("tenant_finish_creation", SQL, params).await?;
        self.as_driver(written, operation, term).await
    }

    /// Changes a tenant's state.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's, [`Error::NotFound`].
    pub async fn set_tenant_state(&self, id: &TenantId, state: TenantState, term: i64) -> Result<()> {
        const SQL: &str = "
            WITH leader AS (SELECT FROM lease WHERE term = $3),
            changed AS (
                UPDATE tenant SET state = $2,
                    deleted_at = CASE WHEN $2 = 'deleted' THEN coalesce(deleted_at, now()) END
                WHERE id = $1 AND EXISTS (SELECT FROM leader) RETURNING id)
            SELECT EXISTS (SELECT FROM leader), EXISTS (SELECT FROM changed)";
        let row = self.row("tenant_state", SQL, &[&id.as_str(), &state.as_str(), &term]).await?;
        match row.map(|row| (row.get(0), row.get(1))) {
            Some((true, true)) => Ok(()),
            Some((true, false)) => Err(no_such_tenant(id)),
            _ => Err(Error::LeaseLost),
        }
    }

    /// Places a tenant on a server at a higher epoch and releases its hold: one change of the map.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn place_tenant(
        &self,
        id: &TenantId,
        server: &ServerName,
        epoch: Epoch,
        term: i64,
    ) -> Result<()> {
        const SQL: &str = "
            WITH leader AS (SELECT FROM lease WHERE term = $4),
            released AS (DELETE FROM hold WHERE tenant = $1 AND EXISTS (SELECT FROM leader)),
            placed AS (
                UPDATE tenant SET server = $2, epoch = $3
                WHERE id = $1 AND epoch <= $3 AND EXISTS (SELECT FROM leader))
            SELECT FROM leader";
        let params: Params<'_> = &[&id.as_str(), &server.as_str(), &epoch.0, &term];
        match self.row("tenant_place", SQL, params).await? {
            Some(_) => Ok(()),
            None => Err(Error::LeaseLost),
        }
    }

    /// Records the newest migration of a tenant's database. Without the leader's term it does nothing.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn set_schema_version(&self, id: &TenantId, version: Option<i32>, term: i64) -> Result<()> {
        const SQL: &str = "
            UPDATE tenant SET schema_version = $2 WHERE id = $1 AND schema_version IS DISTINCT FROM $2
                AND EXISTS (SELECT FROM lease WHERE term = $3)";
        self.execute("tenant_schema_version", SQL, &[&id.as_str(), &version, &term]).await.map(drop)
    }

    /// Takes a tenant off the map for good.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn remove_tenant(&self, id: &TenantId, term: i64) -> Result<()> {
        const SQL: &str = "
            WITH leader AS (SELECT FROM lease WHERE term = $2),
            removed AS (DELETE FROM tenant WHERE id = $1 AND EXISTS (SELECT FROM leader))
            SELECT FROM leader";
        match self.row("tenant_remove", SQL, &[&id.as_str(), &term]).await? {
            Some(_) => Ok(()),
            None => Err(Error::LeaseLost),
        }
    }
}

/// Locks a tenant's row in the caller's transaction.
pub(crate) async fn lock_tenant(transaction: &Transaction<'_>, id: &TenantId) -> Result<Tenant> {
    const SQL: &str = "SELECT to_jsonb(t) FROM tenant t WHERE id = $1 FOR UPDATE";
    match limited("tenant_lock", transaction.query_opt(SQL, &[&id.as_str()])).await? {
        Some(row) => crate::query::from_json("tenant_lock", &row),
        None => Err(no_such_tenant(id)),
    }
}
