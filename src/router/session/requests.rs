//! Takes the client's requests as they come, and sends on what the server is to see of them.

use wire::backend::{self, TransactionStatus};
use wire::frontend::{self, tag};
use wire::sql::Change;
use wire::{HEADER_BYTES, Header, WireError};

use crate::config::MESSAGE_BYTES_MAX_LEAST;
use crate::error::ClientError;
use crate::prepared::REFUSED_TEXT;
use crate::relay::{OUTPUT_BYTES_MAX, forward};
use crate::session::expect::Expect;
use crate::session::{Need, Over, Session};
use crate::state::{Deeds, replay};

/// Longest text of a statement that is read. A longer one is streamed, and pins its client.
pub(super) const TEXT_BYTES_MAX: usize = 1 << 20;
/// Longest body of a request that is nothing but names.
const NAMES_BYTES_MAX: usize = 64 * 1024;

impl Session {
    /// Takes requests until something else is needed.
    pub(super) fn requests(&mut self) -> Result<Need, Over> {
        self.wanted = 0;
        loop {
            if self.said_goodbye {
                return Ok(Need::Nothing);
            }
            if self.side.input.is_empty() {
                return Ok(Need::Input);
            }
            self.drop_skipped();
            if !self.pass_on() {
                return Ok(Need::Input);
            }
            if self.connection.as_ref().is_some_and(|c| c.side.output.len() >= OUTPUT_BYTES_MAX) {
                return Ok(Need::Answers);
            }
            let Some(header) = self.header()? else {
                return Ok(Need::Input);
            };
            if let Some(need) = self.request(header)? {
                return Ok(need);
            }
        }
    }

    /// The header of the next request.
    fn header(&self) -> Result<Option<Header>, WireError> {
        match wire::header(&self.side.input, MESSAGE_BYTES_MAX_LEAST) {
            // Only the longest need a look at what is configured.
            Err(WireError::TooLong { .. }) => {
                wire::header(&self.side.input, self.tenant.worker.shared.config().message_bytes_max)
            }
            header => header,
        }
    }

    fn drop_skipped(&mut self) {
        let count = self.side.skip.min(self.side.input.len());
        if count > 0 {
            bytes::Buf::advance(&mut self.side.input, count);
            self.side.skip -= count;
        }
    }

    /// Forwards the rest of the message under way; `false` when more of it is to come.
    fn pass_on(&mut self) -> bool {
        if self.side.skip > 0 {
            return false;
        }
        if self.side.pass > 0 {
            let count = self.side.pass.min(self.side.input.len());
            self.side.pass -= count;
            if let Some(connection) = &mut self.connection {
                forward(&mut self.side.input, count, &mut connection.side, &self.tenant.worker.buffers);
            }
        }
        self.side.pass == 0
    }

    /// Takes one request, or says what it needs first.
    fn request(&mut self, header: Header) -> Result<Option<Need>, Over> {
        if header.tag == tag::TERMINATE {
            self.said_goodbye = true;
            return Ok(Some(Need::Nothing));
        }
        if self.skipping && header.tag != tag::SYNC {
            return self.skip(header);
        }
        // What comes behind a stretch that is to be sent once more must not overtake it.
        if self.stretch.is_refused() {
            return Ok(Some(Need::Answers));
        }
        self.stretch.passes_end();
        if !matches!(header.tag, tag::BIND | tag::DESCRIBE | tag::EXECUTE | tag::SYNC) {
            self.stretch.leaves();
        }
        match header.tag {
            tag::SYNC => self.sync(header),
            tag::QUERY => self.query(header),
            tag::PARSE => self.parse(header),
            tag::BIND => self.bind(header),
            tag::DESCRIBE => self.describe(header),
            tag::EXECUTE => self.execute(header),
            tag::CLOSE => self.close(header),
            // Nothing belongs into it; during a COPY nobody looks.
            tag::FLUSH if header.body > 0 && !self.copying_in => self.malformed(header),
            tag::FLUSH if self.connection.is_none() => self.skip(header),
            tag::FLUSH => self.pass(header),
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => self.copy_part(header),
            tag::FUNCTION_CALL => self.function_call(header),
            other => Err(wire::WireError::Tag(other).into()),
        }
    }

    /// Whether a new stretch that comes behind unanswered ones has to wait for them: they tell whether a transaction is
    /// open. If none is, what is to be done between transactions is done then. A client that pipelines without a pause
    /// would otherwise never be at rest.
    fn waits_behind_answers(&self, connection: &crate::pool::ServerConnection) -> bool {
        let behind = !self.unsynced && !self.copying_in && !self.expected.is_empty();
        behind
            && (self.tenant.is_held()
                || self.is_stale(connection)
                || self.me.ending().is_some()
                || self.tenant.refusal().is_some()
                || replay(&connection.applied, &self.state.settings).is_some())
    }

    /// Whether a request can be sent now; what it needs, if not.
    pub(super) fn begin(&mut self) -> Option<Need> {
        if self.connection.is_none() && !self.attach_now() {
            return Some(Need::Server);
        }
        let Some(connection) = &self.connection else {
            return Some(Need::Server);
        };
        if self.waits_behind_answers(connection) {
            return Some(Need::Answers);
        }
        if self.is_quiet() {
            if self.tenant.is_held() {
                return Some(Need::Answers);
            }
            if (self.is_stale(connection) && !self.state.is_pinned())
                || replay(&connection.applied, &self.state.settings).is_some()
            {
                return Some(Need::Server);
            }
            self.me.parked.set(false);
            if self.me.began.get().is_none() {
                self.me.began.set(Some(self.tenant.worker.clock.now()));
            }
        }
        None
    }

    /// A body that does not have its letter's form goes on as it came: the server says what is wrong with it, and goes on
    /// behind it.
    pub(super) fn malformed(&mut self, header: Header) -> Result<Option<Need>, Over> {
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        self.stretch.leaves();
        match header.tag {
            tag::QUERY => self.expected.push(Expect::Query(Deeds::default())),
            tag::FUNCTION_CALL => self.expected.push(Expect::FunctionCall),
            tag::SYNC => self.expected.push(Expect::Sync),
            _ => {
                self.expected.push(Expect::ParseRaw);
                self.unsynced = true;
                return self.pass(header);
            }
        }
        self.end_segment();
        self.pass(header)
    }

    /// Forwards the message unseen.
    pub(super) fn pass(&mut self, header: Header) -> Result<Option<Need>, Over> {
        self.side.pass = header.total();
        Ok(None)
    }

    fn skip(&mut self, header: Header) -> Result<Option<Need>, Over> {
        self.side.skip = header.total();
        Ok(None)
    }

    /// Drops the request at the head of the input, whose error was told.
    pub(super) fn drop_request(&mut self) -> Result<(), Over> {
        let Some(header) = self.header()? else {
            return Ok(());
        };
        self.side.skip = header.total();
        if matches!(header.tag, tag::QUERY | tag::FUNCTION_CALL | tag::SYNC) {
            let out = self.side.out(&self.tenant.worker.buffers);
            backend::write_ready_for_query(out, TransactionStatus::Idle);
        } else {
            self.skipping = true;
        }
        Ok(())
    }

    /// The message's body, if it is all there.
    pub(super) fn whole(&mut self, header: Header) -> bool {
        if self.side.input.len() >= header.total() {
            return true;
        }
        self.wanted = header.total();
        false
    }

    /// The same for one that holds only names.
    pub(super) fn whole_names(&mut self, header: Header, what: &'static str) -> Result<bool, Over> {
        if header.body > NAMES_BYTES_MAX {
            return Err(wire::WireError::Malformed(what).into());
        }
        Ok(self.whole(header))
    }

    /// A stretch ends: what was sent in it is answered up to here.
    pub(super) fn end_segment(&mut self) {
        self.segment += 1;
        self.unsynced = false;
    }

    fn sync(&mut self, header: Header) -> Result<Option<Need>, Over> {
        self.skipping = false;
        if header.body > 0 && !self.copying_in {
            return self.malformed(header);
        }
        // With nothing before it, it is answered here, though a hold or a pause keeps all else waiting.
        if self.connection.is_none() || (self.is_quiet() && self.tenant.is_held()) {
            let out = self.side.out(&self.tenant.worker.buffers);
            backend::write_ready_for_query(out, TransactionStatus::Idle);
            return self.skip(header);
        }
        if !self.copying_in {
            self.stretch_ends();
            self.expected.push(Expect::Sync);
            self.end_segment();
        }
        self.pass(header)
    }

    fn query(&mut self, header: Header) -> Result<Option<Need>, Over> {
        let is_read = header.body <= TEXT_BYTES_MAX;
        if is_read && !self.whole(header) {
            return Ok(Some(Need::Input));
        }
        if is_read && starts_with_deallocate(&self.side.input[HEADER_BYTES..header.total()]) {
            let Ok(text) = frontend::query(&self.side.input[HEADER_BYTES..header.total()]) else {
                return self.malformed(header);
            };
            let deeds = Deeds::of(wire::sql::classify_bytes(text));
            if let Some(need) = self.deallocate(header, &deeds)? {
                return Ok(need);
            }
        }
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        let deeds = if is_read {
            let Ok(text) = frontend::query(&self.side.input[HEADER_BYTES..header.total()]) else {
                return self.malformed(header);
            };
            Deeds::of_query(text)
        } else {
            Deeds::unread()
        };
        // A Query does away with the unnamed statement.
        self.unnamed = None;
        let Some(connection) = &mut self.connection else {
            return Ok(Some(Need::Server));
        };
        connection.unnamed = 0;
        if deeds.names_reserved() || deeds.alters_role() {
            frontend::write_query(connection.side.out(&self.tenant.worker.buffers), REFUSED_TEXT);
            let deeds = if deeds.alters_role() { Deeds::of_role() } else { Deeds::default() };
            self.expected.push(Expect::Query(deeds));
            self.end_segment();
            return self.skip(header);
        }
        self.sending(&deeds);
        self.expected.push(Expect::Query(deeds));
        self.end_segment();
        self.pass(header)
    }

    fn function_call(&mut self, header: Header) -> Result<Option<Need>, Over> {
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        let there = self.side.input.len().min(header.total());
        if there < header.total().min(HEADER_BYTES + size_of::<u32>()) {
            return Ok(Some(Need::Input));
        }
        let Ok(function) = frontend::function_call(&self.side.input[HEADER_BYTES..there]) else {
            return self.malformed(header);
        };
        self.sending(&Deeds::of_call(function));
        self.expected.push(Expect::FunctionCall);
        self.end_segment();
        self.pass(header)
    }

    /// Takes note of what a statement will do, as it is sent.
    pub(super) fn sending(&mut self, deeds: &Deeds) {
        if deeds.effects.is_some() {
            let new = self.state.sending(deeds, self.status != TransactionStatus::Idle);
            self.note_pins(new);
        }
    }

    /// DEALLOCATE of a statement that servers know by another name, or of all of them: done here, if it is that.
    #[allow(clippy::option_option, reason = "not that; or that, and what is needed next")]
    fn deallocate(&mut self, header: Header, deeds: &Deeds) -> Result<Option<Option<Need>>, Over> {
        let Some(change) = self.deallocates(deeds) else {
            return Ok(None);
        };
        if !self.expected.is_empty() || self.unsynced {
            return Ok(Some(Some(Need::Answers)));
        }
        if self.status == TransactionStatus::Failed {
            return Ok(None);
        }
        let command = self.deallocate_now(&change);
        let status = self.status;
        let out = self.side.out(&self.tenant.worker.buffers);
        backend::write_command_complete(out, command);
        backend::write_ready_for_query(out, status);
        self.skip(header).map(Some)
    }

    /// The one change of a statement that only deallocates what the router keeps.
    pub(super) fn deallocates(&self, deeds: &Deeds) -> Option<Change<'static>> {
        let effects = deeds.effects.as_ref()?;
        if effects.statements != wire::sql::Count::One {
            return None;
        }
        match &effects.changes[..] {
            [Change::Deallocate(name)] if self.statements.contains_key(name.as_bytes()) => {
                Some(effects.changes[0].clone())
            }
            [Change::DeallocateAll] if !self.state.has_sql_statements() => Some(Change::DeallocateAll),
            _ => None,
        }
    }

    /// Forgets the client's statements; gives the command's tag.
    pub(super) fn deallocate_now(&mut self, change: &Change<'_>) -> &'static str {
        if let Change::Deallocate(name) = change {
            self.statements.remove(name.as_bytes());
            "DEALLOCATE"
        } else {
            self.statements.clear();
            "DEALLOCATE ALL"
        }
    }

    fn copy_part(&mut self, header: Header) -> Result<Option<Need>, Over> {
        // Outside a COPY, Postgres ignores these; so they need no connection either.
        if self.connection.is_none() || self.is_quiet() {
            return self.skip(header);
        }
        if header.tag != tag::COPY_DATA && !self.expected.is_empty() {
            self.expected.push(Expect::CopyEnd);
            self.copying_in = false;
        }
        self.pass(header)
    }

    /// What a client is told whose connection to the server is lost.
    pub(super) fn loss(&self) -> ClientError {
        // Outside a transaction, each answer that is missing is that of a commit.
        let implicit = self.status == TransactionStatus::Idle && self.expected.ends_stretch();
        if implicit || self.expected.commits() { ClientError::CommitUnknown } else { ClientError::ServerLost }
    }
}

/// Whether a text may be a DEALLOCATE: a cheap look before the thorough one.
fn starts_with_deallocate(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.get(..10).is_some_and(|word| word.eq_ignore_ascii_case(b"deallocate"))
}
