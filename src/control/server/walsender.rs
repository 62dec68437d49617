//! A replication connection, for the one thing that SQL can't do: create a slot and export its snapshot.
//!
//! tokio-postgres speaks no replication protocol, so this speaks it with the same project's message library. The
//! snapshot lives as long as this session is open and idle.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use catalog::tls::{TlsMode, TlsOptions};
use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use shard_map::Server;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::tls::TlsConnect as _;

use super::CONTROL_ROLE;
use super::connect::{
    CONNECT_TIMEOUT, Connector, KEEPALIVES_IDLE, KEEPALIVES_INTERVAL, KEEPALIVES_RETRIES, session_options,
};
use crate::error::{Error, Result};

/// A connection, with TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

/// What a server answers to a request for TLS.
const YES: u8 = b'S';

/// A session of a walsender that is not streaming.
pub(crate) struct Walsender {
    server: String,
    stream: Box<dyn Stream>,
    received: BytesMut,
}

/// A slot and the snapshot that it starts from.
#[derive(Debug)]
pub(crate) struct SlotSnapshot {
    /// For `SET TRANSACTION SNAPSHOT`.
    pub(crate) snapshot: String,
}

impl Walsender {
    /// Connects to a database of a server for logical replication.
    pub(crate) async fn connect(connector: &Connector, server: &Server, database: &str) -> Result<Self> {
        let name = server.name.to_string();
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, open(server, &connector.tls));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return Err(Error::ServerUnreachable { server: name, message: e.to_string() }),
            Err(_) => {
                let message = format!("no connection within connect_timeout ({CONNECT_TIMEOUT:?})");
                return Err(Error::ServerUnreachable { server: name, message });
            }
        };
        let mut walsender = Self { server: name, stream, received: BytesMut::new() };
        let password = connector.key().control_password(&server.name);
        match tokio::time::timeout(CONNECT_TIMEOUT, walsender.log_in(database, &password)).await {
            Ok(outcome) => outcome.map(|()| walsender),
            Err(_) => Err(walsender.broken("no login within connect_timeout")),
        }
    }

    async fn log_in(&mut self, database: &str, password: &str) -> Result<()> {
        let options = session_options();
        let parameters = [
            ("user", CONTROL_ROLE),
            ("database", database),
            ("replication", "database"),
            ("application_name", "tenantry control"),
            ("options", &options),
        ];
        self.send(|buffer| frontend::startup_message(parameters, buffer)).await?;
        let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
        loop {
            match self.receive().await? {
                Message::AuthenticationSasl(_) => {
                    let first = scram.message().to_vec();
                    self.send(|buffer| frontend::sasl_initial_response(SCRAM_SHA_256, &first, buffer))
                        .await?;
                }
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data()).map_err(|e| self.broken(&e.to_string()))?;
                    let answer = scram.message().to_vec();
                    self.send(|buffer| frontend::sasl_response(&answer, buffer)).await?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    scram.finish(body.data()).map_err(|e| self.broken(&e.to_string()))?;
                }
                Message::ReadyForQuery(_) => return Ok(()),
                Message::AuthenticationOk
                | Message::ParameterStatus(_)
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_) => {}
                _ => return Err(self.broken("the server asks for a login other than SCRAM-SHA-256")),
            }
        }
    }

    /// Creates a logical slot and exports its snapshot. Waits until every transaction that is open on the server now
    /// has ended, for at most `timeout`.
    pub(crate) async fn create_slot(&mut self, slot: &str, timeout: Duration) -> Result<SlotSnapshot> {
        let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" LOGICAL pgoutput (SNAPSHOT 'export')");
        match tokio::time::timeout(timeout, self.create(&command)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Error::Timeout(format!(
                "server {}: the slot was not ready within slot_timeout ({timeout:?}): a transaction there is open for longer",
                self.server
            ))),
        }
    }

    async fn create(&mut self, command: &str) -> Result<SlotSnapshot> {
        self.send(|buffer| frontend::query(command, buffer)).await?;
        let mut snapshot = None;
        loop {
            match self.receive().await? {
                // Columns: slot_name, consistent_point, snapshot_name, output_plugin.
                Message::DataRow(row) => snapshot = text_column(&row, 2),
                Message::ReadyForQuery(_) => break,
                _ => {}
            }
        }
        match snapshot {
            Some(snapshot) => Ok(SlotSnapshot { snapshot }),
            None => Err(self.broken("the slot's snapshot was not told")),
        }
    }

    async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> Result<()> {
        let mut buffer = BytesMut::new();
        write(&mut buffer).map_err(|e| self.broken(&e.to_string()))?;
        self.stream.write_all(&buffer).await.map_err(|e| self.broken(&e.to_string()))
    }

    /// The next message; an ErrorResponse becomes an error.
    async fn receive(&mut self) -> Result<Message> {
        loop {
            match Message::parse(&mut self.received).map_err(|e| self.broken(&e.to_string()))? {
                Some(Message::ErrorResponse(body)) => return Err(self.refused(&body)),
                Some(message) => return Ok(message),
                None => {}
            }
            let count =
                self.stream.read_buf(&mut self.received).await.map_err(|e| self.broken(&e.to_string()))?;
            if count == 0 {
                return Err(self.broken("the server closed the connection"));
            }
        }
    }

    fn refused(&self, body: &ErrorResponseBody) -> Error {
        let (mut message, mut sqlstate) = (String::new(), String::new());
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'M' => message = value,
                b'C' => sqlstate = value,
                _ => {}
            }
        }
        Error::Statement { server: self.server.clone(), message, sqlstate }
    }

    fn broken(&self, message: &str) -> Error {
        Error::ServerUnreachable { server: self.server.clone(), message: message.to_owned() }
    }
}

/// Opens a connection, and asks for TLS if it is wanted.
async fn open(server: &Server, tls: &TlsOptions) -> io::Result<Box<dyn Stream>> {
    let mut stream = TcpStream::connect((server.host.as_str(), server.port)).await?;
    // It stands idle for as long as a copy takes: what forgets connections on the way must see that it lives.
    SockRef::from(&stream).set_tcp_keepalive(&keepalive())?;
    if tls.mode == TlsMode::Disable {
        return Ok(Box::new(stream));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    // One byte and no more: what comes behind it must not be taken for something that was encrypted.
    if stream.read_u8().await? == YES {
        return Ok(Box::new(tls.connector().handshake(&server.host).connect(stream).await?));
    }
    if tls.mode >= TlsMode::Require {
        return Err(io::Error::other("the server does not do TLS, and server_tls_mode asks for it"));
    }
    Ok(Box::new(stream))
}

fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new()
        .with_time(KEEPALIVES_IDLE)
        .with_interval(KEEPALIVES_INTERVAL)
        .with_retries(KEEPALIVES_RETRIES)
}

fn text_column(row: &DataRowBody, column: usize) -> Option<String> {
    let range = row.ranges().nth(column).ok().flatten().flatten()?;
    String::from_utf8(row.buffer()[range].to_vec()).ok()
}
