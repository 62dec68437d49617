//! Servers in the catalog.

use serde::{Deserialize, Serialize};
use shard_map::{Server, ServerName};

use crate::error::{Error, Result};
use crate::query::Catalog;

/// A server with what only the control plane needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerRow {
    /// As the map has it.
    #[serde(flatten)]
    pub server: Server,
    /// The cluster's own identity, so that another one at the same address is noticed.
    pub system_identifier: i64,
    /// Tenants placed on it, deleted ones in their grace time included.
    pub tenants: u32,
}

const SELECT: &str = "
    SELECT to_jsonb(s) || jsonb_build_object('tenants', (SELECT count(*) FROM tenant t WHERE t.server = s.name))
    FROM server s";

/// What tells this fleet, and its catalog's own Postgres cluster, from others.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The fleet's id, which servers' registries carry, too.
    pub fleet: String,
    /// The system identifier of the cluster that holds the catalog.
    pub catalog_system: i64,
}

impl Catalog {
    /// Which fleet this is.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn identity(&self) -> Result<Identity> {
        const SQL: &str = "SELECT id, (SELECT system_identifier FROM pg_control_system()) FROM fleet";
        let row = self.row("fleet_identity", SQL, &[]).await?;
        row.map(|row| Identity { fleet: row.get(0), catalog_system: row.get(1) })
            .ok_or_else(|| Error::NotFound("the catalog does not say which fleet it is of".to_owned()))
    }

    /// All servers, by name.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn servers(&self) -> Result<Vec<ServerRow>> {
        self.json("server_list", &format!("{SELECT} ORDER BY name"), &[]).await
    }

    /// One server.
    ///
    /// # Errors
    /// [`Error::NotFound`], or when the catalog can't be reached or read.
    pub async fn server(&self, name: &ServerName) -> Result<ServerRow> {
        let rows = self.json("server_show", &format!("{SELECT} WHERE name = $1"), &[&name.as_str()]).await?;
        rows.into_iter().next().ok_or_else(|| Error::NotFound(format!("server {name} does not exist")))
    }

    /// Records a server that was checked and armed. The same server again changes its class, limits and labels.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name, address or cluster belongs to another entry.
    pub async fn put_server(&self, server: &Server, system_identifier: i64) -> Result<()> {
        const SQL: &str = "
            INSERT INTO server (name, host, port, class, max_connections, labels, system_identifier)
            SELECT j->>'name', j->>'host', (j->>'port')::int, j->>'class', (j->>'max_connections')::int, j->'labels', $2
            FROM (SELECT $1::jsonb AS j) declared
            ON CONFLICT (name) DO UPDATE SET host = excluded.host, port = excluded.port, class = excluded.class,
                max_connections = excluded.max_connections, labels = excluded.labels
            WHERE server.system_identifier = excluded.system_identifier";
        let declared = serde_json::json!(server);
        let written =
            self.execute("server_put", SQL, &[&declared, &system_identifier]).await.map_err(|e| {
                if e.is_unique_violation() {
                    Error::Conflict(format!(
                        "the server at {} is already in the map under another name",
                        server.address()
                    ))
                } else {
                    e
                }
            })?;
        if written == 0 {
            return Err(Error::Conflict(format!(
                "server {} is another Postgres cluster than the one at {}",
                server.name,
                server.address()
            )));
        }
        Ok(())
    }
}
