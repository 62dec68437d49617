//! Takes connections, and brings each through its login to the worker of its tenant.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use wire::Severity;

use crate::cancel;
use crate::error::{ClientError, RouterError};
use crate::login::{self, Arrival, Talk, Unfinished};
use crate::session::NewClient;
use crate::worker::{Shared, WorkerMessage};

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

/// Logins under way, in the order in which they began.
struct Logins {
    tasks: TaskTracker,
    /// The oldest first; some have ended already.
    begun: VecDeque<AbortHandle>,
    shared: Arc<Shared>,
    secret: Arc<[u8; 32]>,
}

/// Ended logins that are kept track of, beside as many as are under way.
const ENDED_KEPT: usize = 64;

impl Logins {
    fn begin(&mut self, socket: TcpStream, address: SocketAddr) {
        if self.tasks.len() >= self.shared.config().logins_max {
            self.shared.metrics.limit("logins_max");
            self.end_oldest();
        }
        let (shared, secret) = (self.shared.clone(), self.secret.clone());
        let task = self.tasks.spawn(async move { admit(socket, address, &shared, secret.as_slice()).await });
        if self.begun.len() > 2 * self.tasks.len() + ENDED_KEPT {
            self.begun.retain(|login| !login.is_finished());
        }
        self.begun.push_back(task.abort_handle());
    }

    /// Ends the login that has taken longest: most likely one that will never finish.
    fn end_oldest(&mut self) {
        while let Some(oldest) = self.begun.pop_front() {
            if !oldest.is_finished() {
                oldest.abort();
                self.shared.metrics.logins.with_label_values(&["ended"]).inc();
                return;
            }
        }
    }
}

/// Accepts until `stop` ends; then waits for the logins under way.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>, stop: impl Future<Output = ()>) {
    let secret = Arc::new(login::mock_secret(&shared.master_key));
    let mut logins = Logins { tasks: TaskTracker::new(), begun: VecDeque::new(), shared, secret };
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, address)) => logins.begin(socket, address),
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                // If it is for want of descriptors, this gives one back.
                logins.end_oldest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    logins.tasks.close();
    logins.tasks.wait().await;
}

async fn admit(socket: TcpStream, address: SocketAddr, shared: &Arc<Shared>, secret: &[u8]) {
    // Without it, small answers wait for the client's acknowledgements.
    drop(socket.set_nodelay(true));
    let time = shared.config().login_timeout;
    let mut talk = Talk::new(socket, address.ip().to_canonical());
    let arrival = tokio::time::timeout(time, login::receive(&mut talk, shared, secret))
        .await
        .unwrap_or(Err(Unfinished::Refused(ClientError::LoginTimeout(time))));
    let outcome = match arrival {
        Ok(Arrival::Cancel { process_id, key }) => {
            cancel::request(shared, process_id, key, false).await;
            return;
        }
        Ok(Arrival::Client(login, place, greeting)) => {
            let worker = shared.worker_of(&login.tenant);
            let Talk { stream, input, .. } = talk;
            let Ok(stream) = stream.detach() else { return };
            let client = NewClient { stream, early: input.to_vec(), greeting, login, place };
            // A worker that is gone has shut down: the client finds its connection closed.
            drop(shared.workers[worker].send(WorkerMessage::Client(Box::new(client))).await);
            "ok"
        }
        Err(Unfinished::Refused(error)) => refuse(&mut talk, &error, shared).await,
        Err(Unfinished::Tls(error)) => {
            tracing::debug!(address = %talk.address, %error, "a TLS handshake failed");
            "tls_failed"
        }
        Err(Unfinished::Gone) => "abandoned",
    };
    shared.metrics.logins.with_label_values(&[outcome]).inc();
}

/// Tells a client why it is not let in; gives the word under which that is counted.
async fn refuse(talk: &mut Talk, error: &ClientError, shared: &Shared) -> &'static str {
    shared.metrics.refused(error);
    let is_wrong_password = matches!(error, ClientError::Password(_));
    if is_wrong_password {
        shared.failures.note(talk.address, shared.config().login_failures_per_address_max);
    }
    tracing::debug!(address = %talk.address, %error, sqlstate = error.sqlstate(), "login refused");
    let mut out = BytesMut::new();
    error.write(&mut out, Severity::Fatal);
    drop(tokio::time::timeout(REFUSAL_TIMEOUT, talk.send(&mut out)).await);
    talk.stream.close();
    if is_wrong_password { "wrong_password" } else { "refused" }
}
