//! A worker's door: takes connections from the port, and begins their logins.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::SockFilter;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::admit::admit;
use crate::accept;
use crate::worker::Worker;

/// How long a client may take to end the handshake of TCP that it has begun when the port is closed.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(20);

/// One of the ways to the port.
pub(crate) struct Door {
    listener: std::net::TcpListener,
    /// Nobody else accepts what is in its queue.
    is_own: bool,
}

impl Door {
    /// A socket of its own.
    pub(super) fn own(listener: std::net::TcpListener) -> Self {
        Self { listener, is_own: true }
    }

    /// A socket that others accept from, too.
    pub(super) fn lent(listener: std::net::TcpListener) -> Self {
        Self { listener, is_own: false }
    }

    /// Accepts for this worker until `closing` says so.
    pub(crate) async fn run(self, worker: &Rc<Worker>, closing: CancellationToken) {
        let listener = match TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "a worker can't watch the port, and accepts nobody");
                return;
            }
        };
        tokio::select! {
            () = closing.cancelled() => {}
            () = accept(&listener, worker) => {}
        }
        if self.is_own {
            leave(listener, worker).await;
        }
    }
}

/// Accepts without end.
async fn accept(listener: &TcpListener, worker: &Rc<Worker>) {
    loop {
        let short = || worker.shared.descriptors_are_short();
        let (socket, address) = accept::accept(listener, "listen", short).await;
        worker.begin_login(socket, address);
    }
}

/// Closes the port without losing anybody who is in its queue: the kernel would reset them, although another process
/// listens there, too.
async fn leave(listener: TcpListener, worker: &Rc<Worker>) {
    let mut end = tokio::time::Instant::now();
    // Otherwise only who is in the queue already is taken in, for the case that no other process is there.
    if !kernel_hands_over() {
        if let Err(error) = let_nobody_in(&listener) {
            tracing::debug!(%error, "connections may come to the port until it is closed");
        }
        end += HANDSHAKE_TIMEOUT;
    }
    while let Ok(Ok((socket, address))) = tokio::time::timeout_at(end, listener.accept()).await {
        worker.begin_login(socket, address);
    }
}

/// Whether the kernel gives a closed socket's queue, and the handshakes that have begun there, to another process on the port.
fn kernel_hands_over() -> bool {
    let setting = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_migrate_req");
    setting.is_ok_and(|value| value.trim() == "1")
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

impl Worker {
    fn begin_login(self: &Rc<Self>, socket: TcpStream, address: SocketAddr) {
        let logins = &self.shared.logins;
        if logins.count() >= self.shared.config().logins_max {
            self.shared.metrics.limit("logins_max");
            self.shared.end_oldest_login();
        }
        let worker = self.clone();
        logins.begin(async move { admit(socket, address, &worker).await });
    }
}
