//! What only some changes of a tenant need: a source to clone, another id, the end of a grace time.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::{ServerName, TenantId, TenantState};
use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::operations::{Kind, Operation, insert_operation};
use crate::query::{Catalog, limited};
use crate::tenants::lock_tenant;

/// A deleted tenant whose grace time is over.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Expired {
    /// The tenant.
    pub tenant: TenantId,
    /// Whether whoever deleted it wanted a last dump.
    pub dump: bool,
}

/// Makes sure that a tenant can be cloned now, in the caller's transaction. Returns the server that it is on.
pub(crate) async fn check_source(transaction: &Transaction<'_>, source: &TenantId) -> Result<ServerName> {
    let server = may_be_read(transaction, source).await?;
    const BUSY: &str = "SELECT kind, id FROM operation WHERE tenant = $1 AND state = 'running'";
    match limited("clone_source", transaction.query_opt(BUSY, &[&source.as_str()])).await? {
        Some(row) => Err(at_work(row.get(0), row.get(1), source)),
        None => Ok(server),
    }
}

async fn may_be_read(transaction: &Transaction<'_>, id: &TenantId) -> Result<ServerName> {
    let tenant = lock_tenant(transaction, id).await?;
    match tenant.state {
        TenantState::Open | TenantState::Suspended => Ok(tenant.server),
        state => Err(Error::Conflict(format!("tenant {id} is {}", state.as_str()))),
    }
}

fn at_work(kind: &str, operation: i64, tenant: &TenantId) -> Error {
    Error::Conflict(format!("{kind} {operation} is at work on tenant {tenant}: try again when it has ended"))
}

impl Catalog {
    /// Reserves another id for a tenant, and starts the operation that gives it.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] when the new id is taken, or the tenant is neither open nor suspended, or
    /// something else is at work on it or keeps a copy of it.
    pub async fn start_rename(&self, from: &TenantId, to: &TenantId) -> Result<i64> {
        let mut client = self.client().await?;
        let transaction = limited("rename_start", client.transaction()).await?;
        may_be_read(&transaction, from).await?;
        refuse_if_busy(&transaction, from, to).await?;
        // The first epoch is the map's version, for the reason that it is for any new tenant. Without labels: nobody's
        // selector means it yet.
        const RESERVE: &str = "
            INSERT INTO tenant (id, server, epoch, state, key_version)
            SELECT $2, t.server, v.version + 1, 'creating', t.key_version FROM tenant t, map_version v WHERE t.id = $1
            ON CONFLICT DO NOTHING";
        let reserved =
            limited("rename_start", transaction.execute(RESERVE, &[&from.as_str(), &to.as_str()])).await?;
        if reserved == 0 {
            return Err(Error::Conflict(format!("tenant {to} exists already")));
        }
        let input = json!({ "from": from, "to": to });
        let id = insert_operation(&transaction, Kind::Rename, Some(from), &input).await?;
        limited("rename_start", transaction.commit()).await?;
        client.keep();
        Ok(id)
    }

    /// Gives a tenant its reserved id, in one transaction: its place in the map, users whose selector names it, and the
    /// operations on it so far. Its hold ends. One that has it already is left as it is.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn rename_tenant(&self, from: &TenantId, to: &TenantId, term: i64) -> Result<()> {
        let mut client = self.client().await?;
        let transaction = limited("tenant_rename", client.transaction()).await?;
        let leads = "SELECT FROM lease WHERE term = $1 FOR SHARE";
        if limited("tenant_rename", transaction.query_opt(leads, &[&term])).await?.is_none() {
            return Err(Error::LeaseLost);
        }
        const FIND: &str = "
            SELECT to_jsonb(t) || jsonb_build_object('id', n.id, 'epoch', n.epoch)
            FROM tenant t, tenant n WHERE t.id = $1 AND n.id = $2 AND n.state = 'creating' FOR UPDATE";
        let ids: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&from.as_str(), &to.as_str()];
        let Some(row) = limited("tenant_rename", transaction.query_opt(FIND, &ids)).await? else {
            return Ok(());
        };
        let renamed: Value = row.get(0);
        // A tenant leaves the map by way of `deleted`: a router does not believe that another one is gone.
        for sql in [
            "UPDATE tenant SET state = 'deleted' WHERE id = $1 AND $2::text IS NOT NULL",
            "DELETE FROM tenant WHERE id IN ($1, $2)",
            "DELETE FROM tenant_use WHERE tenant = $2 AND $1::text IS NOT NULL",
            "UPDATE tenant_use SET tenant = $2 WHERE tenant = $1",
            "DELETE FROM hold WHERE tenant = $1 AND $2::text IS NOT NULL",
            "UPDATE router_user
             SET tenants = array_to_string(array_replace(string_to_array(tenants, ','), 'id=' || $1::text, 'id=' || $2::text), ',')
             WHERE 'id=' || $1::text = ANY (string_to_array(tenants, ','))",
        ] {
            limited("tenant_rename", transaction.execute(sql, &ids)).await?;
        }
        // Of an earlier tenant of this id they stay as they are.
        const OPERATIONS: &str = "
            UPDATE operation SET tenant = $2
            WHERE tenant = $1 AND created_at >= (($3::jsonb)->>'created_at')::timestamptz";
        limited("tenant_rename", transaction.execute(OPERATIONS, &[ids[0], ids[1], &renamed])).await?;
        const INSERT: &str = "INSERT INTO tenant SELECT (jsonb_populate_record(NULL::tenant, $1)).*";
        limited("tenant_rename", transaction.execute(INSERT, &[&renamed])).await?;
        limited("tenant_rename", transaction.commit()).await?;
        client.keep();
        Ok(())
    }

    /// Deleted tenants whose grace time is over: one for each server on which none is being dropped.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn expired_tenants(&self, grace: Duration) -> Result<Vec<Expired>> {
        const SQL: &str = "
            SELECT DISTINCT ON (t.server) jsonb_build_object('tenant', t.id, 'dump', coalesce(
                (SELECT o.input->'dump' FROM operation o WHERE o.tenant = t.id AND o.kind = 'delete'
                    AND o.created_at >= t.created_at ORDER BY o.id DESC LIMIT 1), 'false'))
            FROM tenant t
            WHERE t.state = 'deleted' AND t.deleted_at < now() - $1 * interval '1 second'
                -- One that can't be removed for now is tried again, not all the time.
                AND NOT EXISTS (SELECT FROM operation o
                    WHERE o.id = (SELECT max(id) FROM operation WHERE tenant = t.id) AND o.kind = 'delete'
                        AND o.state = 'failed' AND o.updated_at > now() - interval '10 minutes')
                AND NOT EXISTS (SELECT FROM operation o JOIN tenant b ON b.id = o.tenant
                    WHERE o.state = 'running' AND o.kind = 'delete' AND b.server = t.server)
            ORDER BY t.server, t.deleted_at";
        self.json("tenant_expired", SQL, &[&grace.as_secs_f64()]).await
    }

    /// When a deleted tenant's grace time ends (RFC 3339); none for one that is not deleted.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn grace_end(&self, id: &TenantId, grace: Duration) -> Result<Option<String>> {
        const SQL: &str = "
            SELECT to_jsonb(deleted_at + $2 * interval '1 second') FROM tenant
            WHERE id = $1 AND state = 'deleted' AND deleted_at IS NOT NULL";
        let rows = self.json("tenant_grace_end", SQL, &[&id.as_str(), &grace.as_secs_f64()]).await?;
        Ok(rows.into_iter().next())
    }

    /// The last operation on a tenant, if it failed.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn last_failure(&self, id: &TenantId) -> Result<Option<Operation>> {
        const SQL: &str = "
            SELECT to_jsonb(o) FROM operation o JOIN tenant t ON t.id = o.tenant
            WHERE o.id = (SELECT max(id) FROM operation WHERE tenant = $1) AND o.state = 'failed'
                AND o.created_at >= t.created_at";
        Ok(self.json("tenant_last_failure", SQL, &[&id.as_str()]).await?.into_iter().next())
    }
}

/// Refuses another id while something is at work on the tenant under its old one, or on the new one, or has a copy.
async fn refuse_if_busy(transaction: &Transaction<'_>, from: &TenantId, to: &TenantId) -> Result<()> {
    const BUSY: &str = "
        SELECT kind, id, state FROM operation o
        WHERE o.tenant = $1 AND state IN ('running', 'switched') OR o.tenant = $2 AND state = 'running'
            OR state = 'running' AND kind = 'clone' AND input->>'source' = $1
            OR state = 'running' AND kind = 'migrate' AND EXISTS (SELECT FROM migration_target m
                WHERE m.run = o.id AND m.tenant = $1 AND m.state = 'pending')
        ORDER BY id LIMIT 1";
    let ids: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&from.as_str(), &to.as_str()];
    let Some(row) = limited("rename_busy", transaction.query_opt(BUSY, &ids)).await? else { return Ok(()) };
    let (kind, id, state): (&str, i64, &str) = (row.get(0), row.get(1), row.get(2));
    match state {
        "switched" => Err(Error::Conflict(format!(
            "move {id} keeps a sealed copy of tenant {from}: end it first, with tenantry move complete {id}"
        ))),
        _ => Err(at_work(kind, id, from)),
    }
}
