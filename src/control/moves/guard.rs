//! The guard against schema changes on the source while a move is under way: logical replication carries rows only.
//!
//! Temporary tables are none of the move's business. A refresh of a materialized view is no schema change, yet its
//! result is not replicated: it is allowed and noted in a replicated table, so that the target refreshes as well.

use crate::error::Result;
use crate::server::Connection;

/// What a statement that the guard refuses fails with.
pub(crate) const GUARD_SQLSTATE: &str = "TT002";

/// The fence table, the note of refreshed views, and the guard. Only a move's own sessions pass it.
pub(crate) async fn put_up(source: &Connection) -> Result<()> {
    source
        .run(&format!(
            "DO $$ BEGIN
                 IF EXISTS (SELECT FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner
                     WHERE nspname = 'tenantry' AND r.rolname <> 'tenantry_control') THEN
                     RAISE EXCEPTION 'schema tenantry is the tenant''s own';
                 END IF;
             END $$;
             CREATE SCHEMA IF NOT EXISTS tenantry;
             REVOKE ALL ON SCHEMA tenantry FROM PUBLIC;
             CREATE TABLE IF NOT EXISTS tenantry.fence (
                 id bigint PRIMARY KEY, written_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp());
             CREATE TABLE IF NOT EXISTS tenantry.refreshed (
                 view text PRIMARY KEY, refreshed_at timestamptz NOT NULL);
             CREATE OR REPLACE FUNCTION tenantry.guard() RETURNS event_trigger
             LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $guard$
             DECLARE
                 refused boolean := false;
             BEGIN
                 -- A REINDEX, of which triggers are told from 17 on, changes no schema.
                 IF tg_tag = 'REINDEX'
                     OR session_user = 'tenantry_control' AND current_setting('tenantry.move', true) = 'on' THEN
                     RETURN;
                 END IF;
                 IF tg_event = 'ddl_command_start' THEN
                     -- Its end is never seen: it commits in the middle, and leaves an invalid index behind.
                     refused := current_query() ~* '\\mconcurrently\\M' AND tg_tag <> 'REFRESH MATERIALIZED VIEW';
                 ELSIF tg_event = 'sql_drop' THEN
                     refused := EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d
                         WHERE NOT d.is_temporary AND d.original);
                 ELSIF tg_tag = 'REFRESH MATERIALIZED VIEW' THEN
                     INSERT INTO tenantry.refreshed
                         SELECT object_identity, clock_timestamp() FROM pg_event_trigger_ddl_commands()
                         ON CONFLICT (view) DO UPDATE SET refreshed_at = excluded.refreshed_at;
                 ELSE
                     refused := EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                         WHERE c.schema_name IS DISTINCT FROM 'pg_temp');
                 END IF;
                 IF refused THEN
                     RAISE EXCEPTION 'the schema can''t be changed now: this database is being moved to another server'
                         USING ERRCODE = '{GUARD_SQLSTATE}', HINT = 'Try again when the move is over.';
                 END IF;
             END
             $guard$;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_start;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_end;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_drop;
             CREATE EVENT TRIGGER tenantry_guard_start ON ddl_command_start EXECUTE FUNCTION tenantry.guard();
             CREATE EVENT TRIGGER tenantry_guard_end ON ddl_command_end EXECUTE FUNCTION tenantry.guard();
             CREATE EVENT TRIGGER tenantry_guard_drop ON sql_drop EXECUTE FUNCTION tenantry.guard()"
        ))
        .await
}

/// Takes the guard down; what else a move keeps in the database stays.
pub(crate) async fn lift(connection: &Connection) -> Result<()> {
    connection
        .run(
            "DROP EVENT TRIGGER IF EXISTS tenantry_guard_start;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_end;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_drop",
        )
        .await
}

/// Takes the guard down, with everything that a move keeps in the database.
pub(crate) async fn take_down(connection: &Connection) -> Result<()> {
    connection
        .run(
            "SET lock_timeout = '5s';
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_start;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_end;
             DROP EVENT TRIGGER IF EXISTS tenantry_guard_drop;
             DROP EVENT TRIGGER IF EXISTS tenantry_window_end;
             DROP EVENT TRIGGER IF EXISTS tenantry_window_drop;
             DROP SCHEMA IF EXISTS tenantry CASCADE",
        )
        .await
}
