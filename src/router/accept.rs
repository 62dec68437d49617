//! Accepts connections. One that can't be accepted, for want of file descriptors most likely, is tried again.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

/// Pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// The next connection to a port; `key` is the port's in the configuration. Calls `failed` each time that it fails.
pub(crate) async fn accept(
    listener: &TcpListener,
    key: &'static str,
    mut failed: impl FnMut(),
) -> (TcpStream, SocketAddr) {
    let mut is_told = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                if !std::mem::replace(&mut is_told, true) {
                    tracing::warn!(%error, "can't accept connections on {key} for now");
                }
                failed();
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
