//! Who reads a tenant's rows for a move or a clone, and makes its schema elsewhere: a role of that operation, which is no
//! superuser. Whoever plans a statement runs what the planner works out beforehand, such as functions in the predicates of
//! indexes and in statistics, and those are the tenant's.
//!
//! It may read what the tenant's roles own, as a member of them, and passes row security. More would be too much: a
//! member of `pg_read_all_data` reads the password verifiers of all tenants.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use shard_map::{Access, Server, TenantId};
use tokio_postgres::Row;

use super::connect::Params;
use super::database::TERMINATE_TIMEOUT;
use super::names::READ;
use super::registry::IDLE_TIMEOUT;
use super::{Connection, Connector, MOVE_SCHEMA, ident, roles};
use crate::context::{Work, back_off};
use crate::error::{Error, Result};
use crate::failpoint::reach;

/// What it may, beside reading.
const ATTRIBUTES: &str = "NOSUPERUSER BYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION";
/// Sessions that a database which takes none takes while readers log in. No router leads there.
const SESSIONS_MAX: i32 = 64;
/// How long is waited for a place in a database whose own connection limit is used up.
const PLACE_TIMEOUT: Duration = Duration::from_mins(1);
/// How often it is looked whether sessions that were ended are gone.
const POLL: Duration = Duration::from_millis(5);

/// The reader of one operation at one server. What it does is boxed: the futures of moves are deep as they are.
#[derive(Clone)]
pub(crate) struct Reader {
    connector: Connector,
    server: Server,
    tenant: TenantId,
    operation: i64,
    term: i64,
}

impl Reader {
    pub(crate) fn of(work: &Work, server: &Server, tenant: &TenantId) -> Self {
        Self {
            connector: work.context.connector.clone(),
            server: server.clone(),
            tenant: tenant.clone(),
            operation: work.operation.id,
            term: work.term,
        }
    }

    pub(crate) fn role(&self) -> String {
        format!("{READ}{}", self.operation)
    }

    /// Its name and its password.
    pub(crate) fn login(&self) -> (String, String) {
        (self.role(), self.connector.key().read_password(self.operation))
    }

    /// A session in the registry that keeps no lock when this process stands still.
    async fn registry(&self) -> Result<Connection> {
        let registry = self.connector.registry(&self.server).await?;
        let limit = IDLE_TIMEOUT.as_millis();
        registry.run(&format!("SET idle_in_transaction_session_timeout = {limit}")).await?;
        Ok(registry)
    }

    /// Makes the role, or what it lacks.
    pub(crate) fn put(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.put_role())
    }

    async fn put_role(&self) -> Result<()> {
        let registry = self.registry().await?;
        let (role, password) = self.login();
        // Behind the fence, so that what a dead controller was about to make is there, or never will be.
        registry.run(&format!("BEGIN; SELECT public.check_term({})", self.term)).await?;
        let login = roles::login(&registry, &role, ATTRIBUTES, &password).await?;
        let tenants = Access::ALL.map(|access| ident(&access.role(&self.tenant))).join(", ");
        registry.run(&format!("{login}; GRANT {tenants} TO {}; COMMIT", ident(&role))).await?;
        reach("read_put").await;
        Ok(())
    }

    /// Opens sessions in one of the tenant's databases, also where none but superusers are let in: it opens for the moment.
    pub(crate) fn sessions<'a>(
        &'a self,
        database: &'a str,
        count: usize,
    ) -> BoxFuture<'a, Result<Vec<Connection>>> {
        Box::pin(self.open(database, count))
    }

    async fn open(&self, database: &str, count: usize) -> Result<Vec<Connection>> {
        let registry = self.registry().await?;
        let began = Instant::now();
        let mut opened = Vec::with_capacity(count);
        let mut tries = 0;
        while opened.len() < count {
            self.set_door(&registry, SESSIONS_MAX).await?;
            match self.connector.as_reader(&self.server, &self.login(), database).await {
                Ok(session) => opened.push(session),
                Err(error) if error.sqlstate() == Some("53300") && began.elapsed() < PLACE_TIMEOUT => {
                    tries += 1;
                    back_off(tries).await;
                }
                Err(error) => {
                    self.set_door(&registry, 0).await?;
                    return Err(error);
                }
            }
        }
        self.set_door(&registry, 0).await?;
        Ok(opened)
    }

    async fn set_door(&self, registry: &Connection, limit: i32) -> Result<()> {
        if set_door(registry, self.term, &self.tenant, limit).await? && limit > 0 {
            reach("read_door").await;
        }
        Ok(())
    }

    /// Drops the role, if it is there, with whatever code that ran as it has made; and closes what one that died has left open.
    /// One that has something in a database which can't be connected to stays until that is dropped.
    pub(crate) fn remove(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.drop_it())
    }

    async fn drop_it(&self) -> Result<()> {
        const THERE: &str = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
        let registry = self.registry().await?;
        self.set_door(&registry, 0).await?;
        let name = self.role();
        if !registry.value::<bool>(THERE, &[&name]).await? {
            return Ok(());
        }
        drop_role(&self.connector, &self.server, (&registry, self.term), &name).await?;
        reach("read_dropped").await;
        Ok(())
    }
}

/// Sets the connection limit of a tenant's database, if that is one which nobody is let into, and says whether it did. What lets
/// them in says so on record first, under the same lock. It lets in all roles or none: a suspended tenant's is never opened.
pub(crate) async fn set_door(
    registry: &Connection,
    term: i64,
    tenant: &TenantId,
    limit: i32,
) -> Result<bool> {
    const CLOSED: &str = "
        SELECT t.database FROM public.tenant t JOIN pg_catalog.pg_database d ON d.datname = t.database
        WHERE t.id = $1 AND (t.state IN ('arriving', 'sealed') OR t.state = 'suspended' AND $2 = 0)
            AND d.datconnlimit NOT IN ($2, -2)";
    registry.run(&format!("BEGIN; SELECT public.check_term({term})")).await?;
    let closed = registry.row(CLOSED, &[&tenant.as_str(), &limit]).await?;
    if let Some(row) = &closed {
        let database = ident(row.get(0));
        registry.run(&format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}")).await?;
    }
    registry.run("COMMIT").await?;
    Ok(closed.is_some())
}

/// Drops a reader's role, with its sessions and what it has.
pub(crate) async fn drop_role(
    connector: &Connector,
    server: &Server,
    (registry, term): (&Connection, i64),
    name: &str,
) -> Result<()> {
    let role = ident(name);
    registry.run(&format!("SELECT public.check_term({term}); ALTER ROLE {role} NOLOGIN")).await?;
    end_sessions(registry, name).await?;
    const WHERE_IT_HAS_SOMETHING: &str = "
        SELECT DISTINCT d.datname::text, d.datconnlimit <> -2 FROM pg_catalog.pg_shdepend s
        JOIN pg_catalog.pg_database d ON d.oid = s.dbid JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid
        WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND r.rolname = $1 ORDER BY 2 DESC";
    for row in registry.rows(WHERE_IT_HAS_SOMETHING, &[&name]).await? {
        let (database, is_valid): (&str, bool) = (row.get(0), row.get(1));
        if !is_valid {
            tracing::warn!(
                role = name,
                database,
                "the database is invalid: the role stays until it is dropped"
            );
            return Ok(());
        }
        let database = connector.database(server, database).await?;
        database.run(&format!("SET {MOVE_SCHEMA}.move = 'on'; DROP OWNED BY {role} CASCADE")).await?;
        database.close().await;
    }
    registry.run(&format!("SELECT public.check_term({term}); DROP OWNED BY {role}; DROP ROLE {role}")).await
}

async fn end_sessions(registry: &Connection, role: &str) -> Result<()> {
    const END: &str =
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE usename = $1";
    let deadline = Instant::now() + TERMINATE_TIMEOUT;
    while !registry.rows(END, &[&role]).await?.is_empty() {
        if Instant::now() >= deadline {
            return Err(Error::Timeout(format!("sessions of role {role} did not end in time")));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Removes readers. What a server that does not answer has of them is left for later.
pub(crate) async fn remove_all(readers: impl IntoIterator<Item = Reader>) -> Result<()> {
    for reader in readers {
        match reader.remove().await {
            Err(error @ Error::ServerUnreachable { .. }) => {
                tracing::warn!(operation = reader.operation, %error, "the reader's role is left for later");
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Reads in a transaction that is rolled back: no function that runs in it can write, and what it sets goes with it.
pub(crate) async fn rows(session: &Connection, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
    let client = session.client();
    // Each pair goes out at once.
    let (begun, statement) = tokio::join!(session.run("BEGIN READ ONLY"), client.prepare(sql));
    begun?;
    let statement = statement.map_err(|e| session.error(&e));
    let (rows, ended) = match &statement {
        Ok(statement) => tokio::join!(client.query(statement, params), session.run("ROLLBACK")),
        Err(_) => (Ok(Vec::new()), session.run("ROLLBACK").await),
    };
    // What went wrong first says why.
    statement?;
    let rows = rows.map_err(|e| session.error(&e))?;
    ended.map(|()| rows)
}
