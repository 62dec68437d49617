//! Takes the server's replies: passes them on, keeps back those to the router's own requests, and learns from the rest.

use bytes::{Buf as _, BytesMut};
use wire::backend::{self, TransactionStatus, tag};
use wire::{ErrorFields, HEADER_BYTES, Severity};

use crate::error::ClientError;
use crate::pool::ServerConnection;
use crate::relay::forward;
use crate::session::expect::{Expect, Named};
use crate::session::plans::shape_of;
use crate::session::{Over, Session};
use crate::state::{Deeds, StatementsGone, note_parameter};
use crate::stats::Figure;

/// Longest reply that is looked at; none that matters is longer.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// What becomes of a reply.
#[derive(Debug)]
pub(super) enum Fate {
    PassOn,
    KeepBack,
    /// The client gets this in its place.
    Replace(BytesMut),
}

impl Session {
    /// Takes all replies that are there.
    pub(super) fn replies(&mut self) -> Result<(), Over> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(());
        };
        let outcome = self.take_replies(&mut connection);
        self.me.set_busy(!self.expected.is_empty(), &self.tenant.worker.clock);
        if outcome.is_err() || self.server_said_so || self.server_gone {
            return self.lose(connection, outcome);
        }
        connection.side.rest(&self.tenant.worker.buffers);
        self.connection = Some(connection);
        outcome
    }

    /// The connection has ended, or must.
    fn lose(&mut self, connection: Box<ServerConnection>, outcome: Result<(), Over>) -> Result<(), Over> {
        self.is_cut = connection.side.pass > 0;
        let nothing_lost = self.can_change_connection() && !self.server_said_so && !self.is_cut;
        self.me.set_target(None);
        self.tenant.discard(connection);
        outcome?;
        if nothing_lost {
            // What is left of a message that nobody takes any more; it must not be read as messages.
            self.side.skip += std::mem::take(&mut self.side.pass);
            self.server_gone = false;
            return Ok(());
        }
        if self.server_said_so {
            return Err(Over::ServerSaidSo);
        }
        Err(self.loss().into())
    }

    fn take_replies(&mut self, connection: &mut ServerConnection) -> Result<(), Over> {
        // Bytes at the head of the input that are to be passed on.
        let mut run = 0;
        loop {
            if connection.side.pass > 0 {
                let count = connection.side.pass.min(connection.side.input.len() - run);
                run += count;
                connection.side.pass -= count;
                if connection.side.pass > 0 {
                    break;
                }
            }
            if self.next_is_local() {
                forward(&mut connection.side.input, run, &mut self.side, &self.tenant.worker.buffers);
                run = 0;
                self.answer_locally();
            }
            let Some(header) = wire::header(&connection.side.input[run..], usize::MAX)? else {
                break;
            };
            if self.only_passes(header.tag) {
                self.stretch.passes_end();
                connection.side.pass = header.total();
                continue;
            }
            let there = connection.side.input.len() - run >= header.total();
            let read =
                is_read(header.tag) || (header.tag == tag::ROW_DESCRIPTION && self.expected.wants_shape());
            if read && !there && header.body <= REPLY_BYTES_MAX {
                break;
            }
            if is_replaced(header.tag) {
                // What may be said in its place comes after what came before it.
                forward(&mut connection.side.input, run, &mut self.side, &self.tenant.worker.buffers);
                run = 0;
            }
            let fate = if read && there {
                let input = std::mem::take(&mut connection.side.input);
                let body = &input[run + HEADER_BYTES..run + header.total()];
                let fate = self.reply(connection, header.tag, body);
                connection.side.input = input;
                fate?
            } else {
                self.reply(connection, header.tag, &[])?
            };
            match fate {
                Fate::PassOn => {
                    self.stretch.passes_end();
                    connection.side.pass = header.total();
                }
                Fate::KeepBack | Fate::Replace(_) => {
                    forward(&mut connection.side.input, run, &mut self.side, &self.tenant.worker.buffers);
                    run = 0;
                    connection.side.input.advance(header.total());
                    if let Fate::Replace(answer) = fate {
                        self.stretch.passes_end();
                        self.side.out(&self.tenant.worker.buffers).extend_from_slice(&answer);
                    }
                }
            }
        }
        forward(&mut connection.side.input, run, &mut self.side, &self.tenant.worker.buffers);
        Ok(())
    }

    /// Whether replies of this kind go on without a look at them: most are rows.
    fn only_passes(&self, tag: u8) -> bool {
        match tag {
            tag::DATA_ROW | tag::COPY_DATA => true,
            tag::ROW_DESCRIPTION => matches!(self.expected.front(), Some(Expect::Query(_))),
            _ => false,
        }
    }

    fn reply(&mut self, connection: &mut ServerConnection, tag: u8, body: &[u8]) -> Result<Fate, Over> {
        match tag {
            tag::DATA_ROW | tag::COPY_DATA => {}
            tag::PARSE_COMPLETE => return Ok(self.parsed(connection)),
            tag::CLOSE_COMPLETE => {
                if matches!(self.expected.pop(), Some(Expect::CloseSilent(_))) {
                    return Ok(Fate::KeepBack);
                }
            }
            tag::BIND_COMPLETE => drop(self.expected.pop()),
            tag::PARAMETER_DESCRIPTION
                if matches!(self.expected.front(), Some(Expect::DescribeStatement { client: None, .. })) =>
            {
                return Ok(Fate::KeepBack);
            }
            tag::NO_DATA | tag::ROW_DESCRIPTION if self.expected.wants_shape() => {
                return Ok(self.learn_shape(connection, shape_of(body)));
            }
            tag::NO_DATA | tag::ROW_DESCRIPTION => {
                if matches!(self.expected.front(), Some(Expect::Describe)) {
                    self.expected.pop();
                }
            }
            tag::COMMAND_COMPLETE => self.completed(connection),
            tag::EMPTY_QUERY => return Ok(self.was_empty()),
            tag::PORTAL_SUSPENDED => drop(self.expected.pop()),
            tag::COPY_IN | tag::COPY_BOTH => self.copying_in = !self.expected.copy_begins(),
            tag::READY_FOR_QUERY if self.stretch.is_refused() => {
                self.send_once_more(connection);
                return Ok(Fate::KeepBack);
            }
            tag::READY_FOR_QUERY => self.ready(connection, backend::ready_for_query(body)?)?,
            tag::ERROR => return self.failed(connection, body),
            tag::NOTIFICATION if !body.is_empty() => return self.notified(body),
            tag::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status(body)?;
                note_parameter(&mut connection.params, name, value);
                self.told = connection.params.clone();
            }
            _ => {}
        }
        Ok(Fate::PassOn)
    }

    /// A notification; of a client of this router under the process id by which clients know it.
    fn notified(&mut self, body: &[u8]) -> Result<Fate, Over> {
        let (sender, rest) = backend::notification(body)?;
        let Some(client) = self.tenant.client_behind(sender) else {
            return Ok(Fate::PassOn);
        };
        backend::write_notification(self.side.out(&self.tenant.worker.buffers), client, rest);
        Ok(Fate::KeepBack)
    }

    fn parsed(&mut self, connection: &mut ServerConnection) -> Fate {
        match self.expected.pop() {
            Some(Expect::Parse { statement, client }) => {
                connection.prepared.confirm(statement.id);
                let Some(client) = client else {
                    return Fate::KeepBack;
                };
                if let Some(named) = self.statements.get_mut(&client) {
                    named.unsure = None;
                }
                Fate::PassOn
            }
            Some(Expect::ParseUnnamed { silent: true, .. }) => Fate::KeepBack,
            _ => Fate::PassOn,
        }
    }

    fn completed(&mut self, connection: &mut ServerConnection) {
        self.copying_in = false;
        self.tenant.counters.add(Figure::Statements, 1);
        let deeds = match self.expected.front() {
            Some(Expect::Execute(deeds) | Expect::Query(deeds)) if deeds.is_nothing() => Deeds::default(),
            // Done when the whole is answered; a COMMIT among them has no part in it.
            Some(Expect::Query(deeds)) if deeds.is_of_many() && deeds.transaction.is_none() => return,
            Some(Expect::Execute(deeds) | Expect::Query(deeds)) => deeds.clone(),
            _ => return,
        };
        if matches!(self.expected.front(), Some(Expect::Execute(_))) {
            self.expected.pop();
        }
        if !deeds.is_nothing() {
            self.succeeded(connection, &deeds);
        }
    }

    fn succeeded(&mut self, connection: &mut ServerConnection, deeds: &Deeds) {
        use wire::sql::Transaction::{Commit, PrepareTransaction, Rollback, RollbackTo};
        if matches!(
            deeds.transaction,
            Some(Commit { .. } | PrepareTransaction | Rollback { .. } | RollbackTo)
        ) {
            // COMMIT of a failed transaction answers ROLLBACK, and is one.
            if self.failed && deeds.commits() {
                self.state.transaction_over(true, &mut connection.applied);
            }
            self.failed = false;
        }
        let pins = self.state.pins;
        if self.state.succeeded(deeds, &mut connection.applied) == StatementsGone::All {
            connection.prepared.clear();
            self.statements.clear();
        }
        if deeds.effects.as_ref().is_some_and(|effects| effects.alters_schema) {
            self.plans_change();
            self.alters_schema = true;
        }
        let mut new = self.state.pins;
        new.subtract(pins);
        self.note_pins(new);
    }

    /// An empty text was executed: the client's own, or in place of one that names what only the router knows.
    fn was_empty(&mut self) -> Fate {
        let Some(Expect::Execute(deeds)) = self.expected.front() else {
            return Fate::PassOn;
        };
        let change = self.deallocates(&deeds.clone());
        self.expected.pop();
        let Some(change) = change else {
            return Fate::PassOn;
        };
        let mut answer = BytesMut::new();
        backend::write_command_complete(&mut answer, self.deallocate_now(&change));
        Fate::Replace(answer)
    }

    fn ready(&mut self, connection: &mut ServerConnection, status: TransactionStatus) -> Result<(), Over> {
        match self.expected.pop() {
            Some(Expect::Query(deeds))
                if deeds.is_of_many() && deeds.transaction.is_none() && !self.failed =>
            {
                self.succeeded(connection, &deeds);
            }
            // How far it came is not known, nor which statements the connection still has.
            Some(Expect::Query(deeds)) if deeds.may_deallocate_all() => connection.cancel.spoiled.set(true),
            Some(Expect::Sync | Expect::Query(_) | Expect::FunctionCall) => {}
            // The account does not fit: whose answers come next is not known.
            _ => return Err(ClientError::ServerLost.into()),
        }
        self.copying_in = false;
        if !self.expected.is_empty() {
            self.me.answered(&self.tenant.worker.clock);
        }
        self.status = status;
        if status == TransactionStatus::Idle {
            self.state.transaction_over(self.failed, &mut connection.applied);
            self.failed = false;
            if std::mem::take(&mut self.alters_schema) {
                // Now others see it, too.
                self.plans_change();
            }
            self.portals.clear();
            self.me.pins.set(self.state.pins);
        }
        Ok(())
    }

    fn failed(&mut self, connection: &mut ServerConnection, body: &[u8]) -> Result<Fate, Over> {
        if matches!(self.expected.front(), Some(Expect::BindRefused)) {
            self.took_error(connection);
            return Ok(Fate::Replace(self.change_of_shape()));
        }
        if !body.is_empty() {
            let error = ErrorFields::parse(body)?;
            if error.ends_session() {
                if self.can_change_connection() {
                    // Nothing of this client's was there.
                    self.server_gone = true;
                    return Ok(Fate::KeepBack);
                }
                self.server_said_so = true;
            } else if let Some(error) = self.told_instead(error.code, connection.access) {
                self.tenant.count_refusal(&error);
                let mut answer = BytesMut::new();
                error.write(&mut answer, Severity::Error);
                self.took_error(connection);
                return Ok(Fate::Replace(answer));
            }
            if error.is_stale_plan() && self.plan_refused() {
                return Ok(Fate::KeepBack);
            }
            self.tenant.count_error(error.code);
        }
        self.took_error(connection);
        Ok(Fate::PassOn)
    }

    /// Takes account of an error: what was asked up to the next Sync will not be done.
    fn took_error(&mut self, connection: &mut ServerConnection) {
        self.failed = true;
        self.copying_in = false;
        if self.expected.skips_after_error() {
            let (skipped, found) = self.expected.skip_to_sync();
            for expect in skipped {
                self.take_back(connection, expect);
            }
            self.skipping = !found;
        }
    }

    /// A request failed or was skipped.
    fn take_back(&mut self, connection: &mut ServerConnection, expect: Expect) {
        match expect {
            Expect::Parse { statement, client } => {
                connection.prepared.deny(statement.id);
                if let Some(client) = client {
                    self.statements.remove(&client);
                }
            }
            Expect::ParseUnnamed { id, .. } => {
                if connection.unnamed == id {
                    connection.unnamed = 0;
                }
                if self.unnamed.as_ref().is_some_and(|held| held.id == id) {
                    self.unnamed = None;
                }
            }
            Expect::CloseSilent(statement) => connection.prepared.restore(statement),
            Expect::LocalParse(name) => drop(self.statements.remove(&name)),
            // Its Parse was answered, or is among what is taken back next.
            Expect::LocalClose(Some((name, named))) => {
                drop(self.statements.insert(name, Named { unsure: None, ..named }));
            }
            _ => {}
        }
    }
}

/// Whether the client may get something else in a reply's place.
fn is_replaced(tag: u8) -> bool {
    matches!(tag, tag::ERROR | tag::EMPTY_QUERY | tag::NOTIFICATION)
}

/// Whether a reply's body is looked at.
fn is_read(tag: u8) -> bool {
    matches!(tag, tag::READY_FOR_QUERY | tag::ERROR | tag::PARAMETER_STATUS | tag::NOTIFICATION)
}
