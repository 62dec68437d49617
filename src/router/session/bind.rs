//! Bind: the one request of the extended protocol that each execution has, so nothing is allocated for it.

use std::rc::Rc;

use bytes::Buf as _;
use wire::frontend::{self, Bind};
use wire::{HEADER_BYTES, Header};

use crate::prepared::{NAME_OF_NONE, Statement};
use crate::session::expect::Expect;
use crate::session::requests::TEXT_BYTES_MAX;
use crate::session::statements::Resolved;
use crate::session::{Need, Over, Session};

/// What a Bind is sent to the server with.
enum Sent {
    /// The statement's name as the client gave it.
    AsItCame,
    /// The name that servers know the statement by.
    Shared(Rc<Statement>),
    /// The name of no statement.
    OfNone,
}

impl Session {
    pub(super) fn bind(&mut self, header: Header) -> Result<Option<Need>, Over> {
        let input = std::mem::take(&mut self.side.input);
        let there = input.len().min(header.total());
        let bound = match frontend::bind(&input[HEADER_BYTES..there]) {
            Ok(bind) => self.bind_to(&bind).map(|sent| self.send_bind(header, &bind, &sent)),
            Err(_) if there < header.total() && there < TEXT_BYTES_MAX => {
                self.wanted = there + 1;
                Err(Need::Input)
            }
            Err(error) => {
                self.side.input = input;
                // All of it is there, or its names are longer than what is read of a message.
                return if there == header.total() { self.malformed(header) } else { Err(error.into()) };
            }
        };
        self.side.input = input;
        match bound {
            Err(need) => Ok(Some(need)),
            // All of it goes on as it came.
            Ok(0) => self.pass(header),
            Ok(replaced) => {
                self.side.input.advance(replaced);
                self.side.pass = header.total() - replaced;
                Ok(None)
            }
        }
    }

    /// Finds out what is bound, and sees to it that the server has it; or what must be there first.
    fn bind_to(&mut self, bind: &Bind<'_>) -> Result<Sent, Need> {
        if let Some(need) = self.begin() {
            return Err(need);
        }
        let (statement, told) = match self.resolve(bind.statement) {
            Resolved::Unsure => return Err(Need::Answers),
            Resolved::Raw => {
                self.portals.remove(bind.portal);
                self.expected.push(Expect::Bind);
                return Ok(Sent::AsItCame);
            }
            Resolved::None => {
                self.expected.push(Expect::Bind);
                return Ok(Sent::OfNone);
            }
            Resolved::Known(statement, told) => (statement, told),
        };
        let mut has_changed = false;
        if bind.statement.is_empty() {
            self.prepare_unnamed(&statement);
        } else {
            if !self.prepare(&statement) {
                return Err(Need::Answers);
            }
            if let Some(told) = told {
                has_changed = !self.has_shape(&statement, told).ok_or(Need::Answers)?;
            }
            self.stretch_binds(&statement);
        }
        if !statement.deeds.is_nothing() {
            self.portals.insert(bind.portal.into(), statement.deeds.clone());
        } else if !self.portals.is_empty() {
            self.portals.remove(bind.portal);
        }
        if has_changed {
            self.expected.push(Expect::BindRefused);
            return Ok(Sent::OfNone);
        }
        self.expected.push(Expect::Bind);
        Ok(if bind.statement.is_empty() { Sent::AsItCame } else { Sent::Shared(statement) })
    }

    /// Sends the beginning of a Bind, if it is another than the client sent; gives how many bytes of the client's that
    /// stands for.
    fn send_bind(&mut self, header: Header, bind: &Bind<'_>, sent: &Sent) -> usize {
        self.unsynced = true;
        let name = match sent {
            Sent::AsItCame => return 0,
            Sent::Shared(statement) => &statement.name,
            Sent::OfNone => NAME_OF_NONE.as_bytes(),
        };
        if let Some(connection) = &mut self.connection {
            let out = connection.side.out(&self.tenant.worker.buffers);
            frontend::write_bind_start(out, bind, header.body, name);
        }
        HEADER_BYTES + bind.portal.len() + bind.statement.len() + 2
    }
}
