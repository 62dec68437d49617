//! Failovers of servers: operations whose one deciding step is a change of the map.

use serde_json::{Value, json};
use shard_map::{Server, ServerName};

use crate::addresses::{PUT, SeenAddress};
use crate::error::{Error, Result};
use crate::operations::{Kind, Operation, insert_operation};
use crate::query::{Catalog, Params, limited};

/// A server's change of address.
#[derive(Debug, Clone)]
pub struct Pointing<'a> {
    /// The failover.
    pub operation: i64,
    /// As the map has the server.
    pub from: &'a Server,
    /// As it shall have it.
    pub to: &'a Server,
    /// What was seen at its address so far; none if that is of no interest any more.
    pub old: Option<SeenAddress>,
    /// What was seen at the new one.
    pub new: SeenAddress,
}

impl Catalog {
    /// Starts a failover. One to the same address that is under way is that; one to another is given up for this one if it has
    /// not changed the map yet.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another one has changed the map, and is not ended.
    pub async fn start_failover(&self, server: &ServerName, input: &Value) -> Result<i64> {
        const UNDER_WAY: &str = "
            SELECT id, input->'to' = $2::jsonb, data ? 'map_version' FROM operation
            WHERE kind = 'failover' AND state = 'running' AND input->>'server' = $1 FOR UPDATE";
        const GIVE_UP: &str = "
            WITH closed AS (
                UPDATE operation_step SET ended_at = clock_timestamp(), result = $2
                WHERE operation = $1 AND ended_at IS NULL)
            UPDATE operation SET state = 'failed', error = $2, updated_at = now() WHERE id = $1";
        const QUERY: &str = "failover_start";
        let mut client = self.client().await?;
        let transaction = limited(QUERY, client.transaction()).await?;
        let name = server.as_str();
        if let Some(row) = limited(QUERY, transaction.query_opt(UNDER_WAY, &[&name, &input["to"]])).await? {
            let (id, is_the_same, has_decided): (i64, bool, bool) = (row.get(0), row.get(1), row.get(2));
            if is_the_same {
                return Ok(id);
            }
            if has_decided {
                return Err(Error::Conflict(format!("failover {id} of server {server} is not ended yet")));
            }
            let why = format!(
                "given up for one to {}:{}",
                input["to"]["host"].as_str().unwrap_or_default(),
                input["to"]["port"]
            );
            limited(QUERY, transaction.execute(GIVE_UP, &[&id, &why])).await?;
        }
        let id = insert_operation(&transaction, Kind::Failover, None, input).await?;
        limited(QUERY, transaction.commit()).await?;
        client.keep();
        Ok(id)
    }

    /// Failovers of a server, newest first.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn failovers(&self, server: &ServerName, count_max: i64) -> Result<Vec<Operation>> {
        const SQL: &str = "
            SELECT to_jsonb(o) FROM operation o WHERE kind = 'failover' AND input->>'server' = $1
            ORDER BY id DESC LIMIT $2";
        self.json("failover_list", SQL, &[&server.as_str(), &count_max]).await
    }

    /// Whether one of these servers is being failed over.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn is_failing_over(&self, servers: &[&ServerName]) -> Result<bool> {
        const SQL: &str = "
            SELECT FROM operation WHERE kind = 'failover' AND state = 'running' AND input->>'server' = ANY ($1)";
        let names: Vec<&str> = servers.iter().map(|server| server.as_str()).collect();
        Ok(self.row("failover_running", SQL, &[&names]).await?.is_some())
    }

    /// Gives a server, which must still be where `from` is, the address of `to`; nothing else of it changes. Returns the map's
    /// version with the change.
    ///
    /// # Errors
    /// [`Error::Conflict`] when it is elsewhere by now; [`Error::LeaseLost`] when `term` is not the leader's; [`Error::Ended`].
    pub async fn point_server(&self, pointing: &Pointing<'_>, term: i64) -> Result<i64> {
        const QUERY: &str = "server_point";
        const OPEN: &str = "
            SELECT FROM lease, operation o WHERE lease.term = $2 AND o.id = $1 AND o.state = 'running' FOR UPDATE OF o";
        const POINT: &str =
            "UPDATE server SET host = $4, port = $5 WHERE name = $1 AND host = $2 AND port = $3";
        const DATA: &str = "UPDATE operation SET data = data || $2, updated_at = now() WHERE id = $1";
        let Pointing { operation, from, to, old, new } = pointing;
        let name = from.name.as_str();
        let (from_port, to_port) = (i32::from(from.port), i32::from(to.port));
        let mut client = self.client().await?;
        let transaction = limited(QUERY, client.transaction()).await?;
        if limited(QUERY, transaction.query_opt(OPEN, &[operation, &term])).await?.is_none() {
            drop(transaction);
            return self.as_driver(0, *operation, term).await.map(|()| 0);
        }
        let params: Params<'_> = &[&name, &from.host, &from_port, &to.host, &to_port];
        let moved = limited(QUERY, transaction.execute(POINT, params)).await.map_err(|e| {
            match e.is_unique_violation() {
                true => Error::Conflict(format!("another server is at {}", to.address())),
                false => e,
            }
        })?;
        if moved == 0 {
            return Err(Error::Conflict(format!("server {name} is not at {} any more", from.address())));
        }
        let seen = [(&from.host, from_port, old.as_ref()), (&to.host, to_port, Some(new))];
        for (host, port, seen) in seen {
            let Some(SeenAddress { state, detail, timeline }) = seen else { continue };
            let state = state.as_str();
            let params: Params<'_> = &[&name, host, &port, timeline, &state, detail];
            limited(QUERY, transaction.execute(PUT, params)).await?;
        }
        let version = limited(QUERY, transaction.query_one("SELECT version FROM map_version", &[])).await?;
        let version: i64 = version.get(0);
        limited(QUERY, transaction.execute(DATA, &[operation, &json!({ "map_version": version })])).await?;
        limited(QUERY, transaction.commit()).await?;
        client.keep();
        Ok(version)
    }
}
