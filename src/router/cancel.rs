//! Passes a cancel request on: to the worker of the session, and from there to the server that runs the statement, or to
//! the router that the session is on.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::peers;
use crate::pool::CancelTarget;
use crate::relay::limited;
use crate::shared::Shared;
use crate::stream::Stream;
use crate::worker::{Worker, WorkerMessage};

/// How long who asked to cancel is kept waiting.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for the end of a connection with TLS.
const END_BYTES: usize = 64;

/// To a worker: cancel what the client with this key is running.
pub(crate) struct CancelRequest {
    pub(crate) process_id: u32,
    pub(crate) key: Vec<u8>,
    /// It comes from another router.
    pub(crate) is_passed_on: bool,
    /// Dropped when what could be done has been done.
    pub(crate) done: oneshot::Sender<()>,
}

/// Sees to a cancel request; ends when what could be done has been done. Who asked is told by the end of its connection,
/// and may only then use the session again without its next statement being hit.
pub(crate) async fn request(shared: &Shared, process_id: u32, key: Vec<u8>, is_passed_on: bool) {
    let (done, ended) = oneshot::channel();
    let worker = peers::local_part(process_id) as usize % shared.workers.len();
    let request = CancelRequest { process_id, key, is_passed_on, done };
    let carried_out = async {
        // A worker that is gone runs nothing.
        if shared.workers[worker].send(WorkerMessage::Cancel(request)).await.is_ok() {
            drop(ended.await);
        }
    };
    drop(tokio::time::timeout(REQUEST_TIMEOUT, carried_out).await);
}

impl Worker {
    /// Cancels what a client of this worker is running, or passes the request on.
    pub(crate) fn cancel(&self, request: CancelRequest) {
        let CancelRequest { process_id, key, is_passed_on, done } = request;
        let client = self.clients.borrow().get(&process_id).cloned();
        if let Some(client) = client {
            if !client.has_key(&key) {
                self.shared.metrics.cancels.refused.with_label_values(&["key"]).inc();
                return;
            }
            if let Some(target) = client.running() {
                self.shared.metrics.cancels.sent.inc();
                let cancelled = cancel(target, self.shared.config().connect_timeout);
                self.spawn_to_end(async move {
                    cancelled.await;
                    drop(done);
                });
            }
        } else if is_passed_on {
            self.shared.metrics.cancels.refused.with_label_values(&["nobody"]).inc();
        } else {
            let passed_on = peers::pass_on(self.shared.clone(), process_id, key);
            self.spawn_to_end(async move {
                passed_on.await;
                drop(done);
            });
        }
    }
}

struct UnderWay(Rc<CancelTarget>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
    }
}

/// Cancels what a connection is running. Until it has ended, the connection goes to nobody else: from this call on, not
/// only from the first poll of what it gives.
pub(crate) fn cancel(target: Rc<CancelTarget>, time: Duration) -> impl Future<Output = ()> {
    target.under_way.set(target.under_way.get() + 1);
    let under_way = UnderWay(target.clone());
    async move {
        let sent = limited(time, "a cancel request", async {
            let mut stream = match &target.tls {
                None => Stream::plain(TcpStream::connect(target.address).await?),
                Some(tls) => tls.connect(target.address, &target.host, true).await?,
            };
            let mut request = BytesMut::new();
            wire::startup::write_cancel(&mut request, target.process_id, &target.key);
            stream.write_all(&request).await?;
            // The server closes when the signal is sent.
            let (mut end, mut cipher) = (BytesMut::with_capacity(1), BytesMut::with_capacity(END_BYTES));
            std::future::poll_fn(|cx| stream.poll_read(cx, &mut end, &mut cipher)).await.map(drop)
        });
        let outcome: io::Result<()> = sent.await;
        if let Err(error) = outcome {
            // It may still arrive, whenever: no other client's statement must be there then.
            target.spoiled.set(true);
            tracing::warn!(address = %target.address, %error, "a cancel request did not reach the server");
        }
        drop(under_way);
    }
}
