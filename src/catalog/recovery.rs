//! The catalog as recovery sees it and changes it: read as a whole, under locks if it is to be changed, and written in
//! one transaction by sets, so that 10,000 tenants take seconds and an interruption leaves nothing by half.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use shard_map::recovery::{CatalogServer, CatalogView, Changes, OperationChange};
use tokio_postgres::Transaction;

use crate::connect::{Target, connect_in_time, target};
use crate::error::{Error, Result};
use crate::query::{Catalog, Lent, Params, from_json, limited};

/// Two repairs at once would each undo the other's fence.
const LOCK: i64 = 0x7265_7061_6972_0000;
/// Who holds the lease after a repair: nobody, under a term that no server has passed.
const HOLDER: &str = "map repair";

/// What is written beside the changes themselves.
#[derive(Debug, Clone, Copy)]
pub struct Writing {
    /// The term under which registries were fenced; `None` when they were not.
    pub term: Option<i64>,
    /// How long the sealed copy of a move that is taken up is kept, in seconds.
    pub keep_sealed_s: u64,
}

impl Catalog {
    /// Makes the catalog's database if it is not there. Returns whether it made it.
    ///
    /// # Errors
    /// [`Error::Unreachable`]; [`Error::Query`] when the URL's user may not make databases.
    pub async fn create_database(url: &str) -> Result<bool> {
        let target = target(url)?;
        let database = target.config.get_dbname().unwrap_or("postgres").to_owned();
        if Self::is_there(&target).await? {
            return Ok(false);
        }
        let mut elsewhere = target.clone();
        elsewhere.config.dbname("postgres");
        let (client, connection) = connect_in_time(&elsewhere).await?;
        let connection = tokio::spawn(connection);
        let sql = format!("CREATE DATABASE \"{}\"", database.replace('"', "\"\""));
        let made = limited("database_create", client.batch_execute(&sql)).await;
        connection.abort();
        made.map(|()| true)
    }

    /// Whether the catalog's database exists.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Url`].
    pub async fn database_exists(url: &str) -> Result<bool> {
        Self::is_there(&target(url)?).await
    }

    async fn is_there(target: &Target) -> Result<bool> {
        match connect_in_time(target).await {
            Ok(_) => Ok(true),
            Err(Error::Query { sqlstate: Some(state), .. }) if state == "3D000" => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// The whole catalog as of one moment. One that has no tables yet is empty.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn recovery_view(&self, numbers: &[i64]) -> Result<CatalogView> {
        let mut client = self.client().await?;
        let begin =
            client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
        let transaction = limited("recovery_begin", begin.read_only(true).start()).await?;
        let view = view(&transaction, numbers).await?;
        limited("recovery_end", transaction.commit()).await?;
        client.keep();
        Ok(view)
    }

    /// Begins a repair; only one at a time.
    ///
    /// # Errors
    /// [`Error::Conflict`] when another one is under way.
    pub async fn repair(&self) -> Result<Repair> {
        // Never kept: the lock ends with the connection, however this ends.
        let client = self.client().await?;
        let locked =
            limited("repair_lock", client.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])).await?;
        if !locked.get::<_, bool>(0) {
            return Err(Error::Conflict("another repair of the map is under way".to_owned()));
        }
        Ok(Repair { client })
    }
}

/// A repair under way. The lock goes with its connection.
pub struct Repair {
    client: Lent,
}

impl Repair {
    /// Opens the catalog for change: nobody else writes to it until this is committed or dropped.
    ///
    /// # Errors
    /// When the catalog can't be reached, or somebody keeps it locked.
    pub async fn open(&mut self) -> Result<Opened<'_>> {
        let client: &mut tokio_postgres::Client = &mut self.client;
        let transaction = limited("repair_begin", client.transaction()).await?;
        const LOCKS: &str = "
            LOCK TABLE lease, map_version, fleet, server, tenant, router_user, hold, operation, operation_step,
                placement_policy IN SHARE ROW EXCLUSIVE MODE";
        limited("repair_locks", transaction.batch_execute(LOCKS)).await?;
        Ok(Opened { transaction })
    }
}

/// The catalog, open for change.
pub struct Opened<'a> {
    transaction: Transaction<'a>,
}

impl Opened<'_> {
    /// The catalog as it is and stays until it is changed here.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn view(&self, numbers: &[i64]) -> Result<CatalogView> {
        view(&self.transaction, numbers).await
    }

    /// Writes changes. They count once they are committed.
    ///
    /// # Errors
    /// [`Error::Conflict`] when a tenant's epoch would go back; [`Error::Query`].
    pub async fn write(&self, changes: &Changes, writing: Writing) -> Result<()> {
        if let Some(fleet) = &changes.fleet {
            const FLEET: &str =
                "INSERT INTO fleet (id) VALUES ($1) ON CONFLICT (one) DO UPDATE SET id = excluded.id";
            self.execute("repair_fleet", FLEET, &[fleet]).await?;
        }
        if let Some(term) = writing.term {
            const TERM: &str = "
                INSERT INTO lease (holder, term, expires_at) VALUES ($1, $2, '-infinity')
                ON CONFLICT (one) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at,
                    term = greatest(lease.term, excluded.term)";
            self.execute("repair_term", TERM, &[&HOLDER, &term]).await?;
        }
        self.raise_version(changes).await?;
        if let Some(policy) = &changes.policy {
            const POLICY: &str = "
                INSERT INTO placement_policy (policy) VALUES ($1)
                ON CONFLICT (one) DO UPDATE SET policy = excluded.policy";
            self.execute("repair_policy", POLICY, &[&json!(policy)]).await?;
        }
        self.put_map(changes).await?;
        self.put_operations(changes, writing.keep_sealed_s).await
    }

    /// Makes it so.
    ///
    /// # Errors
    /// When the catalog can't be reached: whether it is so must be looked up then.
    pub async fn commit(self) -> Result<()> {
        limited("repair_commit", self.transaction.commit()).await
    }

    /// Past every version that a router may have: the time in milliseconds is, as no catalog changes a thousand times
    /// a second for long. The log is emptied, so that every router loads the map as a whole.
    async fn raise_version(&self, changes: &Changes) -> Result<()> {
        let Some(above) = changes.version_above else { return Ok(()) };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let version = i64::try_from(now).unwrap_or(i64::MAX).max(above + 1);
        const VERSION: &str = "
            INSERT INTO map_version (version) VALUES ($1)
            ON CONFLICT (one) DO UPDATE SET version = greatest(map_version.version + 1, excluded.version)";
        self.execute("repair_version", VERSION, &[&version]).await?;
        self.execute("repair_log", "DELETE FROM change_log", &[]).await?;
        self.execute("repair_notify", "SELECT pg_notify('tenantry_map', $1)", &[&version.to_string()])
            .await
            .map(drop)
    }

    async fn put_map(&self, changes: &Changes) -> Result<()> {
        const SERVERS: &str = "
            INSERT INTO server (name, host, port, class, max_connections, labels, state, capacity,
                system_identifier)
            SELECT s.name, s.host, s.port, s.class, s.max_connections, s.labels, s.state,
                coalesce(s.capacity, '{}'), s.system_identifier
            FROM jsonb_to_recordset($1) AS s (name text, host text, port int, class text,
                max_connections int, labels jsonb, state text, capacity jsonb, system_identifier bigint)
            ON CONFLICT (name) DO UPDATE SET host = excluded.host, port = excluded.port, class = excluded.class,
                max_connections = excluded.max_connections, labels = excluded.labels, state = excluded.state,
                capacity = excluded.capacity, system_identifier = excluded.system_identifier";
        const TENANTS: &str = "
            INSERT INTO tenant (id, server, epoch, state, labels, key_version, schema_version, quota, read_only,
                deleted_at)
            SELECT t.id, t.server, t.epoch, t.state, t.labels, t.key_version, t.schema_version,
                coalesce(t.quota, '{}'), coalesce(t.read_only, false), CASE WHEN t.state = 'deleted' THEN now() END
            FROM jsonb_to_recordset($1) AS t (id text, server text, epoch bigint, state text, labels jsonb,
                key_version int, schema_version int, quota jsonb, read_only boolean)
            ON CONFLICT (id) DO UPDATE SET server = excluded.server, epoch = excluded.epoch,
                state = excluded.state, labels = excluded.labels, key_version = excluded.key_version,
                schema_version = excluded.schema_version, quota = excluded.quota,
                read_only = excluded.read_only,
                deleted_at = CASE WHEN excluded.state = 'deleted' THEN coalesce(tenant.deleted_at, now()) END
            WHERE tenant.epoch <= excluded.epoch";
        const USERS: &str = "
            INSERT INTO router_user (name, verifier, tenants, access, pool_mode)
            SELECT u.* FROM jsonb_to_recordset($1) AS u (name text, verifier text, tenants text, access text,
                pool_mode text)
            ON CONFLICT (name) DO UPDATE SET verifier = excluded.verifier, tenants = excluded.tenants,
                access = excluded.access, pool_mode = excluded.pool_mode";
        self.put("repair_servers", SERVERS, &json!(changes.servers), changes.servers.len()).await?;
        self.put("repair_tenants", TENANTS, &json!(changes.tenants), changes.tenants.len()).await?;
        self.put("repair_users", USERS, &json!(changes.users), changes.users.len()).await?;
        if !changes.gone.is_empty() {
            let gone: Vec<&str> = changes.gone.iter().map(shard_map::TenantId::as_str).collect();
            self.execute("repair_gone", "DELETE FROM tenant WHERE id = ANY ($1)", &[&gone]).await?;
        }
        Ok(())
    }

    async fn put(&self, name: &'static str, sql: &str, rows: &Value, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let written = self.execute(name, sql, &[rows]).await.map_err(|e| {
            if e.is_unique_violation() {
                Error::Conflict("two servers would have one address or be one Postgres cluster".to_owned())
            } else {
                e
            }
        })?;
        if usize::try_from(written).ok() == Some(count) {
            return Ok(());
        }
        Err(Error::Conflict("the catalog has higher epochs than it had a moment ago: try again".to_owned()))
    }

    async fn put_operations(&self, changes: &Changes, keep_sealed_s: u64) -> Result<()> {
        for change in &changes.operations {
            match change {
                OperationChange::End { id, state, why } => {
                    const END: &str = "
                        WITH closed AS (
                            UPDATE operation_step SET ended_at = clock_timestamp(), result = $3
                            WHERE operation = $1 AND ended_at IS NULL)
                        UPDATE operation SET state = $2, error = $3, updated_at = now() WHERE id = $1";
                    let why = format!("ended by map rebuild: {why}");
                    self.execute("repair_end", END, &[id, state, &why]).await?;
                }
                OperationChange::TakeUp { id, tenant, from, to, step, abort_requested } => {
                    const TAKE_UP: &str = "
                        INSERT INTO operation (id, kind, tenant, state, step, input, data, abort_requested)
                        OVERRIDING SYSTEM VALUE VALUES ($1, 'move', $2, $3, $4, $5, $6, $7)
                        ON CONFLICT (id) DO UPDATE SET state = excluded.state, step = excluded.step,
                            input = excluded.input, data = operation.data || excluded.data,
                            abort_requested = excluded.abort_requested, updated_at = now()";
                    let state = if *step == "switched" { "switched" } else { "running" };
                    let input = json!({
                        "from": from, "to": to, "max_hold_ms": 2000, "verify": "none", "keep_sealed_s": keep_sealed_s,
                    });
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                    let data = json!({ "keep_until": now.saturating_add(keep_sealed_s) });
                    let params: Params<'_> =
                        &[id, &tenant.as_str(), &state, step, &input, &data, abort_requested];
                    self.execute("repair_take_up", TAKE_UP, params).await?;
                }
            }
        }
        if let Some(number) = changes.operation_number {
            const NUMBER: &str = "SELECT setval(pg_get_serial_sequence('operation', 'id'), $1)";
            self.execute("repair_number", NUMBER, &[&number]).await?;
        }
        Ok(())
    }

    async fn execute(&self, name: &'static str, sql: &str, params: Params<'_>) -> Result<u64> {
        limited(name, self.transaction.execute(sql, params)).await
    }
}

async fn view(transaction: &Transaction<'_>, numbers: &[i64]) -> Result<CatalogView> {
    const READY: &str = "SELECT to_regclass('placement_policy') IS NOT NULL";
    const HEAD: &str = "
        SELECT (SELECT id FROM fleet), coalesce((SELECT term FROM lease), 0), (SELECT version FROM map_version),
            coalesce((SELECT max(map_version) FROM router), 0),
            (SELECT policy FROM placement_policy),
            (SELECT greatest(CASE WHEN is_called THEN last_value ELSE last_value - 1 END,
                (SELECT max(id) FROM operation)) FROM operation_id_seq)";
    const OPERATIONS: &str = "
        SELECT jsonb_build_object('id', id, 'kind', kind, 'tenant', tenant, 'state', state, 'step', step,
            'from', CASE WHEN kind = 'move' THEN input->'from' END, 'to', CASE WHEN kind = 'move' THEN input->'to' END,
            'becomes', CASE WHEN kind = 'rename' THEN input->'to' END)
        FROM operation WHERE state IN ('running', 'switched') OR id = ANY ($1)";
    let ready = limited("recovery_ready", transaction.query_one(READY, &[])).await?;
    if !ready.get::<_, bool>(0) {
        return Ok(CatalogView::default());
    }
    let head = limited("recovery_head", transaction.query_one(HEAD, &[])).await?;
    let mut view = CatalogView {
        fleet: head.get(0),
        term: head.get(1),
        version: head.get(2),
        routers_version: head.get(3),
        operation_number: head.get(5),
        ..CatalogView::default()
    };
    if let Some(policy) = head.get::<_, Option<Value>>(4) {
        let unreadable = |e: serde_json::Error| Error::Query {
            name: "recovery_head",
            message: e.to_string(),
            sqlstate: None,
        };
        view.policy = Some(serde_json::from_value(policy).map_err(unreadable)?);
    }
    let rows = |name, sql, params| async move { limited(name, transaction.query(sql, params)).await };
    for row in &rows("recovery_servers", "SELECT to_jsonb(s) FROM server s", &[]).await? {
        let server: CatalogServer = from_json("recovery_servers", row)?;
        view.servers.insert(server.server.name.clone(), server);
    }
    for row in &rows("recovery_tenants", "SELECT to_jsonb(t) FROM tenant t", &[]).await? {
        let tenant: shard_map::Tenant = from_json("recovery_tenants", row)?;
        view.tenants.insert(tenant.id.clone(), tenant);
    }
    for row in &rows("recovery_users", "SELECT to_jsonb(u) FROM router_user u", &[]).await? {
        let user: shard_map::User = from_json("recovery_users", row)?;
        view.users.insert(user.name.clone(), user);
    }
    let operations = limited("recovery_operations", transaction.query(OPERATIONS, &[&numbers])).await?;
    for row in &operations {
        let operation: shard_map::recovery::OperationView = from_json("recovery_operations", row)?;
        view.operations.insert(operation.id, operation);
    }
    Ok(view)
}
