//! What both servers must have: settings, room for slots, workers and connections, locale, roles, extensions.

use shard_map::{Access, Server, TenantId};

use super::{Level, Preflight, Sides};
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::CONTROL_ROLE;
use crate::server::names::OWN_ROLES;

/// Connections that a move takes on a server beside its workers'.
const CONNECTIONS_BESIDE_WORKERS: usize = 6;

/// What is asked of each side.
#[derive(serde::Deserialize)]
struct Facts {
    wal_level: String,
    /// 15 for 15.4.
    major: i32,
    slots_free: i64,
    senders_free: i64,
    workers_free: i64,
    connections_free: i64,
    /// Standbys must acknowledge commits, and none does.
    waits_for_standby: bool,
    /// From 18 on: when a slot that nobody reads is given up. "0": never.
    idle_slot_timeout: Option<String>,
}

const FACTS: &str = "
    SELECT pg_catalog.jsonb_build_object(
        'wal_level', current_setting('wal_level'), 'major', current_setting('server_version_num')::int / 10000,
        'slots_free', current_setting('max_replication_slots')::int - (SELECT count(*) FROM pg_catalog.pg_replication_slots),
        'senders_free', current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_catalog.pg_stat_replication),
        'workers_free', current_setting('max_logical_replication_workers')::int
            - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type LIKE 'logical replication%worker'),
        'connections_free', current_setting('max_connections')::int
            - (SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE backend_type = 'client backend'),
        'waits_for_standby', current_setting('synchronous_standby_names') <> '' AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
        'idle_slot_timeout', nullif(current_setting('idle_replication_slot_timeout', true), '0'))";

pub(super) async fn look(found: &mut Preflight, context: &Context, sides: &Sides<'_>) -> Result<()> {
    let connections = (context.config.copy_workers + CONNECTIONS_BESIDE_WORKERS) as i64;
    let mut majors = Vec::new();
    for (server, connection) in sides.each() {
        let facts: Facts = serde_json::from_value(connection.value(FACTS, &[]).await?)
            .map_err(|e| Error::Failed(format!("server {}: {e}", server.name)))?;
        judge(found, server, &facts, connections);
        majors.push(facts.major);
    }
    if majors[1] < majors[0] {
        let what = format!("server {} has an older Postgres than {}", sides.target.name, sides.source.name);
        found.add(Level::Error, "older_version", what, "choose a server of the same or a newer version");
    }
    locale(found, sides).await
}

fn judge(found: &mut Preflight, server: &Server, facts: &Facts, connections: i64) {
    let name = &server.name;
    if facts.wal_level != "logical" {
        let what = format!("server {name}: wal_level is {}", facts.wal_level);
        let remedy = "ALTER SYSTEM SET wal_level = 'logical', and restart Postgres";
        found.add(Level::Error, "wal_level", what, remedy);
    }
    // The source needs a worker, too: it follows the target after the switch.
    for (setting, free) in [
        ("max_replication_slots", facts.slots_free),
        ("max_wal_senders", facts.senders_free),
        ("max_logical_replication_workers", facts.workers_free),
    ] {
        if free < 1 {
            let remedy = format!("raise {setting}, or wait until another move has ended");
            found.add(Level::Error, setting, format!("server {name}: {setting} is used up"), remedy);
        }
    }
    if facts.connections_free < connections {
        let free = facts.connections_free;
        let what = format!("server {name}: {free} connections are free, and a move takes {connections}");
        found.add(
            Level::Error,
            "max_connections",
            what,
            "raise max_connections, or end what does not need its own",
        );
    }
    if facts.waits_for_standby {
        let what =
            format!("server {name}: no standby of synchronous_standby_names is connected, so commits hang");
        found.add(Level::Error, "standby_missing", what, "bring the standby back, or take it off that list");
    }
    if let Some(timeout) = &facts.idle_slot_timeout {
        let what = format!("server {name}: slots that are not read are given up after {timeout}");
        let remedy = "set idle_replication_slot_timeout to 0 there, or a move that has to wait begins anew";
        found.add(Level::Warning, "idle_slot_timeout", what, remedy);
    }
}

/// A database of the target is made from its template0, so that is what the tenant's must agree with.
async fn locale(found: &mut Preflight, sides: &Sides<'_>) -> Result<()> {
    // Columns came with versions: the ICU locale was renamed in 17, its rules came with 16.
    const LOCALE: &str = "
        SELECT pg_catalog.concat_ws(', ', pg_catalog.pg_encoding_to_char(d.encoding), d.datcollate, d.datctype,
                CASE d.datlocprovider WHEN 'i' THEN 'ICU' WHEN 'b' THEN 'builtin' END,
                coalesce(j->>'datlocale', j->>'daticulocale'), j->>'daticurules'),
            pg_catalog.pg_database_collation_actual_version(d.oid)
        FROM pg_catalog.pg_database d, pg_catalog.to_jsonb(d) j
        WHERE d.datname = coalesce($1::text, pg_catalog.current_database())";
    let here = sides.on_source.row(LOCALE, &[&None::<&str>]).await?;
    let there = sides.on_target.row(LOCALE, &[&"template0"]).await?;
    let (Some(here), Some(there)) = (here, there) else { return Ok(()) };
    let ((here, version_here), (there, version_there)): ((String, Option<String>), (String, Option<String>)) =
        ((here.get(0), here.get(1)), (there.get(0), there.get(1)));
    let (source, target) = (&sides.source.name, &sides.target.name);
    if here != there {
        let what = format!("encoding and locale differ: {here} on {source}, {there} on {target}");
        let remedy = "choose a server that was initialised with the same locale";
        found.add(Level::Error, "locale", what, remedy);
    } else if version_here != version_there {
        let [here, there] = [version_here, version_there].map(|version| version.unwrap_or("none".to_owned()));
        let what = format!("the collation's version is {here} on {source} and {there} on {target}");
        let remedy = "text may sort otherwise there: choose a server with the same C library, unless that is nobody's concern";
        found.add(Level::Warning, "collation_version", what, remedy);
    }
    Ok(())
}

/// Roles beside the tenant's own that own or may use something here must exist on the target.
pub(super) async fn roles(found: &mut Preflight, sides: &Sides<'_>, id: &TenantId) -> Result<()> {
    let tenants = Access::ALL.map(|access| access.role(id));
    const POWERFUL: &str = "
        SELECT rolname::text FROM pg_catalog.pg_roles r WHERE rolname = ANY ($1) AND (EXISTS (
            SELECT FROM pg_catalog.pg_roles s WHERE s.rolsuper AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER')) OR EXISTS (
            SELECT FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database() AND datdba = r.oid))";
    for row in sides.on_source.rows(POWERFUL, &[&tenants.as_slice()]).await? {
        let role: String = row.get(0);
        let what = format!("role {role} is a superuser or owns the database, so it could lift the fence");
        let remedy = format!("ALTER ROLE {role} NOSUPERUSER; ALTER DATABASE … OWNER TO {CONTROL_ROLE}");
        found.add(Level::Error, "powerful_role", what, remedy);
    }
    powerful_there(found, sides, &tenants).await?;
    let sql = format!(
        "WITH here AS (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()),
        own AS (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = ANY ($2))
        SELECT DISTINCT r.rolname::text FROM (
            SELECT d.refobjid FROM pg_catalog.pg_shdepend d, here
            WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND (d.dbid = here.oid
                OR d.classid = 'pg_catalog.pg_database'::regclass AND d.objid = here.oid)
            UNION ALL SELECT m.roleid FROM pg_catalog.pg_auth_members m WHERE m.member IN (SELECT oid FROM own)
            UNION ALL SELECT m.member FROM pg_catalog.pg_auth_members m WHERE m.roleid IN (SELECT oid FROM own)
        ) others (oid) JOIN pg_catalog.pg_roles r USING (oid)
        WHERE NOT r.rolname = ANY ($1) AND r.rolname NOT LIKE 'pg\\_%'
            AND r.rolname !~ '{OWN_ROLES}' ORDER BY 1"
    );
    let mut known = tenants.to_vec();
    known.push(CONTROL_ROLE.to_owned());
    for row in sides.on_source.rows(&sql, &[&known, &tenants.as_slice()]).await? {
        let role: String = row.get(0);
        let there = "SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)";
        if !sides.on_target.value::<bool>(there, &[&role]).await? {
            let target = &sides.target.name;
            let what = format!(
                "role {role} owns or may use something here, or is a member of a role here or has one as its member, and server {target} has no such role"
            );
            found.add(Level::Error, "missing_role", what, format!("create role {role} there first"));
        }
    }
    Ok(())
}

/// Memberships go along by name, and a name may stand for more on the target.
async fn powerful_there(found: &mut Preflight, sides: &Sides<'_>, tenants: &[String]) -> Result<()> {
    const GRANTED: &str = "
        SELECT DISTINCT g.rolname::text FROM pg_catalog.pg_auth_members m
        JOIN pg_catalog.pg_roles g ON g.oid = m.roleid JOIN pg_catalog.pg_roles t ON t.oid = m.member
        WHERE t.rolname = ANY ($1)";
    const POWERFUL: &str = "
        SELECT rolname::text FROM pg_catalog.pg_roles r WHERE rolname = ANY ($1) AND EXISTS (
            SELECT FROM pg_catalog.pg_roles s WHERE s.rolsuper AND pg_catalog.pg_has_role(r.oid, s.oid, 'MEMBER'))";
    let granted: Vec<String> =
        sides.on_source.rows(GRANTED, &[&tenants]).await?.iter().map(|row| row.get(0)).collect();
    for row in sides.on_target.rows(POWERFUL, &[&granted]).await? {
        let (role, target) = (row.get::<_, String>(0), &sides.target.name);
        let what =
            format!("a role of the tenant is a member of {role}, which is a superuser on server {target}");
        let remedy = format!("REVOKE {role} from it, or take the power from {role} there");
        found.add(Level::Error, "powerful_role", what, remedy);
    }
    Ok(())
}

pub(super) async fn extensions(found: &mut Preflight, sides: &Sides<'_>) -> Result<()> {
    let target = &sides.target.name;
    let installed = "SELECT extname::text, extversion FROM pg_catalog.pg_extension ORDER BY 1";
    for row in sides.on_source.rows(installed, &[]).await? {
        let (name, version): (String, String) = (row.get(0), row.get(1));
        // It is made there in the version that is the default there.
        const THERE: &str = "
            SELECT default_version, EXISTS (
                SELECT FROM pg_catalog.pg_available_extension_versions v WHERE v.name = e.name AND v.version = $2)
            FROM pg_catalog.pg_available_extensions e WHERE e.name = $1";
        let Some(there) = sides.on_target.row(THERE, &[&name, &version]).await? else {
            let what = format!("extension {name} {version} is not installed on server {target}");
            found.add(Level::Error, "missing_extension", what, "install its package there");
            continue;
        };
        let (default, is_there): (Option<String>, bool) = (there.get(0), there.get(1));
        let default = default.unwrap_or_default();
        if !is_there {
            let what = format!("extension {name} is {version} here and {default} on server {target}");
            let remedy = "see what changed between these versions; install the same package there if the tenant needs it";
            found.add(Level::Warning, "extension_version", what, remedy);
        }
    }
    Ok(())
}
