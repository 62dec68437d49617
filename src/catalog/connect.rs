//! Connecting to the catalog: to the one of its hosts that takes writes.
//!
//! A host that hangs accepts connections and then says nothing, so hosts are not tried one after the other until each has
//! had its time: the next one has its turn beside those that are still silent, and the first that takes writes is it.

use std::time::Duration;

use deadpool_postgres::Connect;
use futures_util::StreamExt as _;
use futures_util::future::{BoxFuture, FutureExt as _};
use futures_util::stream::FuturesUnordered;
use tokio::task::JoinHandle;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Connection, Socket};

use crate::error::{Error, Result};
use crate::tls::{Secured, TlsOptions, without_tls};

/// How long a connection to the catalog may take, over all its hosts.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one statement may take at the server.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a host may be silent before the next is tried beside it.
const HOST_PAUSE: Duration = Duration::from_millis(250);

type Connected = (Client, Connection<Socket, Secured<Socket>>);

/// Where the catalog is, and how it is spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) tls: TlsOptions,
}

/// Reads a catalog URL and sets the limits that every connection has.
pub(crate) fn target(url: &str) -> Result<Target> {
    let (rest, tls) = without_tls(url).map_err(Error::Url)?;
    let not_a_url = |e: tokio_postgres::Error| Error::Url(format!("it is not a Postgres URL: {e}"));
    let mut config: Config = rest.parse().map_err(not_a_url)?;
    config.ssl_mode(tls.ssl_mode());
    config.connect_timeout(CONNECT_TIMEOUT);
    // A peer that lost its power is noticed within seconds, not after the system's two hours.
    config
        .keepalives_idle(Duration::from_secs(5))
        .keepalives_interval(Duration::from_secs(2))
        .keepalives_retries(3);
    config.tcp_user_timeout(Duration::from_secs(10));
    config.application_name("tenantry");
    // What a controller that died had begun ends soon after it.
    config.options(format!(
        "-c statement_timeout={} -c client_connection_check_interval=500ms",
        STATEMENT_TIMEOUT.as_millis()
    ));
    if config.get_hosts().len().max(config.get_hostaddrs().len()) > 1 {
        // All but one of several are standbys.
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    Ok(Target { config, tls })
}

/// Connects within the time for it.
///
/// # Errors
/// [`Error::Unreachable`]; [`Error::Query`] with the SQLSTATE when there is no such database.
pub(crate) async fn connect_in_time(target: &Target) -> Result<Connected> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, connect(&target.config, &target.tls)).await;
    let silent = |_| Error::Unreachable(format!("no answer within {CONNECT_TIMEOUT:?}"));
    connected.map_err(silent)?.map_err(|e| match e.code() {
        Some(code) if code.code() == "3D000" => Error::from_query("connect", &e),
        _ => Error::Unreachable(describe(&e)),
    })
}

/// What went wrong with a connection, without the library's own words.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

async fn connect(config: &Config, tls: &TlsOptions) -> std::result::Result<Connected, tokio_postgres::Error> {
    // Made anew each time: files may have been replaced.
    let tls = tls.connector();
    let mut hosts = each_host(config).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut refused = None;
    loop {
        attempts.extend(hosts.next().map(|host| {
            let tls = tls.clone();
            async move { host.connect(tls).await }
        }));
        let pause = if hosts.len() > 0 { HOST_PAUSE } else { CONNECT_TIMEOUT };
        match tokio::time::timeout(pause, attempts.next()).await {
            Ok(Some(Ok(connected))) => return Ok(connected),
            // The first one's reason, if none takes us.
            Ok(Some(Err(error))) => refused = refused.or(Some(error)),
            Ok(None) => match refused {
                Some(error) => return Err(error),
                // No host at all: the library says so.
                None => return config.connect(tls).await,
            },
            Err(_) => {}
        }
    }
}

/// The same configuration for each of its hosts alone.
#[must_use]
pub fn each_host(config: &Config) -> Vec<Config> {
    let count = config.get_hosts().len().max(config.get_hostaddrs().len());
    let alone = |index| {
        let mut alone = Config::new();
        match config.get_hosts().get(index) {
            Some(Host::Tcp(host)) => drop(alone.host(host)),
            Some(Host::Unix(path)) => drop(alone.host_path(path)),
            None => {}
        }
        if let Some(address) = config.get_hostaddrs().get(index) {
            alone.hostaddr(*address);
        }
        let ports = config.get_ports();
        if let Some(port) = ports.get(index).or(ports.first()) {
            alone.port(*port);
        }
        copy_all_but_hosts(config, &mut alone);
        alone
    };
    (0..count).map(alone).collect()
}

fn copy_all_but_hosts(from: &Config, to: &mut Config) {
    if let Some(user) = from.get_user() {
        to.user(user);
    }
    if let Some(password) = from.get_password() {
        to.password(password);
    }
    if let Some(name) = from.get_dbname() {
        to.dbname(name);
    }
    if let Some(options) = from.get_options() {
        to.options(options);
    }
    if let Some(name) = from.get_application_name() {
        to.application_name(name);
    }
    if let Some(limit) = from.get_connect_timeout() {
        to.connect_timeout(*limit);
    }
    if let Some(limit) = from.get_tcp_user_timeout() {
        to.tcp_user_timeout(*limit);
    }
    if let Some(interval) = from.get_keepalives_interval() {
        to.keepalives_interval(interval);
    }
    if let Some(retries) = from.get_keepalives_retries() {
        to.keepalives_retries(retries);
    }
    to.keepalives(from.get_keepalives())
        .keepalives_idle(from.get_keepalives_idle())
        .ssl_mode(from.get_ssl_mode())
        .ssl_negotiation(from.get_ssl_negotiation())
        .channel_binding(from.get_channel_binding())
        .target_session_attrs(from.get_target_session_attrs());
}

/// How the pool connects.
pub(crate) struct ToAnyHost(pub(crate) TlsOptions);

impl Connect for ToAnyHost {
    fn connect(
        &self,
        config: &Config,
    ) -> BoxFuture<'_, std::result::Result<(Client, JoinHandle<()>), tokio_postgres::Error>> {
        let (config, tls) = (config.clone(), self.0.clone());
        async move {
            let (client, connection) = connect(&config, &tls).await?;
            // What it ends with, the next query on it is told.
            let connection = tokio::spawn(async move { drop(connection.await) });
            Ok((client, connection))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_is_tried_with_the_same_login_and_must_take_writes() {
        let config = target("postgres://ann:secret@one:5433,two:5434/map").unwrap().config;
        let each = each_host(&config);
        let hosts: Vec<_> = each.iter().map(|c| (c.get_hosts()[0].clone(), c.get_ports()[0])).collect();
        assert_eq!(hosts, [(Host::Tcp("one".into()), 5433), (Host::Tcp("two".into()), 5434)]);
        for alone in &each {
            assert_eq!(alone.get_hosts().len(), 1);
            assert_eq!((alone.get_user(), alone.get_password()), (Some("ann"), Some(&b"secret"[..])));
            assert_eq!(alone.get_dbname(), Some("map"));
            assert_eq!(alone.get_options(), config.get_options());
            assert_eq!(alone.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        }
        let one = target("postgres://ann@one/map").unwrap().config;
        assert_eq!(one.get_target_session_attrs(), TargetSessionAttrs::Any, "it costs a round trip");
    }

    #[tokio::test]
    async fn a_host_that_hangs_does_not_keep_the_next_from_its_turn() {
        // Accepts and says nothing.
        let hung = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let next = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ports = (hung.local_addr().unwrap().port(), next.local_addr().unwrap().port());
        let url = format!("postgres://ann@127.0.0.1:{},127.0.0.1:{}/map", ports.0, ports.1);
        let target = target(&url).unwrap();
        tokio::select! {
            outcome = connect_in_time(&target) => panic!("the next was never tried: {:?}", outcome.err()),
            accepted = next.accept() => drop(accepted.unwrap()),
        }
    }
}
