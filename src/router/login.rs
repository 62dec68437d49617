//! A login: the startup packet, the password, the tenant.
//!
//! Nothing about tenants is told before the password was right, and an unknown user is answered like a wrong password,
//! after the same work.

use std::io;
use std::time::SystemTime;

use bytes::{Buf as _, BytesMut};
use shard_map::{
    Access, MasterKey, PoolMode, Refusal, Route, ServerName, Tenant, TenantId, TenantState, User,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wire::backend;
use wire::frontend::{self, tag};
use wire::scram::{SCRAM_SHA_256, ScramError, ServerExchange, Verifier};
use wire::startup::{Initial, Startup, parse_initial, settings_of_options};
use wire::{HEADER_BYTES, WireError};

use crate::error::ClientError;
use crate::map::unknown_server;
use crate::places::Place;
use crate::pool::connect::nonce;
use crate::registry::{self, Record};
use crate::session::Login;
use crate::worker::Shared;

/// Longest message of a password exchange.
const PASSWORD_BYTES_MAX: usize = 4096;
/// Requests for encryption before the startup packet: one of each kind.
const ENCRYPTION_REQUESTS_MAX: usize = 2;
/// The startup option with which a client chooses its pool mode.
const POOL_MODE_OPTION: &str = "tenantry.pool_mode";

/// Who came.
pub(crate) enum Arrival {
    /// Somebody who wants a statement cancelled.
    Cancel { process_id: u32, key: Vec<u8> },
    /// A client, logged in.
    Client(Login, Place),
}

/// An error to be told, or none when there is nobody to tell.
type Refused = Option<ClientError>;

/// Names and values, in order.
type Settings = Vec<(String, String)>;

/// The secret from which verifiers of unknown users are made: the same on every router, so that they can't be told apart
/// from known ones by asking two routers, or one before and after its restart.
pub(crate) fn mock_secret(key: &MasterKey) -> [u8; 32] {
    let mut secret = [0; 32];
    // No tenant or server can have an empty name, so this password is of nothing else; all that counts is that it is secret.
    let Ok(name) = ServerName::new("unknown-users") else {
        return rand::random();
    };
    for (to, from) in secret.iter_mut().zip(key.registry_reader_password(&name).bytes()) {
        *to = from;
    }
    secret
}

/// Brings a connection through its login.
pub(crate) async fn receive(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    shared: &Shared,
    secret: &[u8],
) -> Result<Arrival, Refused> {
    let startup = match initial(stream, input).await? {
        Initial::Cancel { process_id, key } => return Ok(Arrival::Cancel { process_id, key }),
        Initial::Startup(startup) => startup,
        Initial::Ssl | Initial::GssEnc => {
            return Err(Some(ClientError::ProtocolOrder("too many encryption requests")));
        }
    };
    let max = shared.config().clients_max;
    let Some(place) = shared.places.take(max) else {
        return Err(Some(ClientError::TooManyClients { key: "clients_max", whose: "", max }));
    };
    if startup.needs_negotiation() {
        let mut out = BytesMut::new();
        backend::write_negotiate_version(&mut out, startup.minor_spoken(), &startup.protocol_options);
        send(stream, &mut out).await.map_err(|_| None)?;
    }
    if startup.get("replication").is_some_and(|value| !matches!(value, "false" | "off" | "no" | "0")) {
        return Err(Some(ClientError::Replication));
    }
    if !shared.map.is_loaded() {
        return Err(Some(ClientError::NoMap));
    }
    let names = names(&startup, shared)?;
    authenticate(stream, input, &names, secret).await?;
    if names.user.is_some() && !shared.map.is_followed() {
        discover(&names.tenant, shared).await?;
    }
    let login = login(&startup, names, shared)?;
    Ok(Arrival::Client(login, place))
}

/// Reads the first packet that is not a request for encryption.
async fn initial(stream: &mut TcpStream, input: &mut BytesMut) -> Result<Initial, Refused> {
    let mut requests = 0;
    loop {
        let Some((initial, length)) = parse_initial(input).map_err(|e| Some(e.into()))? else {
            read_more(stream, input).await?;
            continue;
        };
        input.advance(length);
        if !matches!(initial, Initial::Ssl | Initial::GssEnc) || requests == ENCRYPTION_REQUESTS_MAX {
            return Ok(initial);
        }
        requests += 1;
        // What came along with the request was meant to be encrypted, or was put there by somebody else.
        if !input.is_empty() {
            return Err(Some(ClientError::ProtocolOrder(
                "received unencrypted data after a request for encryption",
            )));
        }
        stream.write_all(b"N").await.map_err(|_| None)?;
    }
}

/// A user, and the tenant that it asks for.
struct Names {
    user_name: String,
    user: Option<User>,
    tenant: String,
}

fn names(startup: &Startup, shared: &Shared) -> Result<Names, Refused> {
    let given = startup.get("user").filter(|user| !user.is_empty()).ok_or(Some(ClientError::NoUser))?;
    let map = shared.map.read();
    let database = startup.get("database").filter(|database| !database.is_empty());
    // `user.tenant`, unless there is a user of just that name.
    let (user_name, tenant) = match given.rsplit_once('.') {
        Some((user, tenant)) if !map.users.contains_key(given) => {
            // libpq's default for the database is the whole user name.
            let tenant = database.filter(|database| *database != given).unwrap_or(tenant);
            (user, tenant)
        }
        _ => (given, database.unwrap_or(given)),
    };
    Ok(Names {
        user_name: user_name.to_owned(),
        user: map.users.get(user_name).cloned(),
        tenant: tenant.to_owned(),
    })
}

async fn authenticate(
    stream: &mut TcpStream,
    input: &mut BytesMut,
    names: &Names,
    secret: &[u8],
) -> Result<(), Refused> {
    let wrong = || Some(ClientError::Password(names.user_name.clone()));
    let refused = |error| match error {
        ScramError::Proof => wrong(),
        ScramError::Malformed => Some(WireError::Malformed("SASL").into()),
        ScramError::Unsupported => Some(ClientError::ProtocolOrder("unsupported SASL option")),
    };
    let mock = Verifier::mock(secret, &names.user_name);
    let verifier = names.user.as_ref().and_then(|user| Verifier::parse(&user.verifier).ok()).unwrap_or(mock);
    let mut out = BytesMut::new();
    backend::write_authentication_sasl(&mut out, SCRAM_SHA_256);
    send(stream, &mut out).await.map_err(|_| None)?;
    let body = password_message(stream, input).await?;
    let (mechanism, first) = frontend::sasl_initial(&body).map_err(|e| Some(e.into()))?;
    if mechanism != SCRAM_SHA_256.as_bytes() {
        return Err(Some(ClientError::ProtocolOrder(
            "the client chose a SASL mechanism that was not offered",
        )));
    }
    let (exchange, answer) = ServerExchange::start(verifier, first, &nonce()).map_err(refused)?;
    backend::write_sasl_continue(&mut out, answer.as_bytes());
    send(stream, &mut out).await.map_err(|_| None)?;
    let body = password_message(stream, input).await?;
    let last = exchange.finish(&body).map_err(refused)?;
    backend::write_sasl_final(&mut out, last.as_bytes());
    send(stream, &mut out).await.map_err(|_| None)
}

/// Asks the registries for a tenant that the map does not know, when there is no catalog that would.
async fn discover(tenant: &str, shared: &Shared) -> Result<(), Refused> {
    let Ok(id) = TenantId::new(tenant) else {
        return Ok(());
    };
    let servers: Vec<_> = {
        let map = shared.map.read();
        if map.tenants.contains_key(&id) {
            return Ok(());
        }
        let config = shared.config();
        let declared = config.servers.iter().filter(|(name, _)| !map.servers.contains_key(*name));
        let declared = declared.filter_map(|(name, address)| unknown_server(name, Some(address)));
        map.servers.values().cloned().chain(declared).collect()
    };
    for server in servers {
        match registry::ask(&server, &shared.master_key, &id).await {
            Ok(Record::Open(epoch)) => {
                tracing::info!(tenant = %id, server = %server.name, "found a tenant that the map does not know");
                let tenant = Tenant {
                    id,
                    server: server.name.clone(),
                    epoch,
                    state: TenantState::Open,
                    labels: [].into(),
                    key_version: 1,
                };
                shared.map.discover(server, tenant);
                return Ok(());
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(tenant = %id, %error, "a registry does not answer"),
        }
    }
    Err(Some(ClientError::NoMap))
}

/// What a user with the right password gets.
fn login(startup: &Startup, names: Names, shared: &Shared) -> Result<Login, Refused> {
    let user = names.user.ok_or(Some(ClientError::Password(names.user_name)))?;
    let unknown = || Some(ClientError::NoTenant(names.tenant.clone()));
    let tenant = TenantId::new(&names.tenant).map_err(|_| unknown())?;
    {
        let map = shared.map.read();
        let known = map.tenants.get(&tenant).ok_or_else(unknown)?;
        if !user.tenants.matches(&tenant, &known.labels) {
            return Err(unknown());
        }
        match map.route(&tenant, SystemTime::now()) {
            // A server that is not known yet may be soon: the queue has a limit.
            Route::Forward(..) | Route::Hold(..) | Route::Refuse(Refusal::UnknownServer) => {}
            Route::Refuse(refusal) => return Err(Some(ClientError::refusal(refusal, tenant.as_str()))),
        }
    }
    let (settings, pool_mode) = settings(startup)?;
    let access: Access = user.access;
    let minor = startup.minor_spoken();
    let pool_mode = pool_mode.unwrap_or(user.pool_mode);
    Ok(Login { user: user.name, tenant, access, pool_mode, settings, minor })
}

/// The settings that a startup packet asks for, in the order in which Postgres makes them: those in `options` first.
fn settings(startup: &Startup) -> Result<(Settings, Option<PoolMode>), Refused> {
    let mut pool_mode = None;
    let mut settings = Vec::new();
    let from_options = match startup.get("options") {
        Some(options) => settings_of_options(options).map_err(|word| Some(ClientError::Option(word)))?,
        None => Vec::new(),
    };
    let plain = startup
        .parameters
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "user" | "database" | "options" | "replication"));
    for (name, value) in from_options.into_iter().chain(plain.cloned()) {
        let name = name.to_ascii_lowercase();
        if name == POOL_MODE_OPTION {
            let mode = value
                .parse::<PoolMode>()
                .map_err(|_| Some(ClientError::Option(format!("{name}={value}"))))?;
            pool_mode = Some(mode);
            continue;
        }
        // Texts could not be read reliably without it.
        if name == "standard_conforming_strings" && !matches!(value.as_str(), "on" | "true" | "yes" | "1") {
            return Err(Some(ClientError::Option(format!("{name}={value}"))));
        }
        settings.retain(|(known, _)| *known != name);
        settings.push((name, value));
    }
    Ok((settings, pool_mode))
}

async fn password_message(stream: &mut TcpStream, input: &mut BytesMut) -> Result<BytesMut, Refused> {
    loop {
        let header = wire::header(input, PASSWORD_BYTES_MAX).map_err(|e| Some(e.into()))?;
        match header {
            Some(header) if header.tag != tag::PASSWORD => {
                return Err(Some(WireError::Tag(header.tag).into()));
            }
            Some(header) if input.len() >= header.total() => {
                let mut message = input.split_to(header.total());
                message.advance(HEADER_BYTES);
                return Ok(message);
            }
            _ => read_more(stream, input).await?,
        }
    }
}

async fn read_more(stream: &mut TcpStream, input: &mut BytesMut) -> Result<(), Refused> {
    match stream.read_buf(input).await {
        Ok(0) | Err(_) => Err(None),
        Ok(_) => Ok(()),
    }
}

/// Writes all of `out`, and empties it.
pub(crate) async fn send(stream: &mut TcpStream, out: &mut BytesMut) -> io::Result<()> {
    stream.write_all_buf(out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(parameters: &[(&str, &str)]) -> Startup {
        let parameters = parameters.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        Startup { parameters, ..Startup::default() }
    }

    #[test]
    fn a_startup_packet_asks_for_settings_and_a_pool_mode() {
        let (settings, mode) = settings(&startup(&[
            ("user", "u"),
            ("options", "-c tenantry.pool_mode=session -c work_mem=1MB -c DateStyle=ISO"),
            ("DateStyle", "German"),
        ]))
        .unwrap();
        assert_eq!(mode, Some(PoolMode::Session));
        assert_eq!(settings, [("work_mem".into(), "1MB".into()), ("datestyle".into(), "German".into())]);
    }

    #[test]
    fn what_would_be_misread_is_refused() {
        for options in ["-c standard_conforming_strings=off", "-c tenantry.pool_mode=x", "-B 5"] {
            assert!(matches!(settings(&startup(&[("options", options)])), Err(Some(ClientError::Option(_)))));
        }
    }
}
