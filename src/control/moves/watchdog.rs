//! Sees schema changes of a tenant that could go back to its former server. The stream back carries rows only, so the first
//! change ends it: whoever makes the change is warned, and in the same transaction the publication goes and a note stays.
//! What is rolled back has changed nothing, here either.
//!
//! Not with the guard's means: this tenant is done with its move, and its owner may change what is theirs.

use crate::error::Result;
use crate::server::Connection;

/// A schema change that ended the stream back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    /// When (RFC 3339).
    pub(super) at: String,
    /// The command, such as `ALTER TABLE`.
    pub(super) what: String,
    /// The role that made it.
    pub(super) who: String,
}

/// What there is to see in a database that can be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    /// Whether schema changes are seen at all.
    pub(super) watched: bool,
    /// Whether the stream has its publication.
    pub(super) published: bool,
    /// The first change since the watchdog was put up.
    pub(super) change: Option<Change>,
}

/// The table of notes. Both sides have it, as changes of it are in the stream like those of any other table.
const NOTES: &str = "
    CREATE TABLE IF NOT EXISTS tenantry.changed (
        changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), what text NOT NULL, who text NOT NULL);
    ALTER TABLE tenantry.changed REPLICA IDENTITY FULL;";

/// Triggers call it at the end of every change, and when something is dropped; also for what it drops itself, which then
/// finds nothing left to end.
const FUNCTION: &str = "
    CREATE OR REPLACE FUNCTION tenantry.changed() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $changed$
    DECLARE
        stream name := (SELECT pubname FROM pg_publication WHERE pubname LIKE 'tenantry\\_reverse\\_%' LIMIT 1);
    BEGIN
        -- A REINDEX, of which triggers are told from 17 on, changes no schema.
        IF session_user = 'tenantry_control' OR stream IS NULL OR tg_tag = 'REINDEX' THEN
            RETURN;
        ELSIF tg_event = 'sql_drop' THEN
            IF NOT EXISTS (SELECT FROM pg_event_trigger_dropped_objects() d WHERE NOT d.is_temporary AND d.original) THEN
                RETURN;
            END IF;
        ELSIF tg_tag = 'REFRESH MATERIALIZED VIEW' THEN
            INSERT INTO tenantry.refreshed
                SELECT object_identity, clock_timestamp() FROM pg_event_trigger_ddl_commands()
                ON CONFLICT (view) DO UPDATE SET refreshed_at = excluded.refreshed_at;
            RETURN;
        ELSIF NOT EXISTS (SELECT FROM pg_event_trigger_ddl_commands() c
                WHERE c.schema_name IS DISTINCT FROM 'pg_temp') THEN
            RETURN;
        END IF;
        RAISE WARNING 'this schema change ends the time in which the database can go back to its former server without a copy'
            USING HINT = 'It was moved a while ago. Nothing else changes; from now on it goes back by a new move.';
        -- Two changes at once do not wait for each other: what the other one leaves behind is found by its note.
        IF pg_try_advisory_xact_lock(hashtext('tenantry.changed')) THEN
            EXECUTE format('DROP PUBLICATION IF EXISTS %I', stream);
        END IF;
        INSERT INTO tenantry.changed (what, who) VALUES (tg_tag, session_user);
    END
    $changed$;";

/// Puts it up, without notes. In a database that has the tables of a move, before anybody is let in.
pub(super) async fn put_up(connection: &Connection) -> Result<()> {
    make_notes(connection).await?;
    connection
        .run(&format!(
            "{FUNCTION}
             DROP EVENT TRIGGER IF EXISTS tenantry_window_end;
             DROP EVENT TRIGGER IF EXISTS tenantry_window_drop;
             CREATE EVENT TRIGGER tenantry_window_end ON ddl_command_end EXECUTE FUNCTION tenantry.changed();
             CREATE EVENT TRIGGER tenantry_window_drop ON sql_drop EXECUTE FUNCTION tenantry.changed()"
        ))
        .await
}

/// The table of notes, empty: all that the side which follows needs.
pub(super) async fn make_notes(connection: &Connection) -> Result<()> {
    connection.run(&format!("{NOTES} DELETE FROM tenantry.changed")).await
}

/// Takes it down. The notes stay.
pub(super) async fn take_down(connection: &Connection) -> Result<()> {
    const SQL: &str = "
        DROP EVENT TRIGGER IF EXISTS tenantry_window_end; DROP EVENT TRIGGER IF EXISTS tenantry_window_drop";
    connection.run(SQL).await
}

/// Looks at a database that is to be followed by the stream of this name.
pub(super) async fn look(connection: &Connection, stream: &str) -> Result<Seen> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'tenantry_window_end' AND evtenabled <> 'D'),
            EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1),
            to_regclass('tenantry.changed') IS NOT NULL";
    let Some(row) = connection.row(SQL, &[&stream]).await? else {
        return Ok(Seen { watched: false, published: false, change: None });
    };
    let mut seen = Seen { watched: row.get(0), published: row.get(1), change: None };
    if row.get(2) {
        const NOTE: &str = "
            SELECT to_jsonb(changed_at)#>>'{}', what, who FROM tenantry.changed ORDER BY changed_at LIMIT 1";
        let note = connection.row(NOTE, &[]).await?;
        seen.change = note.map(|row| Change { at: row.get(0), what: row.get(1), who: row.get(2) });
    }
    Ok(seen)
}

impl Seen {
    /// Why the stream can't go on; none when it can.
    pub(super) fn why_over(&self) -> Option<String> {
        match &self.change {
            Some(Change { what, who, .. }) => Some(format!("{who} changed the schema: {what}")),
            None if !self.published => Some("its publication was dropped".to_owned()),
            None if !self.watched => Some("schema changes were not watched".to_owned()),
            None => None,
        }
    }
}
