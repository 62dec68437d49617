//! What stands in the way of a move, all at once, each with its remedy; before anything is touched.

use catalog::NEIGHBOURS_NAMED_MAX;
use serde::Serialize;
use shard_map::{Access, Server, TenantId};

use crate::context::Context;
use crate::error::Result;
use crate::server::tables::{self, IS_TENANTS};
use crate::server::{CONTROL_ROLE, Connection, database};

/// Whether a finding forbids the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// The move is refused.
    Error,
    /// The move goes on, and the operator should know.
    Warning,
}

/// Something that was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// All that was found, and how much there is to copy.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Preflight {
    pub(crate) findings: Vec<Finding>,
    pub(crate) tables: usize,
    pub(crate) rows_estimate: i64,
    pub(crate) bytes: i64,
}

impl Preflight {
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level == Level::Error)
    }

    fn add(&mut self, level: Level, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding { level, what: what.into(), remedy: remedy.into() });
    }
}

/// An open transaction anywhere on the source delays the slot; one older than this will be told.
const OLD_TRANSACTION_SECONDS: f64 = 10.0;

/// Looks at both sides.
pub(crate) async fn run(
    context: &Context,
    id: &TenantId,
    source: &Server,
    target: &Server,
) -> Result<Preflight> {
    let connection = context.connector.database(source, id.live_database()).await?;
    let target_registry = context.connector.registry(target).await?;
    let tables = tables::list(&connection).await?;
    let mut found = Preflight {
        findings: Vec::new(),
        tables: tables.len(),
        rows_estimate: tables.iter().map(|table| table.rows_estimate).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
    };
    settings(&mut found, &connection, source, &target_registry, target).await?;
    for probe in PROBES {
        // Each probe is one query that gives a line for each thing that is in the way.
        let sql = probe.sql.replace("{IS_TENANTS}", IS_TENANTS);
        for row in connection.rows(&sql, &[]).await? {
            found.add(probe.level, format!("{}: {}", probe.what, row.get::<_, String>(0)), probe.remedy);
        }
    }
    roles(&mut found, &connection, id, &target_registry, target).await?;
    extensions(&mut found, &connection, &target_registry, target).await?;
    for (name, remedy) in [
        (
            id.live_database().to_owned(),
            "find out whose it is; a tenant's database may exist on one server only",
        ),
        (id.arriving_database(), "find the move that it belongs to, or drop it"),
    ] {
        if database::exists(&target_registry, &name).await? {
            found.add(Level::Error, format!("server {} has a database {name} already", target.name), remedy);
        }
    }
    old_transactions(&mut found, &connection).await?;
    pinned_sessions(&mut found, context, id).await?;
    neighbours(&mut found, context, id, target).await?;
    Ok(found)
}

/// A question to the source's database.
struct Probe {
    level: Level,
    what: &'static str,
    remedy: &'static str,
    sql: &'static str,
}

const PROBES: [Probe; 12] = [
    Probe {
        level: Level::Error,
        what: "large objects are not replicated",
        remedy: "move them into bytea columns first",
        sql: "SELECT count(*) || ' of them' FROM pg_catalog.pg_largeobject_metadata HAVING count(*) > 0",
    },
    Probe {
        level: Level::Error,
        what: "an unlogged table is not replicated",
        remedy: "ALTER TABLE … SET LOGGED, or drop it",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND c.relpersistence = 'u' AND {IS_TENANTS}",
    },
    Probe {
        level: Level::Error,
        what: "a foreign table leads to another place",
        remedy: "drop it, and make it again after the move",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f' AND {IS_TENANTS}",
    },
    Probe {
        level: Level::Error,
        what: "a replication slot reads this database",
        remedy: "end what consumes it, and drop the slot",
        sql: "SELECT slot_name::text FROM pg_catalog.pg_replication_slots
            WHERE database = current_database() AND slot_name NOT LIKE 'tenantry\\_%'",
    },
    Probe {
        level: Level::Error,
        what: "a subscription writes into this database",
        remedy: "drop the subscription first",
        sql: "SELECT subname::text FROM pg_catalog.pg_subscription s
            JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
            WHERE d.datname = current_database() AND subname NOT LIKE 'tenantry\\_%'",
    },
    Probe {
        level: Level::Error,
        what: "a prepared transaction is open",
        remedy: "COMMIT PREPARED or ROLLBACK PREPARED it",
        sql: "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()",
    },
    Probe {
        level: Level::Warning,
        what: "a prepared transaction of another database keeps a move from beginning",
        remedy: "COMMIT PREPARED or ROLLBACK PREPARED it there; the move begins when it has ended",
        sql: "SELECT format('%L in database %s', gid, database) FROM pg_catalog.pg_prepared_xacts
            WHERE database <> current_database() ORDER BY prepared LIMIT 5",
    },
    Probe {
        level: Level::Error,
        what: "pg_repack is at work, and what it does can't be seen",
        remedy: "wait for its end; if it was interrupted: DROP EXTENSION pg_repack CASCADE",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'repack' AND c.relkind = 'r' AND c.relname ~ '^log_[0-9]+$'",
    },
    Probe {
        level: Level::Error,
        what: "a schema has the name that moves use",
        remedy: "rename it",
        sql: "SELECT nspname::text FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
            WHERE nspname = 'tenantry' AND r.rolname <> 'tenantry_control'",
    },
    Probe {
        level: Level::Error,
        what: "a trigger fires for replicated changes, too, so its work would be done twice",
        remedy: "ALTER TABLE … ENABLE TRIGGER …, without ALWAYS or REPLICA",
        sql: "SELECT format('%s on %s', t.tgname, t.tgrelid::regclass) FROM pg_catalog.pg_trigger t
            WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')",
    },
    Probe {
        level: Level::Error,
        what: "an extension keeps rows of its user in tables of its own",
        remedy: "drop the extension, and make it again after the move",
        sql: "SELECT extname::text FROM pg_catalog.pg_extension WHERE extconfig IS NOT NULL",
    },
    Probe {
        level: Level::Warning,
        what: "every row change of a table without a usable key is replicated as a whole row",
        remedy: "nothing to do; a primary key would make the move faster",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {IS_TENANTS}
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique
                    AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid)",
    },
];

async fn settings(
    found: &mut Preflight,
    connection: &Connection,
    source: &Server,
    target_registry: &Connection,
    target: &Server,
) -> Result<()> {
    const SETTINGS: &str = "
        SELECT current_setting('wal_level'), current_setting('server_version_num')::int / 10000,
            current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots)::int,
            current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_replication)::int,
            (SELECT pg_catalog.pg_encoding_to_char(encoding) || ', ' || datcollate || ', ' || datctype
             FROM pg_catalog.pg_database WHERE datname = $1),
            current_setting('block_size')";
    let on_source = connection.row(SETTINGS, &[&"template0"]).await?;
    let on_target = target_registry.row(SETTINGS, &[&"template0"]).await?;
    let (Some(on_source), Some(on_target)) = (on_source, on_target) else { return Ok(()) };
    for (server, row) in [(source, &on_source), (target, &on_target)] {
        let (wal_level, slots, senders): (String, i32, i32) = (row.get(0), row.get(2), row.get(3));
        if wal_level != "logical" {
            let remedy = "ALTER SYSTEM SET wal_level = 'logical', and restart Postgres";
            found.add(Level::Error, format!("server {}: wal_level is {wal_level}", server.name), remedy);
        }
        for (setting, free) in [("max_replication_slots", slots), ("max_wal_senders", senders)] {
            if free < 1 {
                let remedy = format!("raise {setting}, or wait until another move has ended");
                found.add(Level::Error, format!("server {}: {setting} is used up", server.name), remedy);
            }
        }
    }
    if on_target.get::<_, i32>(1) < on_source.get::<_, i32>(1) {
        let remedy = "choose a server of the same or a newer version";
        found.add(
            Level::Error,
            format!("server {} has an older Postgres than {}", target.name, source.name),
            remedy,
        );
    }
    // A database of the target is made from its template0, so that is what must agree.
    let (here, there): (Option<String>, Option<String>) = (on_source.get(4), on_target.get(4));
    if here != there {
        let what = format!(
            "encoding and locale differ: {} on {}, {} on {}",
            here.unwrap_or_default(),
            source.name,
            there.unwrap_or_default(),
            target.name
        );
        found.add(Level::Error, what, "choose a server that was initialised with the same locale");
    }
    Ok(())
}

/// Roles beside the tenant's own that own or may use something here must exist on the target.
async fn roles(
    found: &mut Preflight,
    connection: &Connection,
    id: &TenantId,
    target_registry: &Connection,
    target: &Server,
) -> Result<()> {
    let mut known: Vec<String> = Access::ALL.map(|access| access.role(id)).into();
    known.push(CONTROL_ROLE.to_owned());
    const ROLES: &str = "
        SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_shdepend d JOIN pg_catalog.pg_roles r ON r.oid = d.refobjid
        WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass
            AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
            AND NOT r.rolname = ANY ($1) AND r.rolname NOT LIKE 'pg\\_%' AND r.rolname NOT LIKE 'tenantry\\_move\\_%'";
    for row in connection.rows(ROLES, &[&known]).await? {
        let role: String = row.get(0);
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
        if !target_registry.value::<bool>(there, &[&role]).await? {
            let what = format!(
                "role {role} owns or may use something here, and server {} has no such role",
                target.name
            );
            found.add(Level::Error, what, format!("create role {role} there first"));
        }
    }
    Ok(())
}

async fn extensions(
    found: &mut Preflight,
    connection: &Connection,
    target_registry: &Connection,
    target: &Server,
) -> Result<()> {
    for row in connection.rows("SELECT extname::text, extversion FROM pg_catalog.pg_extension", &[]).await? {
        let (name, version): (String, String) = (row.get(0), row.get(1));
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = $1)";
        if !target_registry.value::<bool>(there, &[&name]).await? {
            let what = format!("extension {name} {version} is not installed on server {}", target.name);
            found.add(Level::Error, what, "install its package there");
        }
    }
    Ok(())
}

async fn old_transactions(found: &mut Preflight, connection: &Connection) -> Result<()> {
    const OLD: &str = "
        SELECT pid, coalesce(datname::text, '?'), coalesce(usename::text, '?'),
            extract(epoch FROM clock_timestamp() - xact_start)::float8, coalesce(application_name, ''), coalesce(state, '?')
        FROM pg_catalog.pg_stat_activity
        WHERE xact_start < clock_timestamp() - $1 * interval '1 second' AND backend_xid IS NOT NULL
        ORDER BY xact_start LIMIT 5";
    for row in connection.rows(OLD, &[&OLD_TRANSACTION_SECONDS]).await? {
        let (pid, database, role, age): (i32, String, String, f64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let (application, state): (String, String) = (row.get(4), row.get(5));
        let what = format!(
            "a transaction of {role} in database {database} (pid {pid}, application {application:?}, {state}) is open for {age:.0} s"
        );
        found.add(Level::Warning, what, "the move begins when it has ended");
    }
    Ok(())
}

async fn pinned_sessions(found: &mut Preflight, context: &Context, id: &TenantId) -> Result<()> {
    for router in context.catalog.live_routers(context.config.router_timeout).await? {
        for (reason, count) in router.report.pinned.get(id.as_str()).into_iter().flatten() {
            let what = format!("{count} sessions at router {} can't be held ({reason})", router.name);
            found.add(
                Level::Warning,
                what,
                "they are ended with 57P01 at the switch, and their clients reconnect; with --wait-sessions the move waits for them",
            );
        }
    }
    Ok(())
}

/// A target that is named is taken whatever its neighbours are, as when a tenant is made: they are a wish.
async fn neighbours(found: &mut Preflight, context: &Context, id: &TenantId, target: &Server) -> Result<()> {
    let tenant = context.catalog.tenant(id).await?.tenant;
    let policy = context.policy().await?;
    let remedy = "the placement policy keeps them apart: choose another server, if that is still meant";
    let neighbours = context.catalog.anti_affine_on(&target.name, &tenant, &policy).await?;
    for (other, key) in neighbours.iter().take(NEIGHBOURS_NAMED_MAX) {
        let value = tenant.labels.get(key).unwrap_or_default();
        let what = format!("tenant {other} is on server {}, too, and both have {key}={value}", target.name);
        found.add(Level::Warning, what, remedy);
    }
    if neighbours.len() > NEIGHBOURS_NAMED_MAX {
        found.add(Level::Warning, format!("and more such tenants are on server {}", target.name), remedy);
    }
    Ok(())
}
