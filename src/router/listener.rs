//! Takes connections, and brings each through its login to the worker of its tenant.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockFilter;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;
use wire::Severity;

use crate::admin::NewAdmin;
use crate::cancel;
use crate::error::{ClientError, RouterError};
use crate::login::{self, Arrival, Talk, Unfinished};
use crate::session::NewClient;
use crate::shared::Shared;
use crate::systemd;
use crate::worker::WorkerMessage;

const BACKLOG: i32 = 4096;
/// Pause after an accept that failed, for want of file descriptors most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take to end the handshake of TCP that it has begun when the port is closed.
const HANDSHAKE_TIME: Duration = Duration::from_millis(20);

/// A port that is bound, and so this process's; the kernel sends nobody there yet.
pub(crate) struct Bound {
    socket: socket2::Socket,
    key: &'static str,
    address: SocketAddr,
}

/// Binds a port that a second process may have, too.
pub(crate) fn bind(key: &'static str, address: SocketAddr) -> Result<Bound, RouterError> {
    let bind = || -> io::Result<socket2::Socket> {
        let (domain, protocol) = (socket2::Domain::for_address(address), Some(socket2::Protocol::TCP));
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, protocol)?;
        socket.set_reuse_address(true)?;
        // A process that takes over is there before this one leaves.
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    let socket = bind().map_err(|source| RouterError::Listen { key, address, source })?;
    Ok(Bound { socket, key, address })
}

impl Bound {
    /// Opens it.
    pub(crate) fn listen(self) -> Result<TcpListener, RouterError> {
        let Self { socket, key, address } = self;
        let opened = socket.listen(BACKLOG).and_then(|()| TcpListener::from_std(socket.into()));
        opened.map_err(|source| RouterError::Listen { key, address, source })
    }
}

/// Where clients come from.
pub(crate) enum Port<T = TcpListener> {
    /// A port of this process's own, which it closes when it stops.
    Own(T),
    /// One that somebody else keeps open: whom this process does not accept, the next one will.
    Lent(TcpListener),
}

impl Port<Bound> {
    /// The port that the process was started with, or else its own.
    pub(crate) fn open(
        lent: Option<std::net::TcpListener>,
        address: SocketAddr,
    ) -> Result<Self, RouterError> {
        let Some(lent) = lent else { return bind("listen", address).map(Self::Own) };
        let adopted = lent.set_nonblocking(true).and_then(|()| TcpListener::from_std(lent));
        adopted.map(Self::Lent).map_err(|source| RouterError::Listen { key: "listen", address, source })
    }

    /// Lets clients come.
    pub(crate) fn listen(self) -> Result<Port, RouterError> {
        Ok(match self {
            Self::Own(bound) => Port::Own(bound.listen()?),
            Self::Lent(listener) => Port::Lent(listener),
        })
    }
}

/// Logins under way, in the order in which they began.
pub(crate) struct Logins {
    pub(crate) tasks: TaskTracker,
    /// The oldest first; some have ended already.
    pub(crate) begun: VecDeque<AbortHandle>,
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

/// Accepts until `stop` ends; gives the logins under way then.
pub(crate) async fn run(port: Port, shared: Arc<Shared>, stop: impl Future<Output = ()>) -> Logins {
    let secret = Arc::new(login::mock_secret(&shared.master_key));
    let begun = VecDeque::new();
    let mut logins = Logins { tasks: TaskTracker::new(), begun, shared: shared.clone(), secret };
    let (Port::Own(listener) | Port::Lent(listener)) = &port;
    shared.serving.store(true, Ordering::Relaxed);
    systemd::ready();
    tokio::select! {
        () = stop => {}
        () = accept(listener, &mut logins) => {}
    }
    shared.serving.store(false, Ordering::Relaxed);
    systemd::stopping();
    if let Port::Own(listener) = port {
        leave(listener, &mut logins).await;
    }
    logins
}

/// Accepts without end.
async fn accept(listener: &TcpListener, logins: &mut Logins) {
    loop {
        match listener.accept().await {
            Ok((socket, address)) => logins.begin(socket, address),
            Err(error) => {
                tracing::warn!(%error, "can't accept a connection");
                // If it is for want of descriptors, this gives one back.
                logins.end_oldest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Closes the port without losing anybody who is in its queue: the kernel would reset them, although another process
/// listens there, too.
async fn leave(listener: TcpListener, logins: &mut Logins) {
    if let Err(error) = let_nobody_in(&listener) {
        tracing::debug!(%error, "connections may come to the port until it is closed");
    }
    let end = tokio::time::Instant::now() + HANDSHAKE_TIME;
    while let Ok(Ok((socket, address))) = tokio::time::timeout_at(end, listener.accept()).await {
        logins.begin(socket, address);
    }
}

/// Drops packets that open a connection. Who sent one sends it again after a second, and finds the process that listens
/// then; handshakes that have begun come to their end.
fn let_nobody_in(listener: &TcpListener) -> io::Result<()> {
    // From linux/bpf_common.h. The packet begins with TCP's header, whose byte 13 has the flags.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    socket2::SockRef::from(listener).attach_filter(&[
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ])
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
            tracing::debug!(client = %talk.address, user = login.user, tenant = %login.tenant, "logged in");
            let Talk { stream, input, address, .. } = talk;
            let Ok(stream) = stream.detach() else { return };
            let client = NewClient { stream, early: input.to_vec(), greeting, address, login, place };
            // A worker that is gone has shut down: the client finds its connection closed.
            drop(shared.workers[worker].send(WorkerMessage::Client(Box::new(client))).await);
            "ok"
        }
        Ok(Arrival::Admin(login, place, greeting)) => {
            let Talk { stream, input, .. } = talk;
            shared.console.begin(NewAdmin { stream, early: input, greeting, login, place }, shared.clone());
            "ok"
        }
        Err(Unfinished::Refused(error)) => refuse(&mut talk, &error, shared).await,
        Err(Unfinished::Tls(error)) => {
            tracing::info!(client = %talk.address, %error, "a TLS handshake failed");
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
    let outcome = if is_wrong_password { "wrong_password" } else { "refused" };
    let ((user, tenant), sqlstate) = (&talk.names, error.sqlstate());
    if user.is_empty() {
        // Nobody in particular: whoever reaches the port could fill the log.
        tracing::debug!(client = %talk.address, outcome, sqlstate, %error, "login refused");
    } else {
        tracing::info!(user, tenant, client = %talk.address, outcome, sqlstate, %error, "login refused");
    }
    let mut out = BytesMut::new();
    error.write(&mut out, Severity::Fatal);
    drop(tokio::time::timeout(REFUSAL_TIMEOUT, talk.send(&mut out)).await);
    talk.stream.close();
    outcome
}
