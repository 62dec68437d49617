//! One session of the console: the greeting, and an answer to each message.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use tokio_util::sync::CancellationToken;
use wire::backend::{self, TransactionStatus};
use wire::frontend::{self, tag};
use wire::results::{Formats, write_bare, write_data_row, write_row_description};
use wire::{ErrorFields, HEADER_BYTES, Header, Severity};

use crate::admin::command::{self, Command};
use crate::admin::extended::{Portal, Statement};
use crate::admin::rows::Rows;
use crate::admin::{AdminError, NewAdmin, Right, act, show};
use crate::reload::reload;
use crate::shared::Shared;
use crate::stream::Stream;

/// Longest message of a client: commands are short.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Room for what is read at a time.
const READ_BYTES: usize = 4096;
/// How much is written before it is sent.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// How long a client may take to accept what it asked for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to accept why its session ends.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);
/// What drivers want to know. The version tells them which protocol and habits to expect.
const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", concat!("18.0 (tenantry ", env!("CARGO_PKG_VERSION"), ")")),
    ("server_encoding", "UTF8"),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("TimeZone", "UTC"),
    ("integer_datetimes", "on"),
    ("standard_conforming_strings", "on"),
];

/// Why a session ends.
pub(super) enum Over {
    /// The client is gone, or said goodbye.
    Gone,
    /// It is told why.
    Refused(AdminError),
}

impl From<io::Error> for Over {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

pub(super) struct Session {
    stream: Stream,
    input: BytesMut,
    pub(super) output: BytesMut,
    user: String,
    right: Right,
    pub(super) shared: Arc<Shared>,
    pub(super) status: TransactionStatus,
    /// After an error, the rest up to the Sync is dropped.
    skipping: bool,
    pub(super) statements: HashMap<Vec<u8>, Statement>,
    pub(super) portals: HashMap<Vec<u8>, Portal>,
}

/// Runs a session to its end, or until the router stops.
pub(super) async fn run(new: NewAdmin, shared: Arc<Shared>, stopping: CancellationToken) {
    let NewAdmin { stream, early, greeting, login, place } = new;
    let stream = match stream.attach() {
        Ok(stream) => stream,
        Err(error) => return tracing::error!(%error, "can't take over a socket for the console"),
    };
    let mut session = Session {
        stream,
        input: early,
        output: greeting,
        user: login.user,
        right: login.right,
        shared,
        status: TransactionStatus::Idle,
        skipping: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
    };
    tracing::info!(user = session.user, right = ?session.right, "a session at the console");
    session.greet(&login.application_name);
    let over = tokio::select! {
        over = session.serve() => over,
        () = stopping.cancelled() => {
            // What is left of an answer is not waited for, nor is anything said in the middle of it.
            let answered = session.output.is_empty();
            session.output.clear();
            if answered { Over::Refused(AdminError::shutting_down()) } else { Over::Gone }
        }
    };
    if let Over::Refused(error) = over {
        error.write(&mut session.output, Severity::Fatal);
        // Who does not take it finds the connection closed.
        drop(tokio::time::timeout(LAST_WORD_TIMEOUT, session.flush()).await);
    }
    session.stream.close();
    drop(place);
}

impl Session {
    fn greet(&mut self, application_name: &str) {
        let out = &mut self.output;
        backend::write_authentication_ok(out);
        for (name, value) in PARAMETERS {
            backend::write_parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        backend::write_parameter_status(out, b"application_name", application_name.as_bytes());
        // No client of this router has this number, so nothing can be cancelled by it.
        backend::write_backend_key_data(out, 0, &rand::random::<[u8; 4]>());
        backend::write_ready_for_query(out, self.status);
    }

    async fn serve(&mut self) -> Over {
        loop {
            if let Err(over) = self.turn().await {
                return over;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), Over> {
        let header = loop {
            match wire::header(&self.input, MESSAGE_BYTES_MAX) {
                Err(error) => return Err(Over::Refused(error.into())),
                Ok(Some(header)) if self.input.len() >= header.total() => break header,
                Ok(_) => {}
            }
            self.flush().await?;
            self.read_more().await?;
        };
        self.message(header).await
    }

    async fn message(&mut self, header: Header) -> Result<(), Over> {
        let mut message = self.input.split_to(header.total());
        message.advance(HEADER_BYTES);
        match header.tag {
            tag::TERMINATE => return Err(Over::Gone),
            tag::SYNC => self.sync(),
            _ if self.skipping => {}
            tag::FLUSH => self.flush().await?,
            // Outside a COPY, Postgres ignores these.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            tag::QUERY => {
                self.query(&message).await?;
                backend::write_ready_for_query(&mut self.output, self.status);
            }
            tag::FUNCTION_CALL => {
                AdminError::unknown_command().write(&mut self.output, Severity::Error);
                backend::write_ready_for_query(&mut self.output, self.status);
            }
            tag::PARSE | tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::CLOSE => {
                if let Err(over) = self.extended(header.tag, &message).await {
                    self.fail(over)?;
                    self.skipping = true;
                }
            }
            other => return Err(Over::Refused(wire::WireError::Tag(other).into())),
        }
        Ok(())
    }

    /// Tells an error after which the session goes on.
    fn fail(&mut self, over: Over) -> Result<(), Over> {
        match over {
            Over::Refused(error) => {
                error.write(&mut self.output, Severity::Error);
                Ok(())
            }
            Over::Gone => Err(Over::Gone),
        }
    }

    fn sync(&mut self) {
        self.skipping = false;
        if self.status == TransactionStatus::Idle {
            self.portals.clear();
        }
        backend::write_ready_for_query(&mut self.output, self.status);
    }

    async fn query(&mut self, body: &[u8]) -> Result<(), Over> {
        let outcome = self.commands(body).await;
        outcome.or_else(|over| self.fail(over))
    }

    async fn commands(&mut self, body: &[u8]) -> Result<(), Over> {
        let text = frontend::query(body).map_err(|error| Over::Refused(error.into()))?;
        for command in parse(text)? {
            if let Command::Show(table) = command {
                write_row_description(&mut self.output, show::columns(table), &Formats::default());
            }
            let mut rows = self.carry_out(&command).await?;
            self.send_rows(&command, rows.as_mut(), &Formats::default(), 0).await?;
        }
        Ok(())
    }

    /// Does what a command says; gives the rows of one that has any.
    pub(super) async fn carry_out(&mut self, command: &Command) -> Result<Option<Rows>, Over> {
        match command {
            Command::Show(table) => {
                let rows = show::rows(*table, &self.shared).await;
                return rows.map(Some).map_err(|error| Over::Refused(error.into()));
            }
            Command::Deed(..) | Command::Reload | Command::SetLog(_) if self.right != Right::Admin => {
                return Err(Over::Refused(AdminError::may_not(command.tag())));
            }
            Command::Reload => {
                tracing::info!(user = self.user, command = "RELOAD", "a command of an administrator");
                let reloaded = reload(&self.shared).await;
                reloaded.map_err(|why| Over::Refused(AdminError::not_reloaded(&why)))?;
            }
            Command::SetLog(filter) => {
                let set = self.shared.set_log_filter(filter);
                set.map_err(|why| Over::Refused(AdminError::no_log_filter(&why)))?;
                tracing::info!(
                    user = self.user,
                    filter,
                    command = "SET log",
                    "a command of an administrator"
                );
            }
            Command::Deed(deed, tenant) => {
                // What was answered before must not wait for it.
                self.flush().await?;
                let done = act::act(&self.shared, *deed, tenant, &self.user).await;
                if let Some(told) = done.map_err(Over::Refused)? {
                    notice(&mut self.output, &told);
                }
            }
            Command::Courtesy("BEGIN") => self.status = TransactionStatus::Open,
            Command::Courtesy("COMMIT" | "ROLLBACK") => self.status = TransactionStatus::Idle,
            Command::Courtesy("DISCARD ALL") => self.statements.clear(),
            Command::Courtesy(_) | Command::Empty => {}
        }
        Ok(None)
    }

    /// Sends rows, at most so many if `most` is not 0, and how it ended; gives whether all were sent.
    pub(super) async fn send_rows(
        &mut self,
        command: &Command,
        rows: Option<&mut Rows>,
        formats: &Formats,
        most: usize,
    ) -> Result<bool, Over> {
        let mut sent = 0;
        if let Some(rows) = rows {
            loop {
                if most > 0 && sent == most {
                    write_bare(&mut self.output, backend::tag::PORTAL_SUSPENDED);
                    return Ok(false);
                }
                let next = rows.next(&self.shared).await;
                let Some(row) = next.map_err(|error| Over::Refused(error.into()))? else { break };
                write_data_row(&mut self.output, &row, formats);
                sent += 1;
                if self.output.len() >= OUTPUT_BYTES_MAX {
                    self.flush().await?;
                }
            }
        }
        let out = &mut self.output;
        match command {
            Command::Empty => write_bare(out, backend::tag::EMPTY_QUERY),
            Command::Show(_) => backend::write_command_complete(out, &format!("SELECT {sent}")),
            other => backend::write_command_complete(out, other.tag()),
        }
        Ok(true)
    }

    async fn read_more(&mut self) -> Result<(), Over> {
        let read = self.stream.read_more(&mut self.input, READ_BYTES).await?;
        if read == 0 { Err(Over::Gone) } else { Ok(()) }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let write = self.stream.write_all(&self.output);
        tokio::time::timeout(WRITE_TIMEOUT, write).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        self.output.clear();
        Ok(())
    }
}

/// Reads the commands of a text as it came.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Command>, Over> {
    let text = std::str::from_utf8(text);
    let text = text.map_err(|_| Over::Refused(AdminError::unknown_command()))?;
    command::parse(text).map_err(Over::Refused)
}

fn notice(out: &mut BytesMut, message: &str) {
    let severity = Severity::Notice.as_str();
    let fields = ErrorFields { severity, code: "00000", message, detail: None, hint: None, routine: None };
    fields.write_notice(out);
}
