//! The extended protocol: statements under the names that servers know them by, prepared on the connection when needed.

use std::rc::Rc;

use bytes::Buf as _;
use wire::backend::{self, TransactionStatus};
use wire::frontend;
use wire::{HEADER_BYTES, Header};

use crate::prepared::{Certainty, Held, NAME_OF_NONE, NAME_PREFIX, Statement};
use crate::session::expect::{Expect, Named};
use crate::session::requests::TEXT_BYTES_MAX;
use crate::session::{Need, Over, Session};
use crate::state::Deeds;

/// What a client's name for a statement stands for.
pub(super) enum Resolved {
    /// As it is: a statement made by SQL, or none.
    Raw,
    /// This one, and the shape of its result that the client was told.
    Known(Rc<Statement>, Option<u64>),
    /// None, in the way that servers say it best.
    None,
    /// Not to be known before earlier answers are there.
    Unsure,
}

impl Session {
    pub(super) fn parse(&mut self, header: Header) -> Result<Option<Need>, Over> {
        let long = header.body > TEXT_BYTES_MAX;
        if !long && !self.whole(header) {
            return Ok(Some(Need::Input));
        }
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        if long {
            return self.parse_unread(header);
        }
        let input = std::mem::take(&mut self.side.input);
        let Ok(parse) = frontend::parse(&input[HEADER_BYTES..header.total()]) else {
            self.side.input = input;
            return self.malformed(header);
        };
        let sent = if parse.name.is_empty() {
            // Drivers send the same text again and again: then there is nothing new to find out about it. Otherwise the
            // one before is gone, even if this one fails.
            let reading = self.state.reading();
            let again = self.unnamed.take().filter(|held| held.is(parse.query, parse.types, reading));
            let statement = again.map(|held| held.shared()).unwrap_or_else(|| {
                self.tenant.statements.borrow_mut().make(parse.query, parse.types, reading)
            });
            match self.refusal_of_any(&statement) {
                Some(refusal) => self.refuse(refusal),
                None => self.parse_unnamed(statement, &input[..header.total()]),
            }
        } else {
            let statement =
                self.tenant.statements.borrow_mut().get(parse.query, parse.types, self.state.reading());
            match self.refusal(parse.name, &statement) {
                Some(refusal) => self.refuse(refusal),
                None => self.parse_named(parse.name, &statement),
            }
        };
        self.side.input = input;
        if !sent {
            return Ok(Some(Need::Answers));
        }
        self.side.input.advance(header.total());
        self.unsynced = true;
        Ok(None)
    }

    fn parse_unnamed(&mut self, statement: Rc<Statement>, message: &[u8]) -> bool {
        let deallocates = self.deallocates(&statement.deeds).is_some();
        let reserved = statement.is_refused();
        let Some(connection) = &mut self.connection else {
            return false;
        };
        connection.unnamed = statement.id;
        self.expected.push(Expect::ParseUnnamed { id: statement.id, silent: false });
        if deallocates {
            // What it names is known to servers by another name: they get an empty text instead.
            frontend::write_parse(
                connection.side.out(&self.tenant.worker.buffers),
                b"",
                b"",
                &statement.types,
            );
        } else if reserved {
            let out = connection.side.out(&self.tenant.worker.buffers);
            frontend::write_parse(out, b"", &statement.text, &statement.types);
        } else {
            connection.side.out(&self.tenant.worker.buffers).extend_from_slice(message);
        }
        self.unnamed = Some(Held::new(statement));
        true
    }

    /// `false` when earlier answers must be there first.
    fn parse_named(&mut self, name: &[u8], statement: &Rc<Statement>) -> bool {
        let again = match self.statements.get(name) {
            Some(Named { unsure: Some(segment), .. }) if *segment != self.segment => return false,
            known => known.is_some(),
        };
        if again {
            // The server is to say that there is one already: it must have one, and be asked for another.
            if !self.prepare(statement) {
                return false;
            }
            if let Some(connection) = &mut self.connection {
                let out = connection.side.out(&self.tenant.worker.buffers);
                frontend::write_parse(out, &statement.name, &statement.text, &statement.types);
            }
            self.expected.push(Expect::ParseRaw);
            return true;
        }
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let unsure = match connection.prepared.find(statement.id, self.tenant.plans.get()) {
            Some(Certainty::Sent(segment)) if segment != self.segment => return false,
            // A server that skips to the end of a failed transaction is to say so itself.
            Some(_) if self.status == TransactionStatus::Failed => {
                self.send_parse(statement, Some(name.into()));
                Some(self.segment)
            }
            // Whether a transaction has failed is known when it is answered.
            Some(_) if !self.copying_in && self.expected.may_fail_transaction(self.status) => return false,
            Some(_) => {
                self.expected.push(Expect::LocalParse(name.into()));
                None
            }
            None => {
                self.send_parse(statement, Some(name.into()));
                Some(self.segment)
            }
        };
        let statement = Held::new(statement.clone());
        self.statements.insert(name.into(), Named { statement, unsure, shape: None });
        self.answer_locally();
        true
    }

    /// A Parse too long to be read goes on as it comes, under the client's own name: the client stays on its connection.
    fn parse_unread(&mut self, header: Header) -> Result<Option<Need>, Over> {
        let deeds = Deeds::unread();
        self.sending(&deeds);
        if self.side.input.get(HEADER_BYTES) == Some(&0) {
            let statement = self.tenant.statements.borrow_mut().make(b"", b"\0\0", 0);
            if let Some(connection) = &mut self.connection {
                connection.unnamed = statement.id;
            }
            self.expected.push(Expect::ParseUnnamed { id: statement.id, silent: false });
            self.unnamed = Some(Held::new(statement));
        } else {
            self.expected.push(Expect::ParseRaw);
        }
        self.unsynced = true;
        self.pass(header)
    }

    fn send_parse(&mut self, statement: &Rc<Statement>, client: Option<Box<[u8]>>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        self.stretch.forget();
        let out = connection.side.out(&self.tenant.worker.buffers);
        if connection.prepared.has(statement.id) {
            frontend::write_close_statement(out, &statement.name);
            self.expected.push(Expect::CloseSilent(statement.clone()));
        }
        frontend::write_parse(out, &statement.name, &statement.text, &statement.types);
        self.expected.push(Expect::Parse { statement: statement.clone(), client });
        let max = self.tenant.worker.shared.config().prepared_per_connection_max;
        connection.prepared.add(statement.clone(), self.segment, self.tenant.plans.get());
        while let Some(excess) = connection.prepared.take_excess(max) {
            frontend::write_close_statement(out, &excess.name);
            self.expected.push(Expect::CloseSilent(excess));
        }
    }

    /// Sees to it that the connection has the statement; `false` when earlier answers must be there first.
    pub(super) fn prepare(&mut self, statement: &Rc<Statement>) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        match connection.prepared.find(statement.id, self.tenant.plans.get()) {
            Some(Certainty::Sent(segment)) if segment != self.segment => return false,
            Some(_) => {}
            None => self.send_parse(statement, None),
        }
        true
    }

    /// Sees to it that the connection has this client's unnamed statement.
    pub(super) fn prepare_unnamed(&mut self, statement: &Rc<Statement>) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if connection.unnamed != statement.id {
            connection.unnamed = statement.id;
            frontend::write_parse(
                connection.side.out(&self.tenant.worker.buffers),
                b"",
                &statement.text,
                &statement.types,
            );
            self.expected.push(Expect::ParseUnnamed { id: statement.id, silent: true });
        }
    }

    pub(super) fn resolve(&self, name: &[u8]) -> Resolved {
        if name.is_empty() {
            let unnamed = self.unnamed.as_ref().map(Held::shared);
            return unnamed.map_or(Resolved::None, |statement| Resolved::Known(statement, None));
        }
        match self.statements.get(name) {
            Some(Named { unsure: Some(segment), .. }) if *segment != self.segment => Resolved::Unsure,
            Some(named) => Resolved::Known(named.statement.shared(), named.shape),
            // What the router named is not a client's to name.
            None if name.starts_with(NAME_PREFIX.as_bytes()) => Resolved::None,
            None => Resolved::Raw,
        }
    }

    pub(super) fn describe(&mut self, header: Header) -> Result<Option<Need>, Over> {
        if !self.whole_names(header, "Describe")? {
            return Ok(Some(Need::Input));
        }
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        let Ok(target) = frontend::target(&self.side.input[HEADER_BYTES..header.total()]) else {
            return self.malformed(header);
        };
        if target.kind == b'P' {
            self.stretch.described();
            self.expected.push(Expect::Describe);
            self.unsynced = true;
            return self.pass(header);
        }
        let name: Box<[u8]> = target.name.into();
        let resolved = self.resolve(&name);
        let mut expect = Expect::Describe;
        let sent: Option<Box<[u8]>> = match resolved {
            Resolved::Unsure => return Ok(Some(Need::Answers)),
            Resolved::Raw => None,
            Resolved::None => Some(NAME_OF_NONE.as_bytes().into()),
            Resolved::Known(statement, _) if name.is_empty() => {
                self.prepare_unnamed(&statement);
                None
            }
            Resolved::Known(statement, _) => {
                if !self.prepare(&statement) {
                    return Ok(Some(Need::Answers));
                }
                let sent = statement.name.clone();
                expect = Expect::DescribeStatement { statement, client: Some(name) };
                Some(sent)
            }
        };
        self.expected.push(expect);
        self.unsynced = true;
        match (sent, &mut self.connection) {
            (Some(sent), Some(connection)) => {
                self.side.input.advance(header.total());
                frontend::write_describe_statement(connection.side.out(&self.tenant.worker.buffers), &sent);
                Ok(None)
            }
            _ => self.pass(header),
        }
    }

    pub(super) fn execute(&mut self, header: Header) -> Result<Option<Need>, Over> {
        if !self.whole_names(header, "Execute")? {
            return Ok(Some(Need::Input));
        }
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        let Ok((portal, _)) = frontend::execute(&self.side.input[HEADER_BYTES..header.total()]) else {
            return self.malformed(header);
        };
        let deeds = if self.portals.is_empty() {
            Deeds::default()
        } else {
            self.portals.get(portal).cloned().unwrap_or_default()
        };
        self.sending(&deeds);
        self.stretch.executed();
        self.expected.push(Expect::Execute(deeds));
        self.unsynced = true;
        self.pass(header)
    }

    pub(super) fn close(&mut self, header: Header) -> Result<Option<Need>, Over> {
        if !self.whole_names(header, "Close")? {
            return Ok(Some(Need::Input));
        }
        let Ok(target) = frontend::target(&self.side.input[HEADER_BYTES..header.total()]) else {
            return self.malformed(header);
        };
        let (kind, name): (u8, Box<[u8]>) = (target.kind, target.name.into());
        let local = kind == b'S'
            && (self.statements.contains_key(&name)
                || name.starts_with(NAME_PREFIX.as_bytes())
                || (self.connection.is_none() && !name.is_empty()));
        if local {
            if self.connection.is_some()
                && let Some(need) = self.begin()
            {
                return Ok(Some(need));
            }
            if self.statements.get(&name).is_some_and(|n| n.unsure.is_some_and(|s| s != self.segment)) {
                return Ok(Some(Need::Answers));
            }
            let closed = self.statements.remove(&name).map(|named| (name, named));
            self.expected.push(Expect::LocalClose(closed));
            self.unsynced |= self.connection.is_some();
            self.side.input.advance(header.total());
            self.answer_locally();
            return Ok(None);
        }
        if let Some(need) = self.begin() {
            return Ok(Some(need));
        }
        if kind == b'P' {
            self.portals.remove(&name);
        } else if name.is_empty() {
            self.unnamed = None;
            if let Some(connection) = &mut self.connection {
                connection.unnamed = 0;
            }
        }
        self.expected.push(Expect::CloseRaw);
        self.unsynced = true;
        self.pass(header)
    }

    pub(super) fn next_is_local(&self) -> bool {
        matches!(self.expected.front(), Some(Expect::LocalParse(_) | Expect::LocalClose(_) | Expect::CopyEnd))
    }

    /// Gives the answers whose turn it is and which need no server, unless the one before is still on its way.
    pub(super) fn answer_locally(&mut self) {
        if self.connection.as_ref().is_some_and(|connection| connection.side.pass > 0) {
            return;
        }
        while self.next_is_local() {
            let out = self.side.out(&self.tenant.worker.buffers);
            match self.expected.pop() {
                Some(Expect::LocalParse(_)) => backend::write_parse_complete(out),
                Some(Expect::LocalClose(_)) => backend::write_close_complete(out),
                _ => {}
            }
        }
    }
}
