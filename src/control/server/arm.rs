//! Checks a server that an operator adds, and arms it: the control plane's roles, and the registry.

use catalog::Identity;
use shard_map::Server;
use tokio_postgres::config::Host;

use super::connect::{Connection, Connector};
use super::{CONTROL_ROLE, REGISTRY_DATABASE, REGISTRY_READER_ROLE, database, ident, registry, roles};
use crate::error::{Error, Result};

/// Oldest Postgres that is managed: `disable_on_error` of subscriptions came with it.
pub(crate) const POSTGRES_VERSION_MIN: i32 = 150_000;

/// What a server must have for tenants to be moved from it and to it, with the least value.
pub(crate) const SETTINGS_MIN: [(&str, i32); 4] = [
    ("max_replication_slots", 4),
    ("max_wal_senders", 4),
    ("max_logical_replication_workers", 4),
    ("max_worker_processes", 8),
];

/// Connections that are left to superusers, the control plane and replication when a limit is proposed.
pub(crate) const CONNECTIONS_RESERVED: i32 = 10;

/// Of a URL that names none.
const POSTGRES_PORT: u16 = 5432;

/// Host and port of an operator's URL.
///
/// # Errors
/// [`Error::Usage`] when it is not a Postgres URL with one TCP host.
pub(crate) fn address(config: &tokio_postgres::Config) -> Result<(String, u16)> {
    match &addresses(config)?[..] {
        [one] => Ok(one.clone()),
        _ => Err(Error::Usage(
            "url: name one host, as in postgres://postgres:secret@db-7.internal:5432/postgres".into(),
        )),
    }
}

/// Hosts and ports of an operator's URL, at least one.
///
/// # Errors
/// [`Error::Usage`] when it is not a Postgres URL with TCP hosts.
pub(crate) fn addresses(config: &tokio_postgres::Config) -> Result<Vec<(String, u16)>> {
    let (hosts, ports) = (config.get_hosts(), config.get_ports());
    let port = |index: usize| ports.get(index).or(ports.first()).copied().unwrap_or(POSTGRES_PORT);
    let address = |(index, host): (usize, &Host)| match host {
        Host::Tcp(host) => Some((host.clone(), port(index))),
        Host::Unix(_) => None,
    };
    let addresses: Option<Vec<_>> = hosts.iter().enumerate().map(address).collect();
    addresses.filter(|addresses| !addresses.is_empty()).ok_or_else(|| {
        Error::Usage("url: name a host, as in postgres://postgres:secret@db-7.internal:5432/postgres".into())
    })
}

/// What was found out about a server.
pub(crate) struct Armed {
    pub(crate) system_identifier: i64,
    /// Connections that routers may open at most: what the server allows, less a reserve.
    pub(crate) connections_max: u32,
}

/// Checks the server, as the superuser of the operator's URL, and makes what tenantry needs there.
pub(crate) async fn arm(
    config: &tokio_postgres::Config,
    server: &Server,
    (connector, term): (&Connector, i64),
    identity: &Identity,
) -> Result<Armed> {
    let key = connector.key();
    let mut config = config.clone();
    config.options(super::connect::session_options()).application_name("tenantry control");
    let admin = Connection::open(&server.name, &config, &connector.tls).await?;
    let Missing { what, remedies } = check(&admin, identity).await?;
    if !what.is_empty() {
        return Err(Error::refused(
            format!("server {}: {}", server.name, what.join("; ")),
            remedies.join("; "),
        ));
    }
    check_fleet(&admin, (&config, connector), server, identity).await?;
    let system_identifier =
        admin.value("SELECT system_identifier FROM pg_catalog.pg_control_system()", &[]).await?;
    let connections: i32 = admin.value("SELECT current_setting('max_connections')::int", &[]).await?;

    let control = "SUPERUSER REPLICATION";
    let password = key.control_password(&server.name);
    registry::in_turn(&admin, roles::put_login(&admin, CONTROL_ROLE, control, &password)).await?;
    // From here on as the control plane itself: this also shows that its derived password works.
    make_registry(connector, server, (&identity.fleet, term)).await?;
    let connections_max = u32::try_from((connections - CONNECTIONS_RESERVED).max(1)).unwrap_or(1);
    Ok(Armed { system_identifier, connections_max })
}

/// Makes a server's registry, as the control plane itself; of one that is there, what it lacks. Tenants' records apart:
/// those are for who knows them. Prepared databases that are on no record are put on it, to be dropped.
pub(crate) async fn make_registry(
    connector: &Connector,
    server: &Server,
    (fleet, term): (&str, i64),
) -> Result<()> {
    let control = connector.database(server, "postgres").await?;
    let made = async {
        let reader = "NOSUPERUSER CONNECTION LIMIT 20";
        let password = connector.key().registry_reader_password(&server.name);
        roles::put_login(&control, REGISTRY_READER_ROLE, reader, &password).await?;
        database::create(&control, REGISTRY_DATABASE, -1).await?;
        let db = ident(REGISTRY_DATABASE);
        let access = format!(
            "ALTER DATABASE {db} OWNER TO {CONTROL_ROLE}; REVOKE ALL ON DATABASE {db} FROM PUBLIC;
             GRANT CONNECT ON DATABASE {db} TO {REGISTRY_READER_ROLE}"
        );
        control.run(&access).await
    };
    registry::in_turn(&control, made).await?;
    let mut connection = connector.registry(server).await?;
    registry::migrate(&mut connection).await?;
    let read = format!("GRANT SELECT ON public.tenant TO {REGISTRY_READER_ROLE}");
    registry::in_turn(&connection, connection.run(&read)).await?;
    let ours = "INSERT INTO public.fleet (id) VALUES ($1) ON CONFLICT DO NOTHING";
    connection.rows(ours, &[&fleet]).await?;
    // Nothing is lost with them, and how far they were is not known any more.
    const STOCK: &str = "
        INSERT INTO public.stock (name, state, term)
        SELECT datname, 'dropping', $1 FROM pg_catalog.pg_database WHERE datname ~ '^s[0-9a-f]{16}__stock$'
        ON CONFLICT DO NOTHING";
    connection.rows(STOCK, &[&term]).await?;
    let seen = "INSERT INTO public.controller_term (term) VALUES (0) ON CONFLICT DO NOTHING";
    connection.rows(seen, &[]).await?;
    registry::raise_term(&connection, term).await
}

/// Refuses a server that another fleet works with, before anything of it is touched.
async fn check_fleet(
    admin: &Connection,
    (config, connector): (&tokio_postgres::Config, &Connector),
    server: &Server,
    identity: &Identity,
) -> Result<()> {
    if !database::exists(admin, REGISTRY_DATABASE).await? {
        return Ok(());
    }
    let mut config = config.clone();
    config.dbname(REGISTRY_DATABASE);
    let registry = Connection::open(&server.name, &config, &connector.tls).await?;
    let is_registry = "SELECT to_regclass('public.fleet') IS NOT NULL";
    let fleet = match registry.value(is_registry, &[]).await? {
        true => registry.row("SELECT id FROM public.fleet", &[]).await?.map(|row| row.get::<_, String>(0)),
        false => Some(String::new()),
    };
    // No row: an earlier attempt to add it ended between making the registry and signing it.
    if fleet.is_none_or(|fleet| fleet == identity.fleet) {
        return Ok(());
    }
    Err(Error::refused(
        format!("server {} belongs to another fleet: its database {REGISTRY_DATABASE} says so", server.name),
        format!("if that fleet is gone for good, drop database {REGISTRY_DATABASE} there first"),
    ))
}

/// What a server lacks, and what to do about it.
#[derive(Default)]
struct Missing {
    what: Vec<String>,
    remedies: Vec<String>,
}

impl Missing {
    fn add(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.what.push(what.into());
        self.remedies.push(remedy.into());
    }
}

async fn check(admin: &Connection, identity: &Identity) -> Result<Missing> {
    const SQL: &str = "
        SELECT current_setting('server_version_num')::int, pg_catalog.pg_is_in_recovery(),
            (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user),
            current_setting('wal_level'), current_setting('server_version'),
            (SELECT system_identifier FROM pg_catalog.pg_control_system())";
    let row = admin.row(SQL, &[]).await?.ok_or_else(|| Error::Failed("no answer to a plain query".into()))?;
    let (version, standby, superuser): (i32, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let (wal_level, version_text): (String, String) = (row.get(3), row.get(4));
    let mut missing = Missing::default();
    if version < POSTGRES_VERSION_MIN {
        missing.add(format!("PostgreSQL {version_text} is too old"), "use PostgreSQL 15 or newer");
    }
    if row.get::<_, i64>(5) == identity.catalog_system {
        missing.add("it holds this fleet's catalog", "give tenants servers of their own");
    }
    if standby {
        missing.add("it is a standby", "give the primary's address");
    }
    if !superuser {
        missing.add("the url's user is not a superuser", "give a superuser's url");
    }
    let mut settings = Vec::new();
    if wal_level != "logical" {
        missing.what.push(format!("wal_level is {wal_level}, must be logical"));
        settings.push("ALTER SYSTEM SET wal_level = 'logical'".to_owned());
    }
    for (setting, least) in SETTINGS_MIN {
        let value: i32 = admin.value("SELECT current_setting($1)::int", &[&setting]).await?;
        if value < least {
            missing.what.push(format!("{setting} is {value}, must be at least {least}"));
            settings.push(format!("ALTER SYSTEM SET {setting} = {least}"));
        }
    }
    if !settings.is_empty() {
        missing.remedies.push(format!("run {} on it and restart Postgres", settings.join("; ")));
    }
    Ok(missing)
}
