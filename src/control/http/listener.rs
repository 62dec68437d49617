//! The API's TLS: handshakes beside each other, each with a time limit, and certificates that may be replaced.
//!
//! Whoever connects and says nothing must not keep others waiting. So nobody waits for a handshake's turn: one too many
//! ends the oldest one, of the same address if that has too many. Real ones are over within milliseconds.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use catalog::tls::{TlsError, certificate};
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::record::Peer;
use crate::error::{Error, Result};

/// Handshakes at once.
const HANDSHAKES_MAX: usize = 512;
/// Of these, from one address.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Connections that are made and not taken yet.
const READY_MAX: usize = 64;
/// How long one may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What handshakes are made with.
pub(crate) struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: Mutex<Current>,
}

/// What they are made with just now.
#[derive(Clone)]
struct Current {
    config: Arc<ServerConfig>,
    /// When the certificate ends.
    end: Option<SystemTime>,
}

impl Tls {
    /// By certificate and key, PEM.
    ///
    /// # Errors
    /// When a file can't be used.
    pub(crate) fn new(cert_file: &Path, key_file: &Path) -> Result<Self> {
        let current = read(cert_file, key_file).map_err(|error| Error::Usage(error.to_string()))?;
        let current = Mutex::new(current);
        Ok(Self { cert_file: cert_file.to_owned(), key_file: key_file.to_owned(), current })
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the certificate ends that is shown.
    pub(crate) fn end(&self) -> Option<SystemTime> {
        self.current().end
    }

    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.cert_file, &self.key_file].map(|file| file.metadata().and_then(|of| of.modified()).ok())
    }

    /// Follows changes of the files. What can't be used is said in the log, and what was read before it stays.
    async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut read_at = self.stamps();
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let stamps = self.stamps();
            if stamps == read_at {
                continue;
            }
            read_at = stamps;
            match read(&self.cert_file, &self.key_file) {
                Ok(current) => {
                    *self.current() = current;
                    tracing::info!("the API's certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the API's certificate stays as it was"),
            }
        }
    }
}

fn read(cert_file: &Path, key_file: &Path) -> std::result::Result<Current, TlsError> {
    let chain = certificate::read_certificates("tls_cert_file", cert_file)?;
    let end = certificate::first_end(&chain);
    let key = certificate::read_key("tls_key_file", key_file)?;
    let failed = |error: rustls::Error| TlsError {
        key: "tls_key_file",
        file: key_file.to_owned(),
        why: error.to_string(),
    };
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(failed)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(failed)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Current { config: Arc::new(config), end })
}

/// Connections whose handshake is made.
pub(super) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: std::io::Result<SocketAddr>,
}

impl TlsListener {
    /// Takes connections until `stop`.
    pub(super) fn new(listener: TcpListener, tls: Arc<Tls>, stop: CancellationToken) -> Self {
        let (sender, ready) = mpsc::channel(READY_MAX);
        let address = listener.local_addr();
        tokio::spawn(tls.clone().follow(stop.clone()));
        tokio::spawn(async move { stop.run_until_cancelled(take(listener, tls, sender)).await });
        Self { ready, address }
    }
}

async fn take(
    mut listener: TcpListener,
    tls: Arc<Tls>,
    ready: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
) {
    let mut handshakes = Handshakes::default();
    loop {
        let (socket, address) = Listener::accept(&mut listener).await;
        let config = tls.current().config.clone();
        let ready = ready.clone();
        handshakes.begin(address.ip(), async move {
            let handshake = TlsAcceptor::from(config).accept(socket);
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                // Nobody takes it any more: the server stops.
                Ok(Ok(stream)) => drop(ready.send((stream, address)).await),
                Ok(Err(error)) => tracing::debug!(%error, %address, "no TLS"),
                Err(_) => tracing::debug!(%address, "no TLS within handshake_timeout"),
            }
        });
    }
}

/// Handshakes under way. Dropping it ends them.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    /// By age, the oldest first.
    line: VecDeque<(IpAddr, AbortHandle)>,
}

impl Handshakes {
    /// Begins one more; the oldest gives way if there are too many.
    fn begin(&mut self, address: IpAddr, handshake: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.line.retain(|(_, one)| !one.is_finished());
        let is_theirs = |(of, _): &&(IpAddr, AbortHandle)| *of == address;
        let in_the_way = if self.line.iter().filter(is_theirs).count() >= HANDSHAKES_PER_ADDRESS_MAX {
            self.line.iter().position(|(of, _)| *of == address)
        } else {
            (self.line.len() >= HANDSHAKES_MAX).then_some(0)
        };
        if let Some((of, oldest)) = in_the_way.and_then(|at| self.line.remove(at)) {
            tracing::debug!(address = %of, "a handshake ended to make room for others");
            oldest.abort();
        }
        self.line.push_back((address, self.tasks.spawn(handshake)));
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // It stops; whoever serves does, too.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|error| error.kind().into())
    }
}

impl Connected<IncomingStream<'_, TlsListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_of_an_address_with_too_many_gives_way_and_nobody_elses() {
        let mut handshakes = Handshakes::default();
        let (one, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        handshakes.begin(other, std::future::pending());
        for _ in 0..HANDSHAKES_PER_ADDRESS_MAX + 3 {
            handshakes.begin(one, std::future::pending());
        }
        let of = |address| handshakes.line.iter().filter(|(of, _)| *of == address).count();
        assert_eq!((of(other), of(one)), (1, HANDSHAKES_PER_ADDRESS_MAX));
        for last in 0..HANDSHAKES_MAX {
            let address = IpAddr::from([10, 1, (last >> 8) as u8, (last & 255) as u8]);
            handshakes.begin(address, std::future::pending());
        }
        assert_eq!(handshakes.line.len(), HANDSHAKES_MAX);
        assert!(handshakes.line.iter().all(|(of, _)| *of != one && *of != other), "they were the oldest");
    }
}
