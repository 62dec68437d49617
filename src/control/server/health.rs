//! What a managed server shows of itself to whoever looks for trouble: its settings, its registry, and what was left on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use shard_map::Server;

use super::arm::SETTINGS_MIN;
use super::{Connection, Connector, REGISTRY_READER_ROLE, literal};
use crate::error::{Error, Result};

/// A server that answers.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Health {
    pub(crate) version: String,
    pub(crate) version_number: i32,
    pub(crate) standby: bool,
    pub(crate) system_identifier: i64,
    pub(crate) wal_level: String,
    /// Those of [`SETTINGS_MIN`], in their order.
    pub(crate) settings: Vec<i32>,
    pub(crate) max_connections: i32,
    /// Connections that are kept back from ordinary roles.
    pub(crate) reserved_connections: i32,
    /// Connections of clients that are open.
    pub(crate) connections: i32,
    /// Databases whose drop was interrupted: nothing but dropping them again is possible.
    pub(crate) invalid_databases: Vec<String>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) prepared: Vec<Prepared>,
    unix_ms: i64,
    /// How far its clock is ahead of this one, less what the way may have taken.
    #[serde(skip)]
    pub(crate) clock_ahead_ms: i64,
}

/// A replication slot that outlives its session.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Slot {
    pub(crate) name: String,
    pub(crate) active: bool,
    /// Bytes of log that it keeps from being removed.
    pub(crate) retained: Option<i64>,
    /// Whether the server has given it up, or is about to.
    pub(crate) lost: bool,
}

/// A transaction that was prepared and neither committed nor rolled back.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Prepared {
    pub(crate) gid: String,
    pub(crate) database: String,
    pub(crate) age_s: i64,
}

/// What its registry says.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct RegistryHealth {
    /// Which fleet it is of.
    pub(crate) fleet: Option<String>,
    /// The highest term that it has seen.
    pub(crate) term: Option<i64>,
    pub(crate) schema: Option<i64>,
    /// Whether routers can read it.
    pub(crate) readable: bool,
}

/// Reads a server.
pub(crate) async fn read(connector: &Connector, server: &Server) -> Result<(Health, Result<RegistryHealth>)> {
    let connection = connector.registry(server).await?;
    let names: Vec<String> =
        SETTINGS_MIN.iter().map(|(name, _)| format!("current_setting({})::int", literal(name))).collect();
    let sql = format!(
        "SELECT jsonb_build_object('version', current_setting('server_version'),
            'version_number', current_setting('server_version_num')::int, 'standby', pg_is_in_recovery(),
            'system_identifier', (SELECT system_identifier FROM pg_control_system()),
            'wal_level', current_setting('wal_level'), 'settings', jsonb_build_array({}),
            'max_connections', current_setting('max_connections')::int,
            'reserved_connections', current_setting('superuser_reserved_connections')::int
                + coalesce(current_setting('reserved_connections', true)::int, 0),
            'connections', (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'),
            'invalid_databases', (SELECT coalesce(jsonb_agg(datname ORDER BY datname), '[]')
                FROM pg_database WHERE datconnlimit = -2),
            'slots', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', slot_name, 'active', active,
                    'lost', coalesce(wal_status, '') IN ('unreserved', 'lost'),
                    'retained', CASE WHEN NOT pg_is_in_recovery()
                        THEN pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint END) ORDER BY slot_name), '[]')
                FROM pg_replication_slots WHERE NOT temporary),
            'prepared', (SELECT coalesce(jsonb_agg(jsonb_build_object('gid', gid, 'database', database,
                    'age_s', extract(epoch FROM now() - prepared)::bigint) ORDER BY prepared), '[]')
                FROM pg_prepared_xacts),
            'unix_ms', (extract(epoch FROM clock_timestamp()) * 1000)::bigint)",
        names.join(", ")
    );
    let asked = unix_time();
    let mut health: Health = value(&connection, &sql).await?;
    health.clock_ahead_ms = ahead(health.unix_ms, asked, unix_time());
    Ok((health, registry(&connection).await))
}

async fn registry(connection: &Connection) -> Result<RegistryHealth> {
    let sql = format!(
        "SELECT jsonb_build_object('fleet', (SELECT id FROM public.fleet),
            'term', (SELECT term FROM public.controller_term),
            'schema', (SELECT max(version) FROM public.refinery_schema_history),
            'readable', coalesce((SELECT rolcanlogin AND has_table_privilege(oid, 'public.tenant', 'SELECT')
                FROM pg_roles WHERE rolname = {}), false))",
        literal(REGISTRY_READER_ROLE)
    );
    value(connection, &sql).await
}

async fn value<T: DeserializeOwned>(connection: &Connection, sql: &str) -> Result<T> {
    let value: serde_json::Value = connection.value(sql, &[]).await?;
    serde_json::from_value(value).map_err(|e| Error::Failed(format!("an answer can't be read: {e}")))
}

/// This machine's clock.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// How far a clock is ahead that told its time between two moments: 0 for all that lies between them.
pub(crate) fn ahead(told_ms: i64, before: Duration, after: Duration) -> i64 {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    if told_ms < ms(before) { told_ms - ms(before) } else { (told_ms - ms(after)).max(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_on_the_way_is_no_difference_of_clocks() {
        let (before, after) = (Duration::from_millis(1_000), Duration::from_millis(1_500));
        let told = [900, 1_000, 1_300, 1_500, 1_600];
        assert_eq!(told.map(|told| ahead(told, before, after)), [-100, 0, 0, 0, 100]);
    }
}
