//! Connections to managed servers: made when needed, closed when dropped, limited in every wait.

use std::sync::Arc;
use std::time::Duration;

use catalog::tls::TlsOptions;
use shard_map::{Access, MasterKey, Server, ServerName, Tenant};
use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row};

use super::own::{Mark, OwnSessions};
use super::warm::Warm;
use super::{CONTROL_ROLE, REGISTRY_DATABASE};
use crate::error::{Error, Result};

/// How long a connection to a server may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// When and how often a peer that says nothing is asked whether it is there.
pub(super) const KEEPALIVES_IDLE: Duration = Duration::from_secs(5);
pub(super) const KEEPALIVES_INTERVAL: Duration = Duration::from_secs(2);
pub(super) const KEEPALIVES_RETRIES: u32 = 3;
/// How long a session under a tenant's role may take to tell which process serves it.
const MARK_TIMEOUT: Duration = Duration::from_secs(2);
/// After so long such a session is known as own, or was given up.
pub(crate) const UNMARKED_MAX: Duration = CONNECT_TIMEOUT.saturating_add(MARK_TIMEOUT);
/// How long one statement may take, unless the session says otherwise.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes connections to managed servers as the control plane's own role.
#[derive(Clone)]
pub(crate) struct Connector {
    key: MasterKey,
    pub(crate) tls: TlsOptions,
    warm: Arc<Warm>,
    own: Arc<OwnSessions>,
}

/// A session on a managed server. Closed when dropped.
pub(crate) struct Connection {
    server: ServerName,
    config: Config,
    client: Client,
    task: JoinHandle<()>,
    /// Of a session under a tenant's role.
    mark: Option<Mark>,
}

pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Connector {
    pub(crate) fn new(key: MasterKey, tls: TlsOptions) -> Self {
        Self { key, tls, warm: Arc::default(), own: Arc::default() }
    }

    pub(crate) fn key(&self) -> &MasterKey {
        &self.key
    }

    /// The configuration with which to reach a database of a server.
    pub(crate) fn config(&self, server: &Server, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host(&server.host)
            .port(server.port)
            .dbname(database)
            .user(CONTROL_ROLE)
            .password(self.key.control_password(&server.name))
            .application_name("tenantry control")
            .connect_timeout(CONNECT_TIMEOUT)
            .options(session_options());
        notice_death(&mut config);
        config
    }

    /// Connects to a database of a server.
    pub(crate) async fn database(&self, server: &Server, database: &str) -> Result<Connection> {
        Connection::open(&server.name, &self.config(server, database), &self.tls).await
    }

    /// Connects to a tenant's database as its owner role, for what must not have more rights than that.
    pub(crate) async fn as_owner(&self, server: &Server, tenant: &Tenant) -> Result<Connection> {
        self.as_role_in(server, (tenant, Access::Owner), tenant.id.live_database()).await
    }

    /// Connects as one of a tenant's roles to any of its databases, such as a copy of its schema.
    pub(crate) async fn as_role_in(
        &self,
        server: &Server,
        (tenant, access): (&Tenant, Access),
        database: &str,
    ) -> Result<Connection> {
        let mut config = self.config(server, database);
        let password = self.key.tenant_password(&tenant.id, access, tenant.key_version);
        config.user(access.role(&tenant.id)).password(password);
        self.marked(server, &config).await
    }

    /// Connects as an operation's reader, in whose sessions nothing is written unless one asks for it.
    pub(crate) async fn as_reader(
        &self,
        server: &Server,
        (role, password): &(String, String),
        database: &str,
    ) -> Result<Connection> {
        let mut config = self.config(server, database);
        config.user(role).password(password);
        config.options(format!("{} -c default_transaction_read_only=on", session_options()));
        self.marked(server, &config).await
    }

    /// Connects, and is known as own from then on.
    async fn marked(&self, server: &Server, config: &Config) -> Result<Connection> {
        let mut connection = Connection::open(&server.name, config, &self.tls).await?;
        let asked = connection.value("SELECT pg_catalog.pg_backend_pid()", &[]);
        let process = tokio::time::timeout(MARK_TIMEOUT, asked).await.map_err(|_| {
            let message = format!("no answer within mark_timeout ({MARK_TIMEOUT:?})");
            Error::ServerUnreachable { server: server.name.to_string(), message }
        })??;
        connection.mark = Some(self.own.mark(&server.name, process));
        Ok(connection)
    }

    /// Whether a session under a tenant's role is this control plane's own. One that logged in within the last
    /// [`UNMARKED_MAX`] may be without being known yet.
    pub(crate) fn is_own(&self, server: &ServerName, process: i32) -> bool {
        self.own.has(server, process)
    }

    /// Connects to a server's registry.
    pub(crate) async fn registry(&self, server: &Server) -> Result<Connection> {
        self.database(server, REGISTRY_DATABASE).await
    }

    /// Another session at the same place, wherever the map says by now that the server is.
    pub(crate) async fn another(&self, session: &Connection) -> Result<Connection> {
        Connection::open(&session.server, &session.config, &self.tls).await
    }

    /// A connection to a server's registry that was kept, or else a new one. Whoever takes it leaves the session as it
    /// was, and gives it back by [`Connector::keep_warm`] if nothing failed.
    pub(crate) async fn warm_registry(&self, server: &Server) -> Result<Connection> {
        match self.warm.take(server) {
            Some(connection) => Ok(connection),
            None => self.registry(server).await,
        }
    }

    /// Keeps a connection to a server's registry for the next who needs one.
    pub(crate) fn keep_warm(&self, server: &Server, connection: Connection) {
        self.warm.put(server, connection);
    }
}

/// A server that lost its power is noticed within seconds, not after the system's two hours.
fn notice_death(config: &mut Config) {
    config
        .keepalives_idle(KEEPALIVES_IDLE)
        .keepalives_interval(KEEPALIVES_INTERVAL)
        .keepalives_retries(KEEPALIVES_RETRIES);
    config.tcp_user_timeout(Duration::from_secs(10));
}

/// Settings of every session: limits of its own, and none of those that an operator may have set for applications. What a
/// controller that died had begun ends soon after it: its successor would wait for that.
pub(crate) fn session_options() -> String {
    format!(
        "-c statement_timeout={} -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c idle_session_timeout=0 \
         -c search_path= \
         -c standard_conforming_strings=on -c default_transaction_read_only=off -c synchronous_commit=on \
         -c client_connection_check_interval=500ms",
        STATEMENT_TIMEOUT.as_millis()
    )
}

impl Connection {
    /// Connects, with TLS as it is asked for here, whatever the configuration says of it.
    pub(crate) async fn open(server: &ServerName, config: &Config, tls: &TlsOptions) -> Result<Self> {
        let mut config = config.clone();
        config.ssl_mode(tls.ssl_mode());
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, config.connect(tls.connector())).await;
        let (client, connection) = connecting
            .map_err(|_| Error::ServerUnreachable {
                server: server.to_string(),
                message: format!("no connection within connect_timeout ({CONNECT_TIMEOUT:?})"),
            })?
            .map_err(|e| Error::on_server(server.as_str(), &e))?;
        let task = tokio::spawn(async move {
            // Its error reaches whoever waits for an answer on the client's side.
            drop(connection.await);
        });
        Ok(Self { server: server.clone(), config, client, task, mark: None })
    }

    /// Whether it is not known to be broken.
    pub(crate) fn is_open(&self) -> bool {
        !self.client.is_closed()
    }

    pub(crate) fn error(&self, error: &tokio_postgres::Error) -> Error {
        Error::on_server(self.server.as_str(), error)
    }

    /// A refusal of this control plane's own, told as a server tells its errors.
    pub(crate) fn refused(&self, message: &str, sqlstate: &str) -> Error {
        Error::Statement {
            server: self.server.to_string(),
            message: message.to_owned(),
            sqlstate: sqlstate.to_owned(),
        }
    }

    /// The driver's client, for COPY and transactions.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    pub(crate) async fn rows(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
        self.client.query(sql, params).await.map_err(|e| self.error(&e))
    }

    /// The first row, if any.
    pub(crate) async fn row(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// The first column of the only row.
    pub(crate) async fn value<T>(&self, sql: &str, params: Params<'_>) -> Result<T>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        let row = self.client.query_one(sql, params).await.map_err(|e| self.error(&e))?;
        row.try_get(0).map_err(|e| self.error(&e))
    }

    /// Runs statements that return nothing. Several in one string are one transaction, as Postgres does it.
    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).await.map_err(|e| self.error(&e))
    }

    /// Lifts the statement limit for work that takes as long as the data is large; its caller watches it.
    pub(crate) async fn without_statement_limit(self) -> Result<Self> {
        self.run("SET statement_timeout = 0").await?;
        Ok(self)
    }

    /// Says goodbye and waits until the socket is closed, for when the server's side must be gone soon.
    pub(crate) async fn close(self) {
        let Self { client, task, .. } = self;
        drop(client);
        // The task ends once the terminate message is written; a server that hangs is not waited for.
        drop(tokio::time::timeout(Duration::from_secs(1), task).await);
    }
}
