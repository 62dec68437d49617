//! Probes of servers that nobody logs in at: what they were found to be when somebody last did, reports and metrics would
//! go on to tell.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wire::backend::tag;
use wire::{ErrorFields, startup};

use super::breaker::{Attempt, Trouble};
use crate::shared::Shared;

/// How often is looked for a server that somebody should have tried by now.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest first message of a server.
const ANSWER_BYTES_MAX: usize = 8 * 1024;
/// Asked for without a password: the server says what it wants, or what is in the way.
const WHO: [(&str, &str); 2] = [("user", "tenantry_probe"), ("database", "postgres")];

/// Tries, without end, what takes no logins and nobody else tries.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let probes = shared.breakers.forgotten(INTERVAL).into_iter().map(|attempt| probe(&shared, attempt));
        join_all(probes).await;
    }
}

async fn probe(shared: &Shared, attempt: Attempt) {
    let Some(address) =
        shared.map.read().servers.get(attempt.server()).map(|server| (server.host.clone(), server.port))
    else {
        // It was removed.
        return;
    };
    match tokio::time::timeout(shared.config().connect_timeout, ask(address)).await {
        Ok(Ok(None)) => attempt.answered(),
        Ok(Ok(Some(trouble))) => attempt.failed(trouble, "it is starting up, or shutting down"),
        Ok(Err(error)) => attempt.failed(Trouble::Down, &error.to_string()),
        Err(_) => attempt.failed(Trouble::Down, "it does not answer within connect_timeout"),
    }
}

/// What is wrong with a server, by its first word; none if it is one that whoever lets clients in would say.
async fn ask(address: (String, u16)) -> io::Result<Option<Trouble>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut request = BytesMut::new();
    startup::write_startup(&mut request, &WHO);
    stream.write_all(&request).await?;
    let mut answer = BytesMut::new();
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let header = wire::header(&answer, ANSWER_BYTES_MAX).map_err(io::Error::other)?;
        let Some(header) = header.filter(|header| answer.len() >= header.total()) else { continue };
        if header.tag != tag::ERROR {
            return Ok(None);
        }
        let body = &answer[header.total() - header.body..header.total()];
        let error = ErrorFields::parse(body).map_err(io::Error::other)?;
        return Ok(matches!(error.code, "57P01" | "57P02" | "57P03").then_some(Trouble::Starting));
    }
}
