//! Passes a cancel request on to the server that runs the statement.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::pool::CancelTarget;
use crate::relay::limited;

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
            let mut stream = TcpStream::connect(target.address).await?;
            let mut request = BytesMut::new();
            wire::startup::write_cancel(&mut request, target.process_id, &target.key);
            stream.write_all(&request).await?;
            // The server closes when the signal is sent.
            let mut end = [0_u8; 1];
            stream.read(&mut end).await.map(drop)
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
