//! Servers that leave the map: empty ones, and those that are lost with all that was on them.

use serde_json::{Value, json};
use shard_map::{ServerName, TenantId, TenantState};
use tokio_postgres::Transaction;

use crate::error::{Error, Result};
use crate::obstacle::Obstacle;
use crate::operations::{Kind, Operation};
use crate::query::{Catalog, Params, from_json, limited};

/// Steps of a move that is under way and was decided: its tenant is at its target.
const DECIDED: [&str; 2] = ["release", "verify"];

/// What came of removing a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is off the map.
    Done(Removed),
    /// It is not.
    InTheWay(Obstacle),
}

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
    /// Its driver first removes what it made on its other server and what keeps log there; this mark tells it to.
    IsLeft(&'static str),
}

impl Catalog {
    /// Takes a server off the map on which nothing is; a lost one with its tenants, and with the operations that can't end
    /// without it. Moves to or from a lost server first leave their other server as they should: an obstacle says so, and
    /// to try again.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::LeaseLost`] when `term` is not the leader's.
    pub async fn remove_server(&self, name: &ServerName, lost: bool, term: i64) -> Result<Removal> {
        const QUERY: &str = "server_remove";
        let mut client = self.client().await?;
        let transaction = limited(QUERY, client.transaction()).await?;
        // In the order of placements. One that changes a tenant takes its row first: whoever loses then tries again.
        limited(QUERY, transaction.execute("SELECT FROM map_version FOR UPDATE", &[])).await?;
        let leads = "SELECT FROM lease WHERE term = $1 FOR SHARE";
        if limited(QUERY, transaction.query_opt(leads, &[&term])).await?.is_none() {
            return Err(Error::LeaseLost);
        }
        let there = "SELECT FROM server WHERE name = $1 FOR UPDATE";
        if limited(QUERY, transaction.query_opt(there, &[&name.as_str()])).await?.is_none() {
            return Err(no_such_server(name));
        }
        let mut removed = Removed { tenants: tenants_there(&transaction, name).await?, kept: Vec::new() };
        if !lost && let Some(obstacle) = still_there(&transaction, &removed.tenants).await? {
            return Ok(Removal::InTheWay(obstacle));
        }
        let mut fates = Vec::new();
        for operation in open_operations(&transaction, name, &removed.tenants).await? {
            if !lost {
                return Ok(Removal::InTheWay(Obstacle::of(&operation)));
            }
            match fate(&operation, name, &removed.tenants) {
                Err(obstacle) => return Ok(Removal::InTheWay(obstacle)),
                Ok(fate) => fates.push((operation, fate)),
            }
        }
        let left = fates.iter().filter_map(|(operation, fate)| match fate {
            Fate::IsLeft(mark) => Some((operation, *mark)),
            Fate::Ends(_) => None,
        });
        let left: Vec<(&Operation, &str)> = left.collect();
        if let Some((first, _)) = left.first() {
            // The others end, and what they keep is told, when these have.
            for (operation, mark) in &left {
                leave(&transaction, operation, mark).await?;
            }
            limited(QUERY, transaction.commit()).await?;
            client.keep();
            return Ok(Removal::InTheWay(Obstacle::IsEnding { id: first.id }));
        }
        for (operation, fate) in &fates {
            if let Fate::Ends(state) = fate {
                end(&transaction, (operation, state), name).await?;
                removed.kept.extend(copy_elsewhere(operation, name));
                let with_it = tenant_on_its_way(operation, name, &removed.tenants);
                removed.tenants.extend(with_it);
            }
        }
        forget(&transaction, name, &removed.tenants).await?;
        limited(QUERY, transaction.commit()).await?;
        client.keep();
        Ok(Removal::Done(removed))
    }
}

pub(crate) fn no_such_server(name: &ServerName) -> Error {
    Error::NotFound(format!("server {name} does not exist"))
}

async fn tenants_there(transaction: &Transaction<'_>, name: &ServerName) -> Result<Vec<TenantId>> {
    const SQL: &str = "SELECT to_jsonb(id) FROM tenant WHERE server = $1 ORDER BY id FOR UPDATE";
    let rows = limited("server_tenants", transaction.query(SQL, &[&name.as_str()])).await?;
    rows.iter().map(|row| from_json("server_tenants", row)).collect()
}

/// What these tenants are in the way as: those that only wait for the end of their grace time apart.
async fn still_there(transaction: &Transaction<'_>, tenants: &[TenantId]) -> Result<Option<Obstacle>> {
    const SQL: &str = "SELECT to_jsonb(id) FROM tenant WHERE id = ANY ($1) AND state <> $2 ORDER BY id";
    if tenants.is_empty() {
        return Ok(None);
    }
    let ids: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
    let params: Params<'_> = &[&ids, &TenantState::Deleted.as_str()];
    let rows = limited("server_tenants", transaction.query(SQL, params)).await?;
    let alive: Vec<TenantId> =
        rows.iter().map(|row| from_json("server_tenants", row)).collect::<Result<_>>()?;
    let only_deleted = alive.is_empty();
    Ok(Some(if only_deleted { Obstacle::Deleted(tenants.to_vec()) } else { Obstacle::Tenants(alive) }))
}

async fn open_operations(
    transaction: &Transaction<'_>,
    name: &ServerName,
    tenants: &[TenantId],
) -> Result<Vec<Operation>> {
    const SQL: &str = "
        SELECT to_jsonb(o) FROM operation o
        WHERE state IN ('running', 'switched') AND kind <> 'migrate'
            AND (tenant = ANY ($2) OR kind = 'move' AND $1 IN (input->>'from', input->>'to')
                OR kind = 'failover' AND input->>'server' = $1)
        ORDER BY id FOR UPDATE";
    let tenants: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
    let rows = limited("server_operations", transaction.query(SQL, &[&name.as_str(), &tenants])).await?;
    rows.iter().map(|row| from_json("server_operations", row)).collect()
}

/// What becomes of an operation when a server is lost.
fn fate(
    operation: &Operation,
    lost: &ServerName,
    tenants: &[TenantId],
) -> std::result::Result<Fate, Obstacle> {
    if operation.kind != Kind::Move {
        return Ok(Fate::Ends("failed"));
    }
    let is_lost = |key: &str| operation.input.get(key).and_then(Value::as_str) == Some(lost.as_str());
    let lost_its_tenant = operation.tenant.as_ref().is_some_and(|tenant| tenants.contains(tenant));
    if operation.state == "switched" {
        return match is_lost("from") {
            // Its sealed copy, or all of it that was left to do, was there.
            true if !lost_its_tenant => Ok(Fate::Ends("completed")),
            // Of a tenant that has moved on: the copy to be dropped is elsewhere.
            false if !lost_its_tenant => Err(Obstacle::of(operation)),
            // A sealed copy of an earlier place of the tenant, or of its last one but the lost.
            _ => Ok(Fate::Ends("failed")),
        };
    }
    let step = operation.step.as_str();
    match (is_lost("from"), is_lost("to")) {
        // Both were given up: nobody is left to be told.
        (true, _) if has(operation, "target_lost") => Ok(Fate::Ends("failed")),
        (_, true) if has(operation, "source_lost") => Ok(Fate::Ends("failed")),
        (true, _) if step == "undo" && has(operation, "source_left") => Ok(Fate::Ends("failed")),
        // Its target knows whether it was decided, and if so it goes on to its end.
        (true, _) => Ok(Fate::IsLeft("source_lost")),
        (_, true) if DECIDED.contains(&step) && has(operation, "target_left") => Ok(Fate::Ends("failed")),
        // When the catalog has its tenant there, it was decided.
        (_, true) if step == "cutover" && !lost_its_tenant => {
            let from = operation.input["from"].as_str().unwrap_or_default().to_owned();
            Err(Obstacle::Undecided { id: operation.id, from })
        }
        (_, true) => Ok(Fate::IsLeft("target_lost")),
        _ => Ok(Fate::Ends("failed")),
    }
}

/// Whether a move's data has a mark.
fn has(operation: &Operation, mark: &str) -> bool {
    operation.data.get(mark) == Some(&json!(true))
}

/// The copy of a lost tenant that a move has on its other server.
fn copy_elsewhere(operation: &Operation, lost: &ServerName) -> Option<(ServerName, String)> {
    let server = |key: &str| operation.input.get(key)?.as_str()?.parse::<ServerName>().ok();
    let tenant = operation.tenant.as_ref().filter(|_| operation.kind == Kind::Move)?;
    let is_sealed = operation.state == "switched" || DECIDED.contains(&operation.step.as_str());
    match (server("from")?, server("to")?) {
        (from, _) if from != *lost && is_sealed && !has(operation, "source_lost") => {
            Some((from, tenant.sealed_database()))
        }
        (from, to) if from == *lost && has(operation, "copy_left") && !has(operation, "target_lost") => {
            Some((to, tenant.arriving_database()))
        }
        _ => None,
    }
}

/// The tenant of a move to a lost server that was decided before the catalog followed: it is lost with it.
fn tenant_on_its_way(operation: &Operation, lost: &ServerName, known: &[TenantId]) -> Option<TenantId> {
    let is_there = operation.kind == Kind::Move
        && operation.state == "running"
        && DECIDED.contains(&operation.step.as_str())
        && operation.input.get("to").and_then(Value::as_str) == Some(lost.as_str());
    operation.tenant.clone().filter(|tenant| is_there && !known.contains(tenant))
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

/// Tells a move's driver that a server is lost.
async fn leave(transaction: &Transaction<'_>, operation: &Operation, mark: &str) -> Result<()> {
    const SQL: &str = "
        UPDATE operation SET abort_requested = true, data = data || $2, updated_at = now() WHERE id = $1";
    let data = json!({ mark: true });
    limited("server_leave_move", transaction.execute(SQL, &[&operation.id, &data])).await.map(drop)
}

/// A tenant leaves the map by way of `deleted`: a router does not believe that another one is gone.
async fn forget(transaction: &Transaction<'_>, name: &ServerName, tenants: &[TenantId]) -> Result<()> {
    let ids: Vec<&str> = tenants.iter().map(TenantId::as_str).collect();
    for sql in [
        "DELETE FROM hold WHERE tenant = ANY ($1)",
        "UPDATE tenant SET state = 'deleted' WHERE id = ANY ($1)",
        "DELETE FROM tenant WHERE id = ANY ($1)",
    ] {
        limited("server_forget", transaction.execute(sql, &[&ids])).await?;
    }
    for sql in [
        "DELETE FROM server_use WHERE server = $1",
        "DELETE FROM drain WHERE server = $1",
        "DELETE FROM drain_aside WHERE server = $1",
        "DELETE FROM server_address WHERE server = $1",
        "DELETE FROM server WHERE name = $1",
    ] {
        limited("server_forget", transaction.execute(sql, &[&name.as_str()])).await?;
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

    fn with(operation: Operation, data: Value) -> Operation {
        Operation { data, ..operation }
    }

    #[test]
    fn a_move_ends_or_is_left_or_stands_in_the_way_of_a_lost_server() {
        let dead = ServerName::new("dead").unwrap();
        let of = |operation: &Operation, lives_there: bool| {
            let tenants: Vec<TenantId> =
                operation.tenant.clone().into_iter().filter(|_| lives_there).collect();
            fate(operation, &dead, &tenants)
        };
        let (away, back) = (("dead", "b"), ("a", "dead"));
        assert_eq!(of(&moved("switched", "switched", away), false), Ok(Fate::Ends("completed")));
        assert_eq!(of(&moved("switched", "switched", back), true), Ok(Fate::Ends("failed")));
        assert_eq!(of(&moved("switched", "switched", back), false), Err(Obstacle::SealedCopy { id: 7 }));
        // What streams on the server that lives is removed before anything ends.
        for (step, lives_there) in
            [("copy", true), ("catch_up", true), ("cutover", true), ("release", true), ("verify", false)]
        {
            assert_eq!(of(&moved("running", step, away), lives_there), Ok(Fate::IsLeft("source_lost")));
        }
        let left = with(moved("running", "undo", away), json!({ "source_left": true }));
        assert_eq!(of(&left, true), Ok(Fate::Ends("failed")));
        for (step, lives_there) in
            [("copy", false), ("undo", false), ("cutover", true), ("release", false), ("verify", true)]
        {
            assert_eq!(of(&moved("running", step, back), lives_there), Ok(Fate::IsLeft("target_lost")));
        }
        let left = with(moved("running", "verify", back), json!({ "target_left": true }));
        assert_eq!(of(&left, true), Ok(Fate::Ends("failed")));
        let only_it_knows = Obstacle::Undecided { id: 7, from: "a".to_owned() };
        assert_eq!(of(&moved("running", "cutover", back), false), Err(only_it_knows));
        for step in ["cutover", "copy"] {
            let both = with(moved("running", step, back), json!({ "source_lost": true }));
            assert_eq!(of(&both, false), Ok(Fate::Ends("failed")));
        }
        let both = with(moved("running", "verify", away), json!({ "target_lost": true }));
        assert_eq!(of(&both, false), Ok(Fate::Ends("failed")));
    }

    #[test]
    fn copies_of_lost_tenants_on_other_servers_are_named() {
        let dead = ServerName::new("dead").unwrap();
        let kept = |operation: &Operation| {
            copy_elsewhere(operation, &dead).map(|(server, database)| format!("{server} {database}"))
        };
        for (state, step) in [("switched", "switched"), ("running", "release"), ("running", "verify")] {
            assert_eq!(kept(&moved(state, step, ("a", "dead"))).unwrap(), "a acme__sealed");
        }
        let left = with(moved("running", "undo", ("dead", "b")), json!({ "copy_left": true }));
        assert_eq!(kept(&left).unwrap(), "b acme__arriving");
        assert_eq!(kept(&moved("running", "undo", ("dead", "b"))), None, "it had made none");
        assert_eq!(kept(&moved("switched", "switched", ("dead", "b"))), None);
    }

    #[test]
    fn a_tenant_is_lost_with_the_server_that_was_decided_for_it() {
        let dead = ServerName::new("dead").unwrap();
        let lost = |step: &str, sides| tenant_on_its_way(&moved("running", step, sides), &dead, &[]);
        assert_eq!(lost("release", ("a", "dead")), TenantId::new("acme").ok());
        assert_eq!((lost("copy", ("a", "dead")), lost("release", ("dead", "b"))), (None, None));
    }
}
