//! Addresses of servers beside the one in the map: where a server may be after its next promotion, and where it was before.

use serde::{Deserialize, Serialize};
use shard_map::ServerName;

use crate::error::Result;
use crate::query::Catalog;

/// What was seen last at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressState {
    /// Nothing: it did not answer, or was not looked at yet.
    Unseen,
    /// It takes writes, and is the server of the map.
    Serving,
    /// It is a standby.
    Standby,
    /// It takes writes, on an older timeline, and lets nobody into tenants' databases.
    Closed,
    /// It takes writes, on an older timeline, and could not be closed in full.
    Open,
    /// It takes writes, and is not known to be older than the server of the map.
    Rival,
    /// Another Postgres cluster is there.
    Another,
}

impl AddressState {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unseen => "unseen",
            Self::Serving => "serving",
            Self::Standby => "standby",
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Rival => "rival",
            Self::Another => "another",
        }
    }
}

/// An address of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// The server.
    pub server: ServerName,
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether an operator said that the server may be there.
    pub is_member: bool,
    /// The timeline that was written there when it was seen last.
    pub timeline: Option<i32>,
    /// What was seen there last.
    pub state: AddressState,
    /// That in words.
    pub detail: String,
    /// Since when (RFC 3339).
    pub since: String,
}

/// What is seen at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenAddress {
    /// What is there.
    pub state: AddressState,
    /// That in words.
    pub detail: String,
    /// The timeline that is written there; none if it is not known.
    pub timeline: Option<i32>,
}

pub(crate) const PUT: &str = "
    INSERT INTO server_address (server, system_identifier, host, port, is_member, timeline, state, detail)
    SELECT name, system_identifier, $2, $3, false, $4, $5, $6 FROM server WHERE name = $1
    ON CONFLICT (server, host, port) DO UPDATE SET system_identifier = excluded.system_identifier,
        is_member = server_address.is_member AND server_address.system_identifier = excluded.system_identifier,
        timeline = coalesce(excluded.timeline, server_address.timeline), state = excluded.state,
        detail = excluded.detail,
        since = CASE WHEN server_address.state = excluded.state THEN server_address.since ELSE now() END";

impl Catalog {
    /// All of them, by server.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn server_addresses(&self) -> Result<Vec<ServerAddress>> {
        const SQL: &str = "
            SELECT to_jsonb(a) FROM server_address a JOIN server s ON s.name = a.server
            WHERE s.system_identifier = a.system_identifier ORDER BY a.server, a.since, a.host, a.port";
        self.json("address_list", SQL, &[]).await
    }

    /// Keeps what is seen at an address.
    ///
    /// # Errors
    /// [`crate::Error::LeaseLost`] when `term` is not the leader's.
    pub async fn note_address(
        &self,
        server: &ServerName,
        (host, port): (&str, u16),
        seen: &SeenAddress,
        term: i64,
    ) -> Result<()> {
        self.check_leads(term).await?;
        let (port, state) = (i32::from(port), seen.state.as_str());
        let SeenAddress { detail, timeline, .. } = seen;
        self.execute("address_note", PUT, &[&server.as_str(), &host, &port, timeline, &state, detail])
            .await
            .map(drop)
    }

    /// Takes an address off the record, unless an operator said that the server may be there.
    ///
    /// # Errors
    /// [`crate::Error::LeaseLost`] when `term` is not the leader's.
    pub async fn forget_address(
        &self,
        server: &ServerName,
        (host, port): (&str, u16),
        term: i64,
    ) -> Result<()> {
        self.check_leads(term).await?;
        const SQL: &str =
            "DELETE FROM server_address WHERE server = $1 AND host = $2 AND port = $3 AND NOT is_member";
        self.execute("address_forget", SQL, &[&server.as_str(), &host, &i32::from(port)]).await.map(drop)
    }

    /// Keeps where an operator says that a server may be; with none, it is where the map has it and nowhere else.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn put_members(&self, server: &ServerName, hosts: &[(String, u16)]) -> Result<()> {
        // Where an old primary was seen, it may come back.
        const SQL: &str = "
            WITH members AS (SELECT host, port::integer FROM jsonb_to_recordset($2) AS m (host text, port integer)),
            gone AS (
                DELETE FROM server_address WHERE server = $1 AND is_member AND state NOT IN ('closed', 'open')
                    AND (host, port) NOT IN (SELECT host, port FROM members)),
            left_ones AS (
                UPDATE server_address SET is_member = false WHERE server = $1 AND is_member AND state IN ('closed', 'open')
                    AND (host, port) NOT IN (SELECT host, port FROM members))
            INSERT INTO server_address (server, system_identifier, host, port, is_member, state)
            SELECT s.name, s.system_identifier, m.host, m.port, true, 'unseen'
            FROM server s, members m WHERE s.name = $1
            ON CONFLICT (server, host, port) DO UPDATE SET is_member = true,
                system_identifier = excluded.system_identifier";
        let hosts: Vec<_> =
            hosts.iter().map(|(host, port)| serde_json::json!({ "host": host, "port": port })).collect();
        let hosts = serde_json::Value::Array(hosts);
        self.execute("address_members", SQL, &[&server.as_str(), &hosts]).await.map(drop)
    }

    async fn check_leads(&self, term: i64) -> Result<()> {
        const LEADS: &str = "SELECT FROM lease WHERE term = $1";
        match self.row("address_leads", LEADS, &[&term]).await? {
            Some(_) => Ok(()),
            None => Err(crate::Error::LeaseLost),
        }
    }
}
