//! Takes connections, and brings each through its login to the worker of its tenant.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use wire::Severity;

use crate::cancel;
use crate::error::{ClientError, RouterError};
use crate::login::{self, Arrival};
use crate::session::NewClient;
use crate::worker::{Shared, WorkerMessage};

/// Logins under way at a time; who comes later waits in the kernel's queue.
const LOGINS_MAX: usize = 1000;
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Binds a port that a second process may have, too.
pub(crate) fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, RouterError> {
    let listen = || -> io::Result<TcpListener> {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            Some(socket2::Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        // A process that takes over is there before this one leaves.
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    listen().map_err(|source| RouterError::Listen { key, address, source })
}

/// Accepts until `stop` ends; then waits for the logins under way.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    let logins = TaskTracker::new();
    let under_way = Arc::new(Semaphore::new(LOGINS_MAX));
    let mock_secret: Arc<[u8; 32]> = Arc::new(login::mock_secret(&shared.master_key));
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let turn = tokio::select! {
            () = &mut stop => break,
            turn = under_way.clone().acquire_owned() => turn,
        };
        let Ok(turn) = turn else { break };
        let (shared, secret) = (shared.clone(), mock_secret.clone());
        logins.spawn(async move {
            admit(stream, &shared, secret.as_slice()).await;
            drop(turn);
        });
    }
    drop(listener);
    logins.close();
    logins.wait().await;
}

async fn admit(mut stream: TcpStream, shared: &Arc<Shared>, secret: &[u8]) {
    // Without it, small answers wait for the client's acknowledgements.
    drop(stream.set_nodelay(true));
    let time = shared.config().login_timeout;
    let mut early = BytesMut::new();
    let arrival = login::receive(&mut stream, &mut early, shared, secret);
    let arrival =
        tokio::time::timeout(time, arrival).await.unwrap_or(Err(Some(ClientError::LoginTimeout(time))));
    match arrival {
        Ok(Arrival::Cancel { process_id, key }) => {
            cancel::request(shared, process_id, key, false).await;
        }
        Ok(Arrival::Client(login, place)) => {
            let worker = shared.worker_of(&login.tenant);
            let Ok(stream) = stream.into_std() else { return };
            shared.metrics.logins.with_label_values(&["ok"]).inc();
            let client = NewClient { stream, early: early.to_vec(), login, place };
            // A worker that is gone has shut down: the client finds its connection closed.
            drop(shared.workers[worker].send(WorkerMessage::Client(Box::new(client))).await);
        }
        Err(Some(error)) => {
            let outcome =
                if matches!(error, ClientError::Password(_)) { "wrong_password" } else { "refused" };
            shared.metrics.logins.with_label_values(&[outcome]).inc();
            shared.metrics.refused(&error);
            tracing::debug!(%error, sqlstate = error.sqlstate(), "login refused");
            let mut out = BytesMut::new();
            error.write(&mut out, Severity::Fatal);
            let said = tokio::time::timeout(REFUSAL_TIMEOUT, login::send(&mut stream, &mut out)).await;
            drop(said);
        }
        // It went away without a word.
        Err(None) => shared.metrics.logins.with_label_values(&["abandoned"]).inc(),
    }
}
