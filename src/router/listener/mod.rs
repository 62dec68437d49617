//! The port for clients. Each worker has a door of its own to it, so that a connection is accepted and logs in where it
//! may stay: threads that hand it to one another, as often as a login waits for the client, cost more than the login.

mod admit;
mod door;
mod logins;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use door::Door;
pub(crate) use logins::Logins;

use crate::error::RouterError;
use crate::shared::Shared;
use crate::systemd;
use crate::worker::WorkerMessage;

const BACKLOG: i32 = 4096;
/// How long workers may take to leave the port.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
    pub(crate) fn listen(self) -> Result<std::net::TcpListener, RouterError> {
        let Self { socket, key, address } = self;
        match socket.listen(BACKLOG) {
            Ok(()) => Ok(socket.into()),
            Err(source) => Err(RouterError::Listen { key, address, source }),
        }
    }
}

/// Where clients come from.
pub(crate) enum Port {
    /// A port of this process's own, which it closes when it stops: a socket for each worker, between which the kernel
    /// divides the connections.
    Own(Vec<Bound>),
    /// One that somebody else keeps open: whom this process does not accept, the next one will.
    Lent(std::net::TcpListener),
}

impl Port {
    /// The port that the process was started with, or else its own.
    pub(crate) fn open(
        lent: Option<std::net::TcpListener>,
        address: SocketAddr,
        workers: usize,
    ) -> Result<Self, RouterError> {
        let Some(lent) = lent else {
            let sockets = (0..workers).map(|_| bind("listen", address));
            return sockets.collect::<Result<_, _>>().map(Self::Own);
        };
        match lent.set_nonblocking(true) {
            Ok(()) => Ok(Self::Lent(lent)),
            Err(source) => Err(RouterError::Listen { key: "listen", address, source }),
        }
    }

    /// Lets clients come: a door for each worker.
    pub(crate) fn listen(self, shared: &Shared) -> Result<Vec<Door>, RouterError> {
        match self {
            Self::Own(sockets) => sockets.into_iter().map(|bound| bound.listen().map(Door::own)).collect(),
            Self::Lent(listener) => {
                let lend = |_| listener.try_clone().map(Door::lent);
                let doors = shared.workers.iter().map(lend).collect::<Result<_, _>>();
                let address = shared.config().listen;
                doors.map_err(|source| RouterError::Listen { key: "listen", address, source })
            }
        }
    }
}

/// Accepts at all doors until `stop` ends, and nobody is left in front of them. Logins may be under way then.
pub(crate) async fn run(doors: Vec<Door>, shared: &Arc<Shared>, stop: impl Future<Output = ()>) {
    let (closing, open) = (CancellationToken::new(), TaskTracker::new());
    for (worker, door) in shared.workers.iter().zip(doors) {
        let message = WorkerMessage::Open(door, closing.clone(), open.token());
        // A worker ends only after this one has.
        drop(worker.send(message).await);
    }
    shared.serving.store(true, Ordering::Relaxed);
    systemd::ready();
    stop.await;
    shared.serving.store(false, Ordering::Relaxed);
    systemd::stopping();
    closing.cancel();
    open.close();
    if tokio::time::timeout(CLOSE_TIMEOUT, open.wait()).await.is_err() {
        tracing::warn!("a worker does not answer: its part of the port stays open until the end");
    }
}
