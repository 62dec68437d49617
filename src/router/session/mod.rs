//! A client's session: what it asks for, on which connection, and what comes back.
//!
//! One task a session, on its tenant's worker. It turns in a circle: take the client's requests, get a connection when
//! one is needed, exchange bytes, take the server's replies, and give the connection back when it is at rest.

mod attach;
mod bind;
pub(crate) mod client;
mod exchange;
mod expect;
mod farewell;
mod finish;
mod plans;
mod refusals;
mod replies;
mod requests;
mod statements;
mod turns;

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use shard_map::{Access, PoolMode, TenantId};
use wire::backend::{self, TransactionStatus};
use wire::sql::Pins;
use wire::{Severity, WireError};

pub(crate) use farewell::refuse;

use crate::error::ClientError;
use crate::places::Place;
use crate::pool::ServerConnection;
use crate::prepared::Held;
use crate::relay::Side;
use crate::session::client::Client;
use crate::session::expect::{Expected, Named};
use crate::session::plans::Stretch;
use crate::state::{APPLICATION_NAME, Deeds, Params, SessionState};
use crate::stats::Figure;
use crate::stream::{Detached, Stream};
use crate::tenant::Tenant;

/// What a login found out.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    pub(crate) user: String,
    pub(crate) tenant: TenantId,
    pub(crate) access: Access,
    pub(crate) pool_mode: PoolMode,
    /// Settings of the startup packet.
    pub(crate) settings: Vec<(String, String)>,
    /// Minor version of the protocol.
    pub(crate) minor: u16,
}

/// A client that has logged in, on its way to its worker.
pub(crate) struct NewClient<S = Stream> {
    pub(crate) stream: S,
    /// What it sent after its login.
    pub(crate) early: Vec<u8>,
    /// What is to be said to it first.
    pub(crate) greeting: BytesMut,
    /// Who it is: a proxy may have said so.
    pub(crate) address: IpAddr,
    pub(crate) login: Login,
    /// Its place among all clients; held for its drop.
    pub(crate) place: Place,
}

impl NewClient {
    /// Takes it off this runtime.
    pub(crate) fn detach(self) -> io::Result<NewClient<Detached>> {
        let Self { stream, early, greeting, address, login, place } = self;
        Ok(NewClient { stream: stream.detach()?, early, greeting, address, login, place })
    }
}

impl NewClient<Detached> {
    /// Puts it on this runtime.
    pub(crate) fn attach(self) -> io::Result<NewClient> {
        let Self { stream, early, greeting, address, login, place } = self;
        Ok(NewClient { stream: stream.attach()?, early, greeting, address, login, place })
    }
}

/// Why a session is over.
#[derive(Debug)]
enum Over {
    /// The client said goodbye.
    Goodbye,
    /// The client is gone.
    Vanished,
    /// The server has said the last word, and the client has it.
    ServerSaidSo,
    /// This is the last word.
    Refused(ClientError),
}

impl From<ClientError> for Over {
    fn from(error: ClientError) -> Self {
        Self::Refused(error)
    }
}

impl From<WireError> for Over {
    fn from(error: WireError) -> Self {
        Self::Refused(match error {
            // The one limit that a session has for lengths.
            WireError::TooLong { length, max } => ClientError::MessageTooLong { length, max },
            error => error.into(),
        })
    }
}

/// What the client's requests need before they can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// More from the client.
    Input,
    /// A server connection, or this one made ready.
    Server,
    /// Answers to what was sent, or an open gate.
    Answers,
    /// Nothing: it has said goodbye.
    Nothing,
}

struct Session {
    me: Rc<Client>,
    tenant: Rc<Tenant>,
    access: Access,
    mode: PoolMode,
    side: Side,
    connection: Option<Box<ServerConnection>>,
    state: SessionState,
    /// Parameters as the client was told them.
    told: Rc<Params>,
    expected: Expected,
    /// Number of the stretch between two Syncs or Queries.
    segment: u64,
    /// Something was sent since the last Sync or Query: a transaction may be open that no status tells of.
    unsynced: bool,
    /// After an error, the rest up to the Sync is dropped.
    skipping: bool,
    /// The transaction under way has changed the schema.
    alters_schema: bool,
    /// The server takes data of a COPY.
    copying_in: bool,
    status: TransactionStatus,
    /// Something failed since the last ReadyForQuery, COMMIT or ROLLBACK.
    failed: bool,
    statements: HashMap<Box<[u8]>, Named>,
    unnamed: Option<Held>,
    stretch: Stretch,
    /// Portals whose execution changes the session.
    portals: HashMap<Box<[u8]>, Deeds>,
    /// Bytes of input that are needed before the next request can be read.
    wanted: usize,
    said_goodbye: bool,
    server_gone: bool,
    server_said_so: bool,
    /// The client has the first part of a message whose rest was lost.
    is_cut: bool,
}

/// Runs a session to its end.
pub(crate) async fn run(new: Box<NewClient>, me: Rc<Client>, tenant: Rc<Tenant>) {
    let NewClient { stream, early, greeting, login, place, .. } = *new;
    let shared = tenant.worker.shared.clone();
    shared.metrics.clients.inc();
    let mut session = Session::new(&login, Side::new(stream), me, tenant);
    session.side.input.extend_from_slice(&early);
    drop(early);
    session.side.output = greeting;
    let me = session.me.clone();
    let over = {
        let mut life = std::pin::pin!(session.live(login));
        poll_fn(|cx| match me.ending_at_once() {
            Some(error) => Poll::Ready(Over::Refused(error)),
            None => life.as_mut().poll(cx),
        })
        .await
    };
    session.log_end(&over, place.address());
    // What is rare has a future of its own: all clients would make room for it otherwise.
    Box::pin(session.finish(over)).await;
    shared.metrics.clients.dec();
    drop(place);
}

impl Session {
    fn new(login: &Login, side: Side, me: Rc<Client>, tenant: Rc<Tenant>) -> Self {
        let mut state = SessionState::begin(&login.settings);
        state.begin_as(tenant.intern_settings(state.settings.clone()));
        Self {
            me,
            tenant,
            access: login.access,
            mode: login.pool_mode,
            side,
            connection: None,
            state,
            told: Rc::default(),
            expected: Expected::default(),
            segment: 1,
            unsynced: false,
            skipping: false,
            alters_schema: false,
            copying_in: false,
            status: TransactionStatus::Idle,
            failed: false,
            statements: HashMap::new(),
            unnamed: None,
            stretch: Stretch::default(),
            portals: HashMap::new(),
            wanted: 0,
            said_goodbye: false,
            server_gone: false,
            server_said_so: false,
            is_cut: false,
        }
    }

    /// Ends the login: tells the parameters, learning them from a server if nobody did before.
    async fn greet(&mut self, login: Login) -> Result<(), Over> {
        self.note_pins(self.state.pins);
        let mut name = "";
        let mut key = String::new();
        for (parameter, value) in &login.settings {
            if parameter == APPLICATION_NAME {
                name = value;
            } else {
                key.push_str(&format!("{parameter}\0{value}\0"));
            }
        }
        backend::write_authentication_ok(self.side.out(&self.tenant.worker.buffers));
        match self.tenant.known_params(self.tenant.granted(self.access), &key) {
            Some(params) => {
                crate::state::tell_differences(&mut self.told, &params, &mut self.side.output);
            }
            None => {
                self.attach().await?;
                if let Some(connection) = self.connection.take() {
                    self.tenant.know_params(connection.access, key, &connection.params);
                    self.detach(connection);
                }
            }
        }
        let out = self.side.out(&self.tenant.worker.buffers);
        backend::write_parameter_status(out, APPLICATION_NAME.as_bytes(), as_name(name).as_bytes());
        backend::write_backend_key_data(out, self.me.id, &self.me.key);
        backend::write_ready_for_query(out, TransactionStatus::Idle);
        Ok(())
    }

    async fn live(&mut self, login: Login) -> Over {
        // From here on, it can be woken wherever it waits: its task is one and the same to its end.
        poll_fn(|cx| {
            self.me.wake_by(cx.waker());
            Poll::Ready(())
        })
        .await;
        if let Err(over) = Box::pin(self.greet(login)).await {
            return over;
        }
        // A first request may have come together with the login.
        self.tenant.worker.clock.look();
        loop {
            let outcome = match self.turns().await {
                Ok(wait) => Box::pin(self.outlast(wait)).await,
                Err(over) => return over,
            };
            if let Err(over) = outcome {
                return over;
            }
        }
    }

    fn count_transaction(&mut self, connection: &ServerConnection) {
        if let Some(began) = self.me.began.take() {
            let time = self.tenant.worker.clock.now().saturating_duration_since(began);
            connection.place.metrics.transactions.inc();
            connection.place.metrics.duration.observe(time.as_secs_f64());
            self.tenant.counters.add(Figure::Transactions, 1);
            let micros = time.as_micros() as u64;
            self.tenant.counters.add(Figure::TransactionMicros, micros);
            if !self.tenant.worker.heeded.borrow().copies(&self.tenant.id) {
                connection.place.metrics.count_latency(micros);
            }
        }
    }

    /// Takes note of the pins as they are now; counts new ones.
    fn note_pins(&mut self, new: Pins) {
        for reason in new.iter() {
            self.tenant.worker.shared.metrics.pins.with_label_values(&[reason.as_str()]).inc();
        }
        self.me.pins.set(self.state.pins);
    }

    /// Answers a request that can't be carried out, and goes on with the next.
    fn refuse_request(&mut self, error: &ClientError) -> Result<(), Over> {
        self.tenant.count_refusal(error);
        error.write(self.side.out(&self.tenant.worker.buffers), Severity::Error);
        self.drop_request()
    }
}

/// A name as long as Postgres keeps one.
fn as_name(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME_BYTES_MAX)]
}

/// NAMEDATALEN less its final zero.
const NAME_BYTES_MAX: usize = 63;
