//! The other routers of the fleet: how many live, and where each takes cancel requests for its clients.
//!
//! A process id names its router: whoever gets a cancel request can tell whom it is for. Requests from other routers
//! come in at a port of their own, which each process has from its start to its end: the port for clients may be another
//! process's, or closed. What came in there is never passed on again. No secret protects that port: it takes nothing
//! but cancel requests, and those need the client's key.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use catalog::RouterRow;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use wire::startup::{Initial, parse_initial, write_cancel};

use crate::accept;
use crate::cancel;
use crate::error::RouterError;
use crate::relay::limited;
use crate::shared::Shared;

/// Bits of a process id that tell a router's clients apart; those above are the router's number.
const LOCAL_BITS: u32 = 21;
/// Greatest part of a process id that is a client's own.
pub(crate) const LOCAL_MAX: u32 = (1 << LOCAL_BITS) - 1;
/// Cancel requests under way to other routers at a time; more are dropped.
const PASSED_ON_MAX: usize = 64;
/// Cancel requests under way from other routers at a time; more wait in the kernel's queue.
const TAKEN_MAX: usize = 64;
/// How long passing on a cancel request may take; and another router's may take to arrive.
const PASS_ON_TIMEOUT: Duration = Duration::from_secs(5);

/// What is known of the other routers, and this one's place among them.
pub(crate) struct Peers {
    /// What no other process has.
    pub(crate) process: String,
    /// Where others reach this one: the host if it is known, and the port.
    pub(crate) cancel_host: Option<String>,
    pub(crate) cancel_port: u16,
    /// 0 until the catalog has given one.
    number: AtomicU32,
    /// Where to pass on cancel requests, by number.
    others: ArcSwap<HashMap<u32, String>>,
    passed_on: Semaphore,
}

/// The part of a process id that is the client's own.
pub(crate) fn local_part(process_id: u32) -> u32 {
    process_id & LOCAL_MAX
}

/// The part of a process id that names its router.
fn number_part(process_id: u32) -> u32 {
    process_id >> LOCAL_BITS
}

impl Peers {
    /// A router that takes cancel requests at this address and knows of no other yet.
    pub(crate) fn new(name: &str, address: SocketAddr) -> Self {
        let host = (!address.ip().is_unspecified()).then(|| address.ip().to_string());
        Self {
            process: format!("{name}/{:08x}", rand::random::<u32>()),
            cancel_host: host,
            cancel_port: address.port(),
            number: AtomicU32::new(0),
            others: ArcSwap::default(),
            passed_on: Semaphore::new(PASSED_ON_MAX),
        }
    }

    /// Takes note of the routers that live; gives their number, this one included.
    pub(crate) fn learn(&self, live: &[RouterRow]) -> usize {
        let number = |router: &RouterRow| router.number.map_or(0, u32::from);
        let (own, others): (Vec<_>, Vec<_>) = live.iter().partition(|row| row.process == self.process);
        self.number.store(own.first().map_or(0, |row| number(row)), Ordering::Relaxed);
        let others_at = others.iter().map(|row| (number(row), row.cancel_address.clone()));
        self.others.store(Arc::new(others_at.filter(|(number, _)| *number > 0).collect()));
        others.len() + 1
    }

    /// The process id of a client.
    pub(crate) fn process_id(&self, local: u32) -> u32 {
        (self.number.load(Ordering::Relaxed) << LOCAL_BITS) | local_part(local)
    }

    /// Where to pass on a cancel request for this process id, if it is another live router's.
    fn address_of(&self, process_id: u32) -> Option<String> {
        self.others.load().get(&number_part(process_id)).cloned()
    }
}

/// Binds the port for cancel requests from other routers.
pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), RouterError> {
    let failed = |source| RouterError::Listen { key: "cancel_listen", address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Takes cancel requests from other routers, without end.
pub(crate) async fn run(listener: TcpListener, shared: Arc<Shared>) {
    let (turns, requests) = (Arc::new(Semaphore::new(TAKEN_MAX)), TaskTracker::new());
    loop {
        // The semaphore is never closed.
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (stream, _) = accept::accept(&listener, "cancel_listen", || ()).await;
        let shared = shared.clone();
        requests.spawn(async move {
            if let Err(error) = take(stream, &shared).await {
                tracing::debug!(%error, "a cancel request from another router did not arrive");
            }
            drop(turn);
        });
    }
}

async fn take(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut input = BytesMut::new();
    let request = limited(PASS_ON_TIMEOUT, "a cancel request", async {
        loop {
            if let Some((request, _)) = parse_initial(&input).map_err(io::Error::other)? {
                return Ok(request);
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    });
    match request.await? {
        Initial::Cancel { process_id, key } => {
            cancel::request(shared, process_id, key, true).await;
            Ok(())
        }
        _ => Err(io::Error::other("only cancel requests are taken here")),
    }
}

/// Passes a cancel request on to the router that its process id names, if that is another one.
pub(crate) async fn pass_on(shared: Arc<Shared>, process_id: u32, key: Vec<u8>) {
    let Some(address) = shared.peers.address_of(process_id) else {
        shared.metrics.cancels.refused.with_label_values(&["nobody"]).inc();
        return;
    };
    let passed = async {
        let _turn = shared.peers.passed_on.try_acquire().map_err(io::Error::other)?;
        limited(PASS_ON_TIMEOUT, "a cancel request to another router", async {
            let mut stream = TcpStream::connect(&address).await?;
            let mut request = BytesMut::new();
            write_cancel(&mut request, process_id, &key);
            stream.write_all(&request).await?;
            // The other router closes when it has done what it could.
            stream.read(&mut [0_u8; 1]).await.map(drop)
        })
        .await
    };
    let outcome = match passed.await {
        Ok(()) => "ok",
        Err(error) => {
            // Anybody can ask for it without a login, as often as they like: it is counted, and no line of the log by default.
            tracing::debug!(router = %address, %error, "a cancel request did not reach the router of its session");
            "failed"
        }
    };
    shared.metrics.cancels.passed_on.with_label_values(&[outcome]).inc();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(process: &str, number: Option<u16>) -> RouterRow {
        let report = catalog::Report::default();
        let (name, address, cancel_address) = (process.to_owned(), String::new(), format!("{process}:1"));
        RouterRow {
            process: process.to_owned(),
            name,
            address,
            number,
            cancel_address,
            map_version: 1,
            report,
        }
    }

    #[test]
    fn a_process_id_names_its_router_and_is_never_negative() {
        let peers = Peers::new("a", SocketAddr::from(([0, 0, 0, 0], 7)));
        assert_eq!(peers.process_id(5), 5, "before the catalog was reached");
        let live = [row(&peers.process, Some(1023)), row("b", Some(2)), row("c", None)];
        assert_eq!(peers.learn(&live), 3);
        let id = peers.process_id(LOCAL_MAX);
        assert!(i32::try_from(id).is_ok() && local_part(id) == LOCAL_MAX && number_part(id) == 1023);
        assert_eq!(peers.address_of(id), None, "its own is not passed on");
        assert_eq!(peers.address_of((2 << LOCAL_BITS) | 9).as_deref(), Some("b:1"));
        assert_eq!(peers.address_of(9), None, "no number is nobody's");
    }
}
