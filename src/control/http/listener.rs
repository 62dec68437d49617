//! The API's TLS: handshakes beside each other, each with a time limit, and certificates that may be replaced.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use catalog::tls::{TlsError, certificate};
use rustls::ServerConfig;
use rustls::crypto::ring;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::record::Peer;
use crate::error::{Error, Result};

/// Handshakes at once.
const HANDSHAKES_MAX: usize = 64;
/// How long one may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// What handshakes are made with.
pub(crate) struct Tls {
    cert_file: PathBuf,
    key_file: PathBuf,
    current: Mutex<Arc<ServerConfig>>,
}

impl Tls {
    /// By certificate and key, PEM.
    ///
    /// # Errors
    /// When a file can't be used.
    pub(crate) fn new(cert_file: &Path, key_file: &Path) -> Result<Self> {
        let config = read(cert_file, key_file).map_err(|error| Error::Usage(error.to_string()))?;
        let current = Mutex::new(Arc::new(config));
        Ok(Self { cert_file: cert_file.to_owned(), key_file: key_file.to_owned(), current })
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
                Ok(config) => {
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!("the API's certificate was read again");
                }
                Err(error) => tracing::error!(%error, "the API's certificate stays as it was"),
            }
        }
    }
}

fn read(cert_file: &Path, key_file: &Path) -> std::result::Result<ServerConfig, TlsError> {
    let chain = certificate::read_certificates("tls_cert_file", cert_file)?;
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
    Ok(config)
}

/// Connections whose handshake is made.
pub(super) struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: std::io::Result<SocketAddr>,
}

impl TlsListener {
    /// Takes connections until `stop`.
    pub(super) fn new(listener: TcpListener, tls: Arc<Tls>, stop: CancellationToken) -> Self {
        let (sender, ready) = mpsc::channel(HANDSHAKES_MAX);
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
    let turns = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (socket, address) = Listener::accept(&mut listener).await;
        let config = tls.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ready = ready.clone();
        tokio::spawn(async move {
            let _turn = turn;
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
