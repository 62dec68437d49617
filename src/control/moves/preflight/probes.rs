//! Questions to the source's database: each is one query that gives a line for each thing that is in the way.

use super::{Level, Preflight, held};
use crate::error::Result;
use crate::server::Connection;
use crate::server::tables::IS_TENANTS;

/// A question to the source's database.
struct Probe {
    level: Level,
    code: &'static str,
    what: &'static str,
    remedy: &'static str,
    sql: &'static str,
}

const PROBES: [Probe; 13] = [
    Probe {
        level: Level::Error,
        code: "foreign_table",
        what: "a foreign table leads to another place",
        remedy: "drop it, and make it again after the move",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'f' AND {IS_TENANTS}",
    },
    Probe {
        level: Level::Error,
        code: "foreign_slot",
        what: "a replication slot reads this database",
        remedy: "end what consumes it, and drop the slot",
        sql: "SELECT slot_name::text FROM pg_catalog.pg_replication_slots
            WHERE database = current_database() AND slot_name NOT LIKE 'tenantry\\_%'",
    },
    Probe {
        level: Level::Error,
        code: "foreign_subscription",
        what: "a subscription writes into this database",
        remedy: "drop the subscription first",
        sql: "SELECT subname::text FROM pg_catalog.pg_subscription s
            JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
            WHERE d.datname = current_database() AND subname NOT LIKE 'tenantry\\_%'",
    },
    Probe {
        level: Level::Error,
        code: "prepared_transaction",
        what: "a prepared transaction is open",
        remedy: "COMMIT PREPARED or ROLLBACK PREPARED it",
        sql: "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database()",
    },
    Probe {
        level: Level::Warning,
        code: "prepared_elsewhere",
        what: "a prepared transaction of another database keeps a move from beginning",
        remedy: "COMMIT PREPARED or ROLLBACK PREPARED it there; the move begins when it has ended",
        sql: "SELECT format('%L in database %s', gid, database) FROM pg_catalog.pg_prepared_xacts
            WHERE database <> current_database() ORDER BY prepared LIMIT 5",
    },
    Probe {
        level: Level::Error,
        code: "pg_repack",
        what: "pg_repack is at work, and what it does can't be seen",
        remedy: "wait for its end; if it was interrupted: DROP EXTENSION pg_repack CASCADE",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'repack' AND c.relkind = 'r' AND c.relname ~ '^log_[0-9]+$'",
    },
    Probe {
        level: Level::Error,
        code: "schema_taken",
        what: "a schema has the name that moves use",
        remedy: "rename it",
        sql: "SELECT nspname::text FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
            WHERE nspname = 'tenantry' AND r.rolname <> 'tenantry_control'",
    },
    Probe {
        level: Level::Error,
        code: "replica_trigger",
        what: "a trigger fires for replicated changes, too, so its work would be done twice",
        remedy: "ALTER TABLE … ENABLE TRIGGER …, without ALWAYS or REPLICA",
        sql: "SELECT format('%s on %s', t.tgname, t.tgrelid::regclass) FROM pg_catalog.pg_trigger t
            WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R')",
    },
    Probe {
        level: Level::Error,
        code: "unreadable",
        what: "none of the tenant's roles may read a table that one of them owns",
        remedy: "GRANT SELECT on it to its owner, and USAGE on its schema",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            CROSS JOIN LATERAL (
                SELECT bool_or(has_table_privilege(r.oid, c.oid, 'SELECT')) AS reads,
                    bool_or(has_schema_privilege(r.oid, n.oid, 'USAGE')) AS uses, bool_or(r.oid = c.relowner) AS owns
                FROM unnest('{owner,app,readonly}'::text[]) access
                JOIN pg_catalog.pg_roles r ON r.rolname = current_database() || '__' || access) roles
            WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {IS_TENANTS} AND owns AND NOT (reads AND uses)",
    },
    Probe {
        level: Level::Warning,
        code: "no_key",
        what: "every row change of a table without a usable key is replicated as a whole row",
        remedy: "nothing to do; a primary key would make the move faster",
        sql: "SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND {IS_TENANTS}
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique
                    AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indisvalid)",
    },
    Probe {
        level: Level::Error,
        code: "foreign_servers",
        what: "a foreign server leads to another place, with its users' passwords",
        remedy: "see that the target can reach it, or drop it",
        sql: "SELECT srvname::text FROM pg_catalog.pg_foreign_server s WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
            WHERE d.classid = 'pg_catalog.pg_foreign_server'::regclass AND d.objid = s.oid AND d.deptype = 'e')",
    },
    Probe {
        level: Level::Error,
        code: "log_positions",
        what: "a column holds transaction numbers or log positions, which mean nothing on another server",
        remedy: "see that nothing compares them with the server's own",
        sql: "SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_catalog.pg_attribute a
            JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND {IS_TENANTS}
                AND a.atttypid IN ('xid'::regtype, 'xid8'::regtype, 'pg_lsn'::regtype, 'pg_snapshot'::regtype,
                    'txid_snapshot'::regtype, 'tid'::regtype)",
    },
    Probe {
        level: Level::Error,
        code: "tablespaces",
        what: "a tablespace is not carried along, what is in it goes to the target's default",
        remedy: "see that the target's disk does for it",
        sql: "SELECT format('%I: %s', s.spcname, pg_catalog.string_agg(c.oid::regclass::text, ', '))
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE s.spcname <> 'pg_global' AND {IS_TENANTS} GROUP BY s.spcname",
    },
];

/// Asks all of them.
pub(super) async fn ask(found: &mut Preflight, connection: &Connection) -> Result<()> {
    for kind in &held::KINDS {
        if let Some(much) = kind.over(connection).await? {
            found.add(Level::Error, kind.code, format!("{}: {much}", kind.what), kind.remedy);
        }
    }
    for probe in PROBES {
        let sql = probe.sql.replace("{IS_TENANTS}", IS_TENANTS);
        for row in connection.rows(&sql, &[]).await? {
            let what = format!("{}: {}", probe.what, row.get::<_, String>(0));
            found.add(probe.level, probe.code, what, probe.remedy);
        }
    }
    Ok(())
}
