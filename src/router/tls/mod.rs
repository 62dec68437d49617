//! TLS on both sides: what it is made with, and how that is replaced while the router runs.
//!
//! Sessions that are under way keep what they began with. Files that can't be used are said in the log, and what was
//! read before them stays in use.

mod channel;
mod clients;
mod postgres;
mod servers;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};

pub(crate) use catalog::tls::ALPN;
use catalog::tls::certificate;
pub(crate) use catalog::tls::certificate::{end_point, is_for};
pub use catalog::tls::{TlsError, TlsMode};
pub(crate) use channel::Channel;
pub(crate) use clients::Clients;
pub(crate) use servers::Servers;

use crate::config::{InvalidConfig, RouterConfig};
use crate::shared::Shared;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What TLS is made with at present.
pub(crate) struct Tls {
    clients: ArcSwapOption<Clients>,
    servers: ArcSwap<Servers>,
    /// Held while another configuration is put in force, too: who renews by the old one must not come after it.
    made_of: Mutex<Sources>,
}

/// What TLS is to be made with, by a configuration that is not in force yet.
pub(crate) struct NewTls {
    clients: Option<Clients>,
    servers: Servers,
    made_of: Sources,
}

impl NewTls {
    /// As the configuration says.
    pub(crate) fn build(config: &RouterConfig) -> Result<Self, TlsError> {
        // Before the files are read: one that changes meanwhile is read again.
        let made_of = Sources::of(config);
        Ok(Self { clients: Clients::build(config)?, servers: Servers::build(config)?, made_of })
    }
}

/// What it was made of: modes, and files with their times.
#[derive(PartialEq)]
struct Sources {
    modes: (TlsMode, TlsMode, bool),
    files: Vec<Option<(PathBuf, Option<SystemTime>)>>,
}

impl Sources {
    fn of(config: &RouterConfig) -> Self {
        let files = [
            &config.tls_cert_file,
            &config.tls_key_file,
            &config.tls_ca_file,
            &config.server_tls_ca_file,
            &config.server_tls_cert_file,
            &config.server_tls_key_file,
        ];
        let stamped = |file: &Option<PathBuf>| {
            let file = file.clone()?;
            let time = file.metadata().and_then(|metadata| metadata.modified()).ok();
            Some((file, time))
        };
        Self {
            modes: (config.tls_mode, config.server_tls_mode, config.tls_certificate_login),
            files: files.into_iter().map(stamped).collect(),
        }
    }
}

impl Tls {
    /// As the configuration says.
    pub(crate) fn new(config: &RouterConfig) -> Result<Self, TlsError> {
        let NewTls { clients, servers, made_of } = NewTls::build(config)?;
        Ok(Self {
            clients: ArcSwapOption::new(clients.map(Arc::new)),
            servers: ArcSwap::from_pointee(servers),
            made_of: Mutex::new(made_of),
        })
    }

    /// Puts what was made in force, together with the configuration that it was made by.
    pub(crate) fn replace(&self, new: NewTls, put_in_force: impl FnOnce()) {
        let mut made_of = self.made_of.lock().unwrap_or_else(PoisonError::into_inner);
        *made_of = new.made_of;
        self.clients.store(new.clients.map(Arc::new));
        self.servers.store(Arc::new(new.servers));
        put_in_force();
    }

    /// For clients; none when they get no TLS.
    pub(crate) fn clients(&self) -> Option<Arc<Clients>> {
        self.clients.load_full()
    }

    /// For servers.
    pub(crate) fn servers(&self) -> Arc<Servers> {
        self.servers.load_full()
    }

    /// Makes it anew if a file has changed. What can't be made stays as it was.
    fn renew(&self, config: &ArcSwap<RouterConfig>) {
        let mut made_of = self.made_of.lock().unwrap_or_else(PoisonError::into_inner);
        let config = &**config.load();
        let sources = Sources::of(config);
        if *made_of == sources {
            return;
        }
        *made_of = sources;
        match Clients::build(config) {
            Ok(clients) => self.clients.store(clients.map(Arc::new)),
            Err(error) => tracing::error!(%error, "TLS to clients stays as it was"),
        }
        match Servers::build(config) {
            Ok(servers) => self.servers.store(Arc::new(servers)),
            Err(error) => tracing::error!(%error, "TLS to servers stays as it was"),
        }
        tracing::info!("TLS was looked at again: a file had changed");
    }
}

/// Follows changes of the files, and tells when the certificates in use end.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let mut look = tokio::time::interval(LOOK_INTERVAL);
    loop {
        look.tick().await;
        let shared = shared.clone();
        // A file may be on a file system that takes its time.
        let renewed = tokio::task::spawn_blocking(move || {
            shared.tls.renew(&shared.config);
            let ends = &shared.metrics.certificate_ends;
            ends.set("clients", shared.tls.clients().and_then(|clients| clients.end));
            ends.set("servers", shared.tls.servers().end);
        });
        drop(renewed.await);
    }
}

/// Checks the keys of the configuration that only make sense together.
pub(crate) fn validate(config: &RouterConfig) -> Result<(), InvalidConfig> {
    let missing = |key, allowed| Err(InvalidConfig { key, given: "nothing".to_owned(), allowed });
    let pair = (config.tls_cert_file.is_some(), config.tls_key_file.is_some());
    if config.tls_mode != TlsMode::Disable && pair != (true, true) {
        let key = if pair.0 { "tls_key_file" } else { "tls_cert_file" };
        return missing(key, "a file in PEM, unless tls_mode is disable");
    }
    if (config.tls_mode >= TlsMode::VerifyCa || config.tls_certificate_login) && config.tls_ca_file.is_none()
    {
        return missing("tls_ca_file", "a file in PEM, for clients' certificates are to be checked");
    }
    if config.server_tls_mode >= TlsMode::VerifyCa && config.server_tls_ca_file.is_none() {
        return missing("server_tls_ca_file", "a file in PEM, for servers' certificates are to be checked");
    }
    if config.server_tls_cert_file.is_some() != config.server_tls_key_file.is_some() {
        let key =
            if config.server_tls_key_file.is_none() { "server_tls_key_file" } else { "server_tls_cert_file" };
        return missing(key, "a file in PEM: certificate and key go together");
    }
    Ok(())
}
