//! A login: the proxy's word if there is one, TLS, the startup packet, the password, the tenant.
//!
//! Nothing about tenants is told before the password was right, and an unknown user is answered like a wrong password,
//! after the same work.

mod access;
mod names;
mod password;
mod settings;
mod talk;

use std::io;

use bytes::{Buf as _, BytesMut};
use tokio::sync::OwnedSemaphorePermit;
use wire::proxy::{self, Origin};
use wire::startup::{Initial, Startup, parse_initial};
use wire::{WireError, backend};

pub(crate) use password::mock_secret;
pub(crate) use talk::Talk;

use crate::admin::{self, AdminLogin};
use crate::error::ClientError;
use crate::places::Place;
use crate::session::Login;
use crate::shared::Shared;
use crate::tls::{ALPN, TlsMode};
use settings::Settings;

/// Requests for encryption before the startup packet: one of each kind.
const ENCRYPTION_REQUESTS_MAX: usize = 2;
/// The first byte of a TLS handshake: no packet of Postgres begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Who came.
pub(crate) enum Arrival {
    /// Somebody who wants a statement cancelled.
    Cancel { process_id: u32, key: Vec<u8> },
    /// A client, logged in; its place, and what is to be said to it first.
    Client(Login, Place, BytesMut),
    /// The same of somebody who wants the console, and may have it.
    Admin(AdminLogin, OwnedSemaphorePermit, BytesMut),
}

/// Why there was no login.
#[derive(Debug)]
pub(crate) enum Unfinished {
    /// It went away without a word.
    Gone,
    /// The TLS handshake failed, which has its own way to tell.
    Tls(io::Error),
    /// It is to be told.
    Refused(ClientError),
}

impl From<ClientError> for Unfinished {
    fn from(error: ClientError) -> Self {
        Self::Refused(error)
    }
}

impl From<WireError> for Unfinished {
    fn from(error: WireError) -> Self {
        Self::Refused(error.into())
    }
}

/// Brings a connection through its login.
pub(crate) async fn receive(talk: &mut Talk, shared: &Shared) -> Result<Arrival, Unfinished> {
    proxied(talk, shared).await?;
    let startup = match initial(talk, shared).await? {
        Initial::Cancel { process_id, key } => return Ok(Arrival::Cancel { process_id, key }),
        Initial::Startup(startup) => startup,
        Initial::Ssl | Initial::GssEnc => {
            return Err(ClientError::ProtocolOrder("too many encryption requests").into());
        }
    };
    let config = shared.config().clone();
    if config.tls_mode >= TlsMode::Require && talk.tls.is_none() {
        return Err(ClientError::TlsRequired.into());
    }
    // The console has places of its own, so that one can look at a router that is full.
    if startup.get("database") != Some(admin::DATABASE) {
        shared.places.expect(&config, talk.address)?;
    }
    shared.failures.check(talk.address, config.login_failures_per_address_max)?;
    negotiate(talk, &startup).await?;
    if !shared.map.is_loaded() {
        return Err(ClientError::NoMap.into());
    }
    let settings = Settings::of(&startup)?;
    let names = names::names(&startup, settings.tenant.as_deref(), talk, shared)?;
    talk.names = (names.user_name.clone(), names.tenant.clone());
    let greeting = password::authenticate(talk, &names, &config, &shared.login_secret).await?;
    if let Some(login) = access::console(&names, &startup, &config) {
        return Ok(Arrival::Admin(login, shared.console.place()?, greeting));
    }
    let login = access::decide(names, settings, shared).await?;
    let place = shared.places.take(&config, &login, talk.address)?;
    Ok(Arrival::Client(login, place, greeting))
}

/// Takes a proxy's word for the client's address. Who is one of the proxies must give it; nobody else is asked.
async fn proxied(talk: &mut Talk, shared: &Shared) -> Result<(), Unfinished> {
    let config = shared.config().clone();
    let is_proxy = config.proxy_protocol_from.iter().any(|network| network.contains(&talk.address));
    if !config.proxy_protocol || !is_proxy {
        return Ok(());
    }
    let (origin, length) = loop {
        match proxy::parse(&talk.input)? {
            Some(header) => break header,
            None => talk.read_more().await?,
        }
    };
    talk.input.advance(length);
    if let Origin::Client(address) = origin {
        talk.address = address.to_canonical();
    }
    Ok(())
}

/// Agrees on what is spoken.
async fn negotiate(talk: &mut Talk, startup: &Startup) -> Result<(), Unfinished> {
    if startup.needs_negotiation() {
        let mut out = BytesMut::new();
        backend::write_negotiate_version(&mut out, startup.minor_spoken(), &startup.protocol_options);
        talk.send(&mut out).await.map_err(|_| Unfinished::Gone)?;
    }
    if startup.get("replication").is_some_and(|value| !matches!(value, "false" | "off" | "no" | "0")) {
        return Err(ClientError::Replication.into());
    }
    Ok(())
}

/// Reads the first packet that is not a request for encryption; makes the TLS handshake on the way.
async fn initial(talk: &mut Talk, shared: &Shared) -> Result<Initial, Unfinished> {
    let mut requests = 0;
    loop {
        if requests == 0 && talk.tls.is_none() && talk.input.first() == Some(&TLS_HANDSHAKE) {
            direct_tls(talk, shared).await?;
            continue;
        }
        let Some((initial, length)) = parse_initial(&talk.input)? else {
            talk.read_more().await?;
            continue;
        };
        talk.input.advance(length);
        let encryption = matches!(initial, Initial::Ssl | Initial::GssEnc);
        if !encryption || requests == ENCRYPTION_REQUESTS_MAX || talk.tls.is_some() {
            return Ok(initial);
        }
        requests += 1;
        // What came along with the request was meant to be encrypted, or was put there by somebody else.
        if !talk.input.is_empty() {
            let why = "received unencrypted data after a request for encryption";
            return Err(ClientError::ProtocolOrder(why).into());
        }
        let clients = shared.tls.clients().filter(|_| initial == Initial::Ssl);
        let answer = if clients.is_some() { b"S" } else { b"N" };
        talk.stream.write_all(answer).await.map_err(|_| Unfinished::Gone)?;
        if let Some(clients) = clients {
            talk.begin_tls(clients).await?;
        }
    }
}

/// TLS without a request for it. As Postgres 17 has it, the client must say by ALPN that it means to speak with Postgres.
async fn direct_tls(talk: &mut Talk, shared: &Shared) -> Result<(), Unfinished> {
    let Some(clients) = shared.tls.clients() else {
        return Err(Unfinished::Tls(io::Error::other("there is no TLS to clients")));
    };
    talk.begin_tls(clients).await?;
    if talk.stream.channel().and_then(|channel| channel.alpn()) != Some(ALPN) {
        let why = "direct TLS needs the protocol \"postgresql\" by ALPN";
        return Err(ClientError::ProtocolOrder(why).into());
    }
    Ok(())
}
