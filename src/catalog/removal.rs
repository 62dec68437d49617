//! Servers that leave the map: empty ones, and those that are lost with all that was on them.

use shard_map::{ServerName, ServerState, TenantId};
use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::operations::{Kind, Operation};
use crate::query::{Catalog, Params, from_json, limited};

/// Tenants that a refusal names.
const NAMED_MAX: usize = 5;
/// Steps of a move in which only the server itself knows whether it was decided.
const DECIDING: [&str; 2] = ["cutover", "release"];

/// What left the map with a lost server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removed {
    /// Tenants that were placed there.
    pub tenants: Vec<TenantId>,
    /// Copies of them that moves left on other servers, as server and database. Nothing removes them.
    pub kept: Vec<(ServerName, String)>,
}

/// What becomes of an operation whose server is lost.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It ends in this state.
    Ends(&'static str),
    /// It is undone where its tenant is.
    IsUndone,
}

impl Catalog {
    /// Lets a server take new tenants, or no more.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn set_server_state(&self, name: &ServerName, state: ServerState) -> Result<()> {
        const SQL: &str = "UPDATE server SET state = $2 WHERE name = $1";
        match self.execute("server_state", SQL, &[&name.as_str(), &state.as_str()]).await? {
            0 => Err(no_such_server(name)),
            _ => Ok(()),
        }
    }

    /// Takes a server off the map on which nothing is; a lost one with its tenants, and with the operations that can't end
    /// without it. Moves of other tenants to a lost server are first undone: a refusal says so, and to try again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] with what is in the way; [`Error::LeaseLost`] when `term` is not the
    /// leader's.
    pub async fn remove_server(&self, name: &ServerName, lost: bool, term: i64) -> Result<Removed> {
        const QUERY: &str = "server_remove";
        let mut client = self.client().await?;
        let transaction = limited(QUERY, client.transaction()).await?;
        // In the order of placements.
        limited(QUERY, transaction.execute("SELECT FROM map_version FOR UPDATE", &[])).await?;
        let leads = "SELECT FROM lease WHERE term = $1 FOR SHARE";
        if limited(QUERY, transaction.query_opt(leads, &[&term])).await?.is_none() {
            return Err(Error::LeaseLost);
        }
        let there = "SELECT FROM server WHERE name = $1 FOR UPDATE";
        if limited(QUERY, transaction.query_opt(there, &[&name.as_str()])).await?.is_none() {
            return Err(no_such_server(name));
        }
        const TENANTS: &str = "SELECT to_jsonb(id) FROM tenant WHERE server = $1 ORDER BY id FOR UPDATE";
        let rows = limited(QUERY, transaction.query(TENANTS, &[&name.as_str()])).await?;
        let tenants: Vec<TenantId> = rows.iter().map(|row| from_json(QUERY, row)).collect::<Result<_>>()?;
        if !lost && !tenants.is_empty() {
            return Err(Error::Conflict(still_has(name, &tenants)));
        }
        let mut removed = Removed { tenants, kept: Vec::new() };
        let mut undone = None;
        for operation in open_operations(&transaction, name, &removed.tenants).await? {
            if !lost {
                return Err(Error::Conflict(in_the_way(&operation, name)));
            }
            match fate(&operation, name, &removed.tenants).map_err(Error::Conflict)? {
                Fate::Ends(state) => {
                    end(&transaction, (&operation, state), name).await?;
                    removed.kept.extend(copy_elsewhere(&operation, name));
                }
                Fate::IsUndone => {
                    undo_without(&transaction, &operation).await?;
                    undone = Some(operation.id);
                }
            }
        }
        if let Some(id) = undone {
            limited(QUERY, transaction.commit()).await?;
            let what = format!("move {id} to server {name} is being undone now: try again in a moment");
            return Err(Error::Conflict(what));
        }
        forget(&transaction, name).await?;
        limited(QUERY, transaction.commit()).await?;
        Ok(removed)
    }
}

fn no_such_server(name: &ServerName) -> Error {
    Error::NotFound(format!("server {name} does not exist"))
}

fn still_has(name: &ServerName, tenants: &[TenantId]) -> String {
    let mut named: Vec<&str> = tenants.iter().take(NAMED_MAX).map(TenantId::as_str).collect();
    if tenants.len() > named.len() {
        named.push("…");
    }
    format!("server {name} has {} tenants: {}", tenants.len(), named.join(", "))
}

fn in_the_way(operation: &Operation, name: &ServerName) -> String {
    let (kind, id) = (operation.kind.as_str(), operation.id);
    match operation.state.as_str() {
        "switched" => format!(
            "move {id} keeps a sealed copy until its window is over, and server {name} has a part in it: end it with \
             tenantry move complete {id}"
        ),
        _ => format!("{kind} {id} is under way on server {name}: let it end first"),
    }
}

async fn open_operations(
    transaction: &Transaction<'_>,
    name: &ServerName,
    tenants: &[TenantId],
) -> Result<Vec<Operation>> {
    const SQL: &str = "
        SELECT to_jsonb(o) FROM operation o
        WHERE state IN ('running', 'switched') AND kind <> 'migrate'
            AND (tenant = ANY ($2) OR kind = 'move' AND $1 IN (input->>'from', input->>'to'))
        ORDER BY id FOR UPDATE";
    let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
    let rows = limited("server_operations", transaction.query(SQL, &[&name.as_str(), &tenants])).await?;
    rows.iter().map(|row| from_json("server_operations", row)).collect()
}

/// What becomes of an operation when a server is lost.
fn fate(operation: &Operation, lost: &ServerName, tenants: &[TenantId]) -> std::result::Result<Fate, String> {
    let id = operation.id;
    if operation.kind != Kind::Move {
        return Ok(Fate::Ends("failed"));
    }
    let is_lost = |key: &str| operation.input.get(key).and_then(|name| name.as_str()) == Some(lost.as_str());
    let lost_its_tenant = operation.tenant.as_ref().is_some_and(|tenant| tenants.contains(tenant));
    let (switched, deciding) = (operation.state == "switched", DECIDING.contains(&operation.step.as_str()));
    match (is_lost("from"), is_lost("to")) {
        _ if deciding && !switched && (lost_its_tenant || is_lost("to")) => Err(format!(
            "move {id} is in its {}: whether its tenant is on server {lost} is not decided yet (docs/recovery.md)",
            operation.step
        )),
        // Its sealed copy, or all of it that was left to do, was there.
        (true, _) if !lost_its_tenant => Ok(Fate::Ends("completed")),
        (_, true) if !lost_its_tenant && !switched => Ok(Fate::IsUndone),
        // Of a tenant that has moved on: the copy to be dropped is elsewhere.
        _ if !lost_its_tenant => Err(in_the_way(operation, lost)),
        // A sealed copy of an earlier place of the tenant, or what was copied to its next one.
        _ => Ok(Fate::Ends("failed")),
    }
}

/// The copy of a lost tenant that a move has on its other server.
fn copy_elsewhere(operation: &Operation, lost: &ServerName) -> Option<(ServerName, String)> {
    let server = |key: &str| operation.input.get(key)?.as_str()?.parse::<ServerName>().ok();
    let tenant = operation.tenant.as_ref().filter(|_| operation.kind == Kind::Move)?;
    match (server("from")?, server("to")?) {
        (from, _) if operation.state == "switched" && from != *lost => Some((from, tenant.sealed_database())),
        (from, to) if operation.state == "running" && from == *lost => Some((to, tenant.arriving_database())),
        _ => None,
    }
}

async fn end(
    transaction: &Transaction<'_>,
    (operation, state): (&Operation, &str),
    lost: &ServerName,
) -> Result<()> {
    const SQL: &str = "
        WITH closed AS (
            UPDATE operation_step SET ended_at = clock_timestamp(), result = $3
            WHERE operation = $1 AND ended_at IS NULL)
        UPDATE operation SET state = $2, error = $3, updated_at = now() WHERE id = $1";
    let why = format!("server {lost} was lost");
    limited("server_end_operation", transaction.execute(SQL, &[&operation.id, &state, &why])).await.map(drop)
}

async fn undo_without(transaction: &Transaction<'_>, operation: &Operation) -> Result<()> {
    const SQL: &str = "
        UPDATE operation SET abort_requested = true, data = data || '{\"target_lost\": true}', updated_at = now()
        WHERE id = $1";
    limited("server_undo_move", transaction.execute(SQL, &[&operation.id])).await.map(drop)
}

/// A tenant leaves the map by way of `deleted`: a router does not believe that another one is gone.
async fn forget(transaction: &Transaction<'_>, name: &ServerName) -> Result<()> {
    let params: Params<'_> = &[&name.as_str()];
    for sql in [
        "DELETE FROM hold WHERE tenant IN (SELECT id FROM tenant WHERE server = $1)",
        "UPDATE tenant SET state = 'deleted' WHERE server = $1",
        "DELETE FROM tenant WHERE server = $1",
        "DELETE FROM server_use WHERE server = $1",
        "DELETE FROM server WHERE name = $1",
    ] {
        limited("server_forget", transaction.execute(sql, params)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn moved(state: &str, step: &str, (from, to): (&str, &str)) -> Operation {
        Operation {
            id: 7,
            kind: Kind::Move,
            tenant: TenantId::new("acme").ok(),
            state: state.to_owned(),
            step: step.to_owned(),
            input: json!({ "from": from, "to": to }),
            data: json!({}),
            error: None,
            abort_requested: false,
            created_at: String::new(),
            updated_at: String::new(),
        }
    }

    #[test]
    fn a_move_ends_or_is_undone_or_stands_in_the_way_of_a_lost_server() {
        let dead = ServerName::new("dead").unwrap();
        let of = |operation: &Operation, lives_there: bool| {
            let tenants: Vec<TenantId> =
                operation.tenant.clone().into_iter().filter(|_| lives_there).collect();
            fate(operation, &dead, &tenants)
        };
        let (away, back) = (("dead", "b"), ("a", "dead"));
        assert_eq!(of(&moved("running", "copy", away), true), Ok(Fate::Ends("failed")));
        assert_eq!(of(&moved("running", "copy", back), false), Ok(Fate::IsUndone));
        assert_eq!(of(&moved("switched", "switched", away), false), Ok(Fate::Ends("completed")));
        assert_eq!(of(&moved("running", "verify", away), false), Ok(Fate::Ends("completed")));
        assert_eq!(of(&moved("switched", "switched", back), true), Ok(Fate::Ends("failed")));
        assert!(of(&moved("switched", "switched", back), false).unwrap_err().contains("move complete 7"));
        for (sides, lives_there) in [(away, true), (back, false)] {
            assert!(of(&moved("running", "cutover", sides), lives_there).is_err(), "only the dead one knows");
        }
    }

    #[test]
    fn copies_of_lost_tenants_on_other_servers_are_named() {
        let dead = ServerName::new("dead").unwrap();
        let kept = |operation: &Operation| {
            copy_elsewhere(operation, &dead).map(|(server, database)| format!("{server} {database}"))
        };
        assert_eq!(kept(&moved("switched", "switched", ("a", "dead"))).unwrap(), "a acme__sealed");
        assert_eq!(kept(&moved("running", "copy", ("dead", "b"))).unwrap(), "b acme__arriving");
        assert_eq!(kept(&moved("switched", "switched", ("dead", "b"))), None);
    }
}
