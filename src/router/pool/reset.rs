//! Statements that the router runs itself on a connection: to replay settings, and to clean up after a client.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use wire::backend::{self, TransactionStatus, tag};
use wire::{ErrorFields, frontend};

use crate::error::ClientError;
use crate::pool::connection::ServerConnection;
use crate::relay::{Buffers, limited};
use crate::state::note_parameter;

/// How long such a statement may take.
const RESET_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Why it failed.
#[derive(Debug)]
pub(crate) enum ResetError {
    /// The connection is lost or in an unknown state.
    Lost,
    /// The server refused; the connection is as it was before.
    Refused(ClientError),
}

impl From<io::Error> for ResetError {
    fn from(_: io::Error) -> Self {
        Self::Lost
    }
}

/// Runs statements, whose results nobody needs, outside a transaction; afterwards there is none either. Notifications that
/// come meanwhile are the client's, who may listen: they are added to `for_client`.
pub(crate) async fn run(
    connection: &mut ServerConnection,
    buffers: &Buffers,
    sql: &str,
    for_client: &mut BytesMut,
) -> Result<(), ResetError> {
    connection.unnamed = 0;
    frontend::write_query(connection.side.out(buffers), sql.as_bytes());
    let mut refused = None;
    let status = limited(RESET_TIMEOUT, "a statement of the router", async {
        connection.side.flush(buffers).await?;
        loop {
            let (tag, body) = connection.side.message(buffers, ANSWER_BYTES_MAX).await?;
            match tag {
                tag::READY_FOR_QUERY => return backend::ready_for_query(&body).map_err(io::Error::other),
                tag::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&body).map_err(io::Error::other)?;
                    note_parameter(&mut connection.params, name, value);
                }
                tag::NOTIFICATION => backend::write_message(for_client, tag, &body),
                tag::ERROR => {
                    let error = ErrorFields::parse(&body).map_err(io::Error::other)?;
                    if error.ends_session() {
                        return Err(io::ErrorKind::ConnectionAborted.into());
                    }
                    let (code, message) = (error.code.to_owned(), error.message.to_owned());
                    refused = Some(ClientError::Setting { code, message });
                }
                _ => {}
            }
        }
    })
    .await?;
    connection.side.rest(buffers);
    match (status, refused) {
        (TransactionStatus::Idle, None) => Ok(()),
        (TransactionStatus::Idle, Some(error)) => Err(ResetError::Refused(error)),
        _ => Err(ResetError::Lost),
    }
}

/// Ends a transaction that its client left open, and makes the connection as new if the client pinned it; `false` when
/// it can't be used any more.
pub(crate) async fn clean(
    connection: &mut ServerConnection,
    buffers: &Buffers,
    in_transaction: bool,
    discard: bool,
) -> bool {
    // It has no client any more.
    let nobody = &mut BytesMut::new();
    if in_transaction && run(connection, buffers, "ROLLBACK", nobody).await.is_err() {
        return false;
    }
    if discard {
        connection.prepared.clear();
        connection.applied = std::rc::Rc::default();
        return run(connection, buffers, "DISCARD ALL", nobody).await.is_ok();
    }
    true
}
