//! A stream of changes from one server to another: the subscription in one database on a slot that is there already.

use catalog::tls::TlsMode;
use shard_map::Server;

use super::force_security;
use crate::config::ControlConfig;
use crate::context::{Context, back_off};
use crate::error::Result;
use crate::failpoint;
use crate::server::{Connection, ident, literal};

/// `origin`, parallel streaming and `pg_log_standby_snapshot` came with it.
pub(super) const POSTGRES_16: i32 = 160_000;
/// The major version that `max_active_replication_origins` came with.
pub(super) const POSTGRES_18: i32 = 18;
/// Tries to make a stream while its publisher can't be reached from the other server: some 40 s.
const CREATE_TRIES: u32 = 14;
/// Of how many streams a server can keep on record how far it has followed them: SQL.
pub(super) const ORIGINS_MAX: &str = "
    coalesce(current_setting('max_active_replication_origins', true), current_setting('max_replication_slots'))::int";

/// Where a stream comes from.
pub(super) struct Publisher<'a> {
    pub(super) server: &'a Server,
    pub(super) database: &'a str,
    /// Its publication, slot and login role; and the subscription.
    pub(super) name: &'a str,
    /// Of that role.
    pub(super) password: String,
    /// Its `server_version_num`.
    pub(super) version: i32,
}

/// A server's `server_version_num`.
pub(super) async fn version(connection: &Connection) -> Result<i32> {
    connection.value("SELECT current_setting('server_version_num')::int", &[]).await
}

/// A server's major version.
pub(crate) async fn major(connection: &Connection) -> Result<i32> {
    Ok(version(connection).await? / 10_000)
}

/// Makes the subscription, unless it is there, and lets it follow.
pub(super) async fn follow(
    context: &Context,
    publisher: &Publisher<'_>,
    subscriber: &Connection,
) -> Result<()> {
    let name = ident(publisher.name);
    if !is_there(subscriber, publisher.name).await? {
        // The statement has the role's password in it: it must not stand in the server's log.
        subscriber
            .run("SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SET log_min_duration_statement = -1")
            .await?;
        let connection = literal(&connection_string(context, publisher));
        let options = options(version(subscriber).await?, publisher.version);
        let create = format!(
            "CREATE SUBSCRIPTION {name} CONNECTION {connection} PUBLICATION {name} WITH (slot_name = {name}, {options})"
        );
        let mut tries = 0;
        // It calls the publisher. A network between the two that blinks is not to cost what was copied.
        while let Err(error) = subscriber.run(&create).await {
            tries += 1;
            if tries >= CREATE_TRIES || !error.sqlstate().is_some_and(|state| state.starts_with("08")) {
                return Err(error);
            }
            tracing::warn!(server = %publisher.server.name, tries, %error, "the stream can't be made yet");
            back_off(tries).await;
        }
        failpoint::reach("subscribed").await;
    }
    force_security::lift(subscriber).await?;
    failpoint::reach("stream_lifted").await;
    subscriber.run(&format!("ALTER SUBSCRIPTION {name} ENABLE")).await
}

/// Lets a subscription follow again, if it is there.
pub(super) async fn enable(subscriber: &Connection, name: &str) -> Result<()> {
    alter(subscriber, name, "ENABLE").await
}

/// Keeps a subscription from following, if it is there.
pub(super) async fn disable(subscriber: &Connection, name: &str) -> Result<()> {
    alter(subscriber, name, "DISABLE").await
}

async fn alter(subscriber: &Connection, name: &str, how: &str) -> Result<()> {
    if !is_there(subscriber, name).await? {
        return Ok(());
    }
    subscriber.run(&format!("ALTER SUBSCRIPTION {} {how}", ident(name))).await
}

async fn is_there(subscriber: &Connection, name: &str) -> Result<bool> {
    const SQL: &str = "
        SELECT EXISTS (SELECT FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
            WHERE subname = $1 AND datname = current_database())";
    subscriber.value(SQL, &[&name]).await
}

fn options(subscriber: i32, publisher: i32) -> String {
    let mut options =
        "create_slot = false, copy_data = false, enabled = false, disable_on_error = true".to_owned();
    let parallel = subscriber.min(publisher) >= POSTGRES_16;
    options += if parallel { ", streaming = parallel" } else { ", streaming = on" };
    if subscriber >= POSTGRES_16 {
        options += ", origin = none";
    }
    options
}

fn connection_string(context: &Context, publisher: &Publisher<'_>) -> String {
    let Publisher { server, database, name, password, .. } = publisher;
    format!(
        "host={} port={} dbname={} user={} password={} connect_timeout=5 application_name={}{}",
        conninfo(&server.host),
        server.port,
        conninfo(database),
        conninfo(name),
        conninfo(password),
        conninfo(name),
        tls(&context.config)
    )
}

/// TLS from one server to another: as the control plane does it, by the file on the server.
fn tls(config: &ControlConfig) -> String {
    let mode = format!(" sslmode={}", config.server_tls_mode.as_str());
    let file = config.server_tls_ca_file_on_servers.as_ref().or(config.server_tls_ca_file.as_ref());
    let file = file.filter(|_| config.server_tls_mode != TlsMode::Disable);
    file.map_or(mode.clone(), |file| format!("{mode} sslrootcert={}", conninfo(&file.to_string_lossy())))
}

/// Quotes a value for a libpq connection string.
fn conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_both_versions_know_is_asked_for() {
        let (old, new) = (150_004, 180_001);
        assert!(!options(old, new).contains("origin") && options(old, new).ends_with("streaming = on"));
        assert!(options(new, old).ends_with("streaming = on, origin = none"), "its publisher is not told");
        assert!(options(new, new).ends_with("streaming = parallel, origin = none"));
    }
}
