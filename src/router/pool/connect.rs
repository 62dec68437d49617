//! Opens a connection to a tenant's database: SCRAM with the derived password, its salted keys kept.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use base64::Engine as _;
use bytes::BytesMut;
use rustix::io::Errno;
use shard_map::Access;
use wire::backend::{self, Authentication, tag};
use wire::scram::ClientExchange;
use wire::{ErrorFields, frontend, startup};

use crate::pool::budget::Permit;
use crate::pool::connection::{CancelTarget, Place, ServerConnection, Slot};
use crate::pool::leave::Entering;
use crate::prepared::Prepared;
use crate::relay::{Side, limited};
use crate::state::{Params, note_parameter};
use crate::tenant::Tenant;

/// Longest message of a login.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// Nobody there, or not in time.
    #[error("{0}")]
    Down(String),
    /// The router has no file descriptor left, which is no fault of the server's.
    #[error("{0}")]
    NoDescriptor(String),
    /// The server is starting up or shutting down.
    #[error("{0}")]
    Starting(String),
    /// The server has no connection left.
    #[error("{0}")]
    Full(String),
    /// The database is not there, or takes no connections: the tenant may have moved.
    #[error("{0}")]
    NotHere(String),
    /// The server has another password for the role.
    #[error("{0}")]
    Password(String),
    /// The server does not take the router for who it is.
    #[error("{0}")]
    Login(String),
    /// The server is there and well, and does not want to for a reason of its own.
    #[error("{0}")]
    Refused(String),
}

impl From<io::Error> for ConnectError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE) => Self::NoDescriptor(error.to_string()),
            _ => Self::Down(error.to_string()),
        }
    }
}

impl ConnectError {
    fn of(error: &ErrorFields<'_>) -> Self {
        let text = format!("{} ({})", error.message, error.code);
        match error.code {
            "3D000" => Self::NotHere(text),
            // Its one word for three limits: the database's (0 is a move's fence), the role's, the server's.
            "53300" if error.message.contains("for database") => Self::NotHere(text),
            "53300" => Self::Full(text),
            "28P01" => Self::Password(text),
            // invalid_authorization: also when a role is gone with its tenant.
            code if code.starts_with("28") || code.starts_with("42") => Self::Login(text),
            // cannot_connect_now, and what it says to those who come while it ends.
            "57P01" | "57P02" | "57P03" => Self::Starting(text),
            _ => Self::Refused(text),
        }
    }
}

/// Connects to the tenant's database at `place`.
pub(crate) async fn connect(
    tenant: &Rc<Tenant>,
    place: &Rc<Place>,
    access: Access,
    permit: Permit,
) -> Result<Box<ServerConnection>, ConnectError> {
    let time = tenant.worker.shared.config().connect_timeout;
    let mut login = Login { tenant, access, place, params: Rc::default(), key: (0, Box::default()) };
    let mut refusal = None;
    let entered = limited(time, "connecting", async {
        match login.enter(permit).await {
            Ok(entered) => Ok(entered),
            Err(ConnectError::Down(message)) => Err(io::Error::other(message)),
            Err(error) => {
                refusal = Some(error);
                Err(io::Error::other("refused"))
            }
        }
    })
    .await;
    let counted = if entered.is_ok() { &place.metrics.connects_ok } else { &place.metrics.connects_failed };
    counted.inc();
    let (mut side, permit) = match (entered, refusal) {
        (Ok(entered), _) => entered,
        (Err(_), Some(refusal)) => return Err(refusal),
        (Err(error), None) => return Err(error.into()),
    };
    side.rest(&tenant.worker.buffers);
    let (process_id, key) = login.key;
    let cancel = CancelTarget {
        server: place.server.name.clone(),
        access,
        since: Instant::now(),
        address: side.peer()?,
        host: place.server.host.clone(),
        tls: side.is_secure().then(|| tenant.worker.shared.tls.servers()),
        process_id,
        key,
        holder: Cell::new(0),
        under_way: Cell::new(0),
        spoiled: Cell::new(false),
    };
    Ok(Box::new(ServerConnection {
        params: tenant.intern(login.params),
        side,
        access,
        place: place.clone(),
        generation: tenant.generation.get(),
        cancel: Rc::new(cancel),
        prepared: Prepared::default(),
        applied: Rc::default(),
        unnamed: 0,
        idle_since: Instant::now(),
        opened: Instant::now(),
        // Until here, it was one of those being opened.
        slot: Slot::new(tenant, place.metrics.clone()),
        permit,
    }))
}

struct Login<'a> {
    tenant: &'a Rc<Tenant>,
    access: Access,
    place: &'a Rc<Place>,
    params: Rc<Params>,
    key: (u32, Box<[u8]>),
}

impl Login<'_> {
    /// Connects and logs in, with and without TLS as far as the configuration allows both.
    async fn enter(&mut self, mut permit: Permit) -> Result<(Side, Permit), ConnectError> {
        let worker = &self.tenant.worker;
        let servers = worker.shared.tls.servers();
        let (host, port) = (self.place.server.host.as_str(), self.place.server.port);
        let mut attempts = servers.attempts().iter().peekable();
        while let Some(with_tls) = attempts.next() {
            let another = attempts.peek().is_some();
            let stream = match servers.connect((host, port), host, *with_tls).await {
                // TLS failed: without it, the server may take us.
                Err(error) if another && error.kind() == io::ErrorKind::PermissionDenied => continue,
                connected => connected?,
            };
            let mut entering = Entering::new(worker, Side::new(stream), permit);
            self.params = Rc::default();
            match self.run(entering.side()?).await {
                Err(ConnectError::Login(_)) if another => (_, permit) = entering.take()?,
                outcome => {
                    outcome?;
                    return Ok(entering.take()?);
                }
            }
        }
        Err(ConnectError::Down("no attempt to connect was made".to_owned()))
    }

    async fn run(&mut self, side: &mut Side) -> Result<(), ConnectError> {
        let buffers = &self.tenant.worker.buffers;
        let role = self.access.role(&self.tenant.id);
        let parameters = [("user", role.as_str()), ("database", self.tenant.id.live_database())];
        startup::write_startup(side.out(buffers), &parameters);
        let mut scram: Option<ClientExchange> = None;
        loop {
            side.flush(buffers).await?;
            let (tag, body) = side.message(buffers, LOGIN_MESSAGE_BYTES_MAX).await?;
            match tag {
                tag::AUTHENTICATION => {
                    let end_point = side.end_point();
                    self.authenticate(side.out(buffers), &body, &mut scram, end_point.as_deref())?;
                }
                tag::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&body).map_err(io::Error::other)?;
                    note_parameter(&mut self.params, name, value);
                }
                tag::BACKEND_KEY_DATA => {
                    let (process_id, key) = backend::backend_key_data(&body).map_err(io::Error::other)?;
                    self.key = (process_id, key.into());
                }
                tag::READY_FOR_QUERY => return Ok(()),
                tag::ERROR => {
                    let error = ErrorFields::parse(&body).map_err(io::Error::other)?;
                    return Err(ConnectError::of(&error));
                }
                tag::NOTICE => {}
                other => return Err(ConnectError::Down(format!("unexpected message {other:#04x} at login"))),
            }
        }
    }

    fn authenticate(
        &self,
        out: &mut BytesMut,
        body: &[u8],
        scram: &mut Option<ClientExchange>,
        end_point: Option<&[u8]>,
    ) -> Result<(), ConnectError> {
        let failed = |e: &dyn std::fmt::Display| ConnectError::Login(e.to_string());
        match (backend::authentication(body).map_err(|e| failed(&e))?, scram) {
            (Authentication::Ok, _) => Ok(()),
            (Authentication::Sasl(offered), scram @ None) => {
                let (exchange, first) =
                    ClientExchange::start(&nonce(), &offered, end_point).map_err(|e| failed(&e))?;
                frontend::write_sasl_initial(out, exchange.mechanism(), first.as_bytes());
                *scram = Some(exchange);
                Ok(())
            }
            (Authentication::SaslContinue(data), Some(exchange)) => {
                let worker = &self.tenant.worker;
                let password = worker.shared.master_key.tenant_password(
                    &self.tenant.id,
                    self.access,
                    self.place.key_version,
                );
                let mut cached = self.tenant.salted.borrow_mut();
                let cached = &mut cached[self.access as usize];
                let (answer, keys) =
                    exchange.respond(data, &password, cached.as_ref()).map_err(|e| failed(&e))?;
                *cached = Some(keys);
                frontend::write_sasl_response(out, answer.as_bytes());
                Ok(())
            }
            (Authentication::SaslFinal(data), Some(exchange)) => {
                exchange.verify(data).map_err(|e| failed(&e))
            }
            _ => Err(failed(&"the server asks for a login other than SCRAM-SHA-256")),
        }
    }
}

/// A fresh nonce for SCRAM.
pub(crate) fn nonce() -> String {
    base64::engine::general_purpose::STANDARD_NO_PAD.encode(rand::random::<[u8; 18]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_tells_where_the_fault_is() {
        let of = |code, message| {
            ConnectError::of(&ErrorFields {
                severity: "FATAL",
                code,
                message,
                detail: None,
                hint: None,
                routine: None,
            })
        };
        assert!(matches!(of("3D000", "database \"x\" does not exist"), ConnectError::NotHere(_)));
        assert!(matches!(of("53300", "too many connections for database \"x\""), ConnectError::NotHere(_)));
        assert!(matches!(of("53300", "sorry, too many clients already"), ConnectError::Full(_)));
        assert!(matches!(of("28P01", "password authentication failed"), ConnectError::Password(_)));
        assert!(matches!(of("28000", "role \"x\" is not permitted to log in"), ConnectError::Login(_)));
        assert!(matches!(of("57P03", "the database system is starting up"), ConnectError::Starting(_)));
        assert!(matches!(of("XX001", "could not read block 0"), ConnectError::Refused(_)));
    }
}
