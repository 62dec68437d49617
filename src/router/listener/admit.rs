//! Brings a connection through its login to the worker of its tenant.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use wire::Severity;

use crate::admin::NewAdmin;
use crate::cancel;
use crate::error::ClientError;
use crate::login::{self, Arrival, Talk, Unfinished};
use crate::session::NewClient;
use crate::shared::Shared;
use crate::worker::Worker;

/// How long a refused client may take to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Finds out who came, and takes it to where it belongs.
pub(super) async fn admit(socket: TcpStream, address: SocketAddr, worker: &Rc<Worker>) {
    // Without it, small answers wait for the client's acknowledgements.
    drop(socket.set_nodelay(true));
    let shared = &worker.shared;
    let time = shared.config().login_timeout;
    let mut talk = Talk::new(socket, address.ip().to_canonical(), worker.handshakes.clone());
    let arrival = tokio::time::timeout(time, login::receive(&mut talk, shared))
        .await
        .unwrap_or(Err(Unfinished::Refused(ClientError::LoginTimeout(time))));
    let outcome = match arrival {
        Ok(Arrival::Cancel { process_id, key }) => {
            cancel::request(shared, process_id, key, false).await;
            return;
        }
        Ok(Arrival::Client(login, place, greeting)) => {
            tracing::debug!(client = %talk.address, user = login.user, tenant = %login.tenant, "logged in");
            let Talk { stream, input, address, .. } = talk;
            let client = NewClient { stream, early: input.to_vec(), greeting, address, login, place };
            worker.welcome(Box::new(client)).await;
            "ok"
        }
        Ok(Arrival::Admin(login, place, greeting)) => {
            let Talk { stream, input, .. } = talk;
            let Ok(stream) = stream.detach() else { return };
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
