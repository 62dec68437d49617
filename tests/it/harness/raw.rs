//! A client that speaks the protocol message by message, for what drivers hide.

use bytes::{Buf as _, BytesMut};
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::fallible_iterator::FallibleIterator as _;

use super::DEADLINE;

/// A connection. Replies are read as short texts: the message's letter, and behind a colon what matters of it, as in
/// `1`, `2`, `D:42|NULL`, `C:SELECT 1`, `E:23505`, `S:TimeZone=UTC`, `Z:I`.
pub(crate) struct Raw {
    stream: TcpStream,
    received: BytesMut,
    to_send: BytesMut,
    /// What it takes to cancel its statements: process id and key.
    pub(crate) cancel_key: (i32, i32),
}

/// Sends a cancel request to a port of this host, and waits until whoever took it has closed the connection.
pub(crate) async fn cancel(port: u16, (process_id, key): (i32, i32)) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut request = BytesMut::new();
    frontend::cancel_request(process_id, key, &mut request);
    stream.write_all(&request).await.unwrap();
    let closed = tokio::time::timeout(DEADLINE, stream.read_u8()).await.expect("it is closed");
    assert!(closed.is_err(), "a cancel request has no answer");
}

/// What a password is salted with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Salting {
    pub(crate) salt: String,
    pub(crate) iterations: u32,
}

/// Tries to log in; gives all that was answered up to the refusal, and what the password was to be salted with.
pub(crate) async fn exchange(config: &Config) -> (Vec<String>, Salting) {
    let mut raw = Raw::connect(config, &[], &[]).await;
    let mut scram = ScramSha256::new(config.get_password().unwrap(), ChannelBinding::unsupported());
    let (mut answers, mut first) = (Vec::new(), String::new());
    raw.flush().await;
    loop {
        match raw.message().await.expect("an answer") {
            Message::AuthenticationSasl(_) => {
                answers.push("R:sasl".to_owned());
                raw.add(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out));
            }
            Message::AuthenticationSaslContinue(body) => {
                answers.push("R:continue".to_owned());
                first = String::from_utf8(body.data().to_vec()).unwrap();
                scram.update(body.data()).unwrap();
                raw.add(|out| frontend::sasl_response(scram.message(), out));
            }
            Message::ErrorResponse(body) => {
                answers.push(format!("E:{}", error_code(body.fields())));
                break;
            }
            _ => panic!("no other answer is due"),
        }
        raw.flush().await;
    }
    let field = |name: &str| first.split(',').find_map(|field| field.strip_prefix(name)).unwrap().to_owned();
    (answers, Salting { salt: field("s="), iterations: field("i=").parse().unwrap() })
}

impl Raw {
    /// Connects and logs in.
    pub(crate) async fn login(config: &Config, parameters: &[(&str, &str)]) -> Self {
        Self::open(config, parameters).await.unwrap_or_else(|code| panic!("login: {code}"))
    }

    /// Connects and logs in, or gives the SQLSTATE of the refusal.
    pub(crate) async fn open(config: &Config, parameters: &[(&str, &str)]) -> Result<Self, String> {
        Self::open_behind(&[], config, parameters).await
    }

    /// The same, with a proxy's header first.
    pub(crate) async fn open_proxied(header: &[u8], config: &Config) -> Result<Self, String> {
        Self::open_behind(header, config, &[]).await
    }

    async fn open_behind(
        header: &[u8],
        config: &Config,
        parameters: &[(&str, &str)],
    ) -> Result<Self, String> {
        let mut raw = Self::connect(config, header, parameters).await;
        raw.authenticate(config.get_password().unwrap()).await.map(|()| raw)
    }

    /// Connects, with a proxy's header and the startup packet to be sent first.
    async fn connect(config: &Config, header: &[u8], parameters: &[(&str, &str)]) -> Self {
        let Host::Tcp(host) = &config.get_hosts()[0] else { panic!("a TCP host") };
        let stream = TcpStream::connect((host.as_str(), config.get_ports()[0])).await.unwrap();
        let (received, to_send) = (BytesMut::new(), BytesMut::from(header));
        let mut raw = Self { stream, received, to_send, cancel_key: (0, 0) };
        let own = [("user", config.get_user().unwrap()), ("database", config.get_dbname().unwrap())];
        let all = own.into_iter().chain(parameters.iter().copied());
        frontend::startup_message(all, &mut raw.to_send).unwrap();
        raw
    }

    async fn authenticate(&mut self, password: &[u8]) -> Result<(), String> {
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.flush().await;
        loop {
            match self.message().await.expect("the router answers a login") {
                Message::AuthenticationSasl(_) => {
                    frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), &mut self.to_send)
                        .unwrap();
                    self.flush().await;
                }
                Message::AuthenticationSaslContinue(body) => {
                    scram.update(body.data()).unwrap();
                    frontend::sasl_response(scram.message(), &mut self.to_send).unwrap();
                    self.flush().await;
                }
                Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).unwrap(),
                Message::BackendKeyData(body) => self.cancel_key = (body.process_id(), body.secret_key()),
                Message::ReadyForQuery(_) => return Ok(()),
                Message::ErrorResponse(body) => return Err(error_code(body.fields())),
                _ => {}
            }
        }
    }

    /// Adds messages to what is sent next.
    pub(crate) fn add(&mut self, write: impl FnOnce(&mut BytesMut) -> std::io::Result<()>) -> &mut Self {
        write(&mut self.to_send).unwrap();
        self
    }

    /// Adds Parse.
    pub(crate) fn parse(&mut self, name: &str, sql: &str) -> &mut Self {
        self.add(|out| frontend::parse(name, sql, [], out))
    }

    /// Adds Bind to the unnamed portal with parameters as text.
    pub(crate) fn bind(&mut self, statement: &str, values: &[&str]) -> &mut Self {
        let encode = |value: &str, out: &mut BytesMut| {
            out.extend_from_slice(value.as_bytes());
            Ok(postgres_protocol::IsNull::No)
        };
        self.add(|out| {
            frontend::bind("", statement, [0], values.iter().copied(), encode, [0], out)
                .map_err(|_| std::io::Error::other("bind"))
        })
    }

    /// Adds Execute of the unnamed portal without a limit.
    pub(crate) fn run(&mut self) -> &mut Self {
        self.add(|out| frontend::execute("", 0, out))
    }

    /// Adds Bind and Execute.
    pub(crate) fn execute(&mut self, statement: &str, values: &[&str]) -> &mut Self {
        self.bind(statement, values).run()
    }

    /// Adds Describe of the unnamed portal.
    pub(crate) fn describe_portal(&mut self) -> &mut Self {
        self.add(|out| frontend::describe(b'P', "", out))
    }

    /// Adds Describe of a statement.
    pub(crate) fn describe_statement(&mut self, name: &str) -> &mut Self {
        self.add(|out| frontend::describe(b'S', name, out))
    }

    /// Adds Close of a statement.
    pub(crate) fn close_statement(&mut self, name: &str) -> &mut Self {
        self.add(|out| frontend::close(b'S', name, out))
    }

    /// Adds Terminate.
    pub(crate) fn terminate(&mut self) -> &mut Self {
        self.add(|out| {
            frontend::terminate(out);
            Ok(())
        })
    }

    /// Adds a message of which nothing is checked.
    pub(crate) fn message_of(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        let mut bytes = Vec::new();
        body(&mut bytes);
        self.to_send.extend_from_slice(&[tag]);
        self.to_send.extend_from_slice(&u32::try_from(bytes.len() + 4).unwrap().to_be_bytes());
        self.to_send.extend_from_slice(&bytes);
        self
    }

    /// Adds bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.to_send.extend_from_slice(bytes);
        self
    }

    /// Adds Sync.
    pub(crate) fn sync(&mut self) -> &mut Self {
        self.add(|out| {
            frontend::sync(out);
            Ok(())
        })
    }

    /// Adds Query.
    pub(crate) fn query(&mut self, sql: &str) -> &mut Self {
        self.add(|out| frontend::query(sql, out))
    }

    /// Sends what was added.
    pub(crate) async fn flush(&mut self) {
        let bytes = self.to_send.split();
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The same to a peer that may be gone.
    pub(crate) async fn try_flush(&mut self) -> std::io::Result<()> {
        let bytes = self.to_send.split();
        self.stream.write_all(&bytes).await
    }

    /// Reads some bytes of a reply too long to be held; gives their number.
    pub(crate) async fn read_some(&mut self) -> usize {
        self.received.clear();
        self.received.reserve(1 << 20);
        assert!(self.receive().await, "the connection stays open");
        self.received.len()
    }

    /// Sends what was added, and reads up to so many ReadyForQuery.
    pub(crate) async fn replies(&mut self, ready: usize) -> Vec<String> {
        self.flush().await;
        let (mut replies, mut seen) = (Vec::new(), 0);
        while seen < ready {
            let reply = self.reply().await.expect("the connection stays open");
            seen += usize::from(reply.starts_with("Z:"));
            replies.push(reply);
        }
        replies
    }

    /// The next reply; none when the connection was closed.
    pub(crate) async fn reply(&mut self) -> Option<String> {
        while self.received.is_empty() {
            if !self.receive().await {
                return None;
            }
        }
        if self.received[0] == b'V' {
            // The crate does not know it.
            self.skip_message().await?;
            return Some("V".to_owned());
        }
        Some(shorten(self.message().await?))
    }

    async fn skip_message(&mut self) -> Option<()> {
        loop {
            if let Some(length) = self.received.get(1..5) {
                let total = 1 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
                if self.received.len() >= total {
                    self.received.advance(total);
                    return Some(());
                }
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    async fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = Message::parse(&mut self.received).unwrap() {
                return Some(message);
            }
            if !self.receive().await {
                return None;
            }
        }
    }

    /// Reads once; `false` at the end.
    async fn receive(&mut self) -> bool {
        let read = tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.received));
        !matches!(read.await.expect("an answer"), Ok(0) | Err(_))
    }
}

fn error_code(mut fields: ErrorFields<'_>) -> String {
    while let Some(field) = fields.next().unwrap() {
        if field.type_() == b'C' {
            return String::from_utf8_lossy(field.value_bytes()).into_owned();
        }
    }
    panic!("an error without a code");
}

fn shorten(message: Message) -> String {
    match message {
        Message::ParseComplete => "1".to_owned(),
        Message::BindComplete => "2".to_owned(),
        Message::CloseComplete => "3".to_owned(),
        Message::NoData => "n".to_owned(),
        Message::EmptyQueryResponse => "I".to_owned(),
        Message::PortalSuspended => "s".to_owned(),
        Message::ParameterDescription(_) => "t".to_owned(),
        Message::RowDescription(_) => "T".to_owned(),
        Message::CopyInResponse(_) => "G".to_owned(),
        Message::CopyOutResponse(_) => "H".to_owned(),
        Message::CopyData(body) => format!("d:{}", String::from_utf8_lossy(body.data())),
        Message::CopyDone => "c".to_owned(),
        Message::CommandComplete(body) => format!("C:{}", body.tag().unwrap()),
        Message::ErrorResponse(body) => format!("E:{}", error_code(body.fields())),
        Message::NoticeResponse(body) => format!("N:{}", error_code(body.fields())),
        Message::NotificationResponse(body) => {
            let whose = body.process_id();
            format!("A:{}={} from {whose}", body.channel().unwrap(), body.message().unwrap())
        }
        Message::ParameterStatus(body) => format!("S:{}={}", body.name().unwrap(), body.value().unwrap()),
        Message::ReadyForQuery(body) => format!("Z:{}", char::from(body.status())),
        Message::DataRow(body) => {
            let text = |range: Option<std::ops::Range<usize>>| {
                range.map_or("NULL".into(), |range| {
                    String::from_utf8_lossy(&body.buffer()[range]).into_owned()
                })
            };
            let values: Vec<String> = body.ranges().map(|range| Ok(text(range))).collect().unwrap();
            format!("D:{}", values.join("|"))
        }
        _ => "?".to_owned(),
    }
}
