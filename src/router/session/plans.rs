//! Statements whose plans a change of the schema has made invalid.
//!
//! Postgres refuses to run a prepared statement whose result has another shape than when it was prepared ("cached plan
//! must not change result type"): who asked was told the old one. So there are two cases. A client that asks for the
//! description of its portal each time (as libpq does) is told the new shape anyway: its request is sent once more, on the
//! statement prepared anew, and it notices nothing. A client that was told the shape when it prepared, and relies on it,
//! must get that error, also on a connection where the statement is prepared only now, and where Postgres can't know.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::rc::Rc;

use bytes::BytesMut;
use wire::frontend;
use wire::{ErrorFields, Severity};

use crate::pool::ServerConnection;
use crate::prepared::Statement;
use crate::session::Session;
use crate::session::expect::{Expect, Named};
use crate::session::replies::Fate;

/// Longest stretch of requests that is kept to be sent once more, in bytes.
const STRETCH_BYTES_MAX: usize = 16 * 1024;

/// What a client keeps of that when it is at rest, to be used again without an allocation.
const KEPT_BYTES_MAX: usize = 512;

/// How far it has come with a stretch that may have to be sent once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// It need not, or could not.
    #[default]
    Off,
    /// Its requests are coming.
    Begun,
    /// All of it was sent, and nothing answered.
    Sent,
    /// It was refused for a plan; the end of the answer is awaited.
    Refused,
}

/// A stretch of requests, up to its Sync, that could be sent once more without the client noticing.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    stage: Stage,
    bytes: BytesMut,
    bound: Vec<Rc<Statement>>,
    /// Portals bound and not described yet.
    undescribed: usize,
}

impl Stretch {
    /// It is not to be sent once more.
    pub(super) fn forget(&mut self) {
        if self.stage == Stage::Off {
            return;
        }
        self.stage = Stage::Off;
        self.undescribed = 0;
        self.bound.clear();
        if self.bytes.capacity() > KEPT_BYTES_MAX {
            self.bytes = BytesMut::new();
        } else {
            self.bytes.clear();
        }
    }

    /// Bytes go out before the whole is there, or another kind of request is part of it.
    pub(super) fn leaves(&mut self) {
        if self.stage == Stage::Begun {
            self.forget();
        }
    }

    /// Something was answered, or comes behind the end.
    pub(super) fn passes_end(&mut self) {
        if self.stage == Stage::Sent {
            self.forget();
        }
    }

    /// A portal is described.
    pub(super) fn described(&mut self) {
        self.undescribed = self.undescribed.saturating_sub(1);
    }

    /// A portal is executed.
    pub(super) fn executed(&mut self) {
        if self.undescribed > 0 {
            self.leaves();
        }
    }

    pub(super) fn is_refused(&self) -> bool {
        self.stage == Stage::Refused
    }
}

impl Session {
    /// A statement that the connection has already is bound.
    pub(super) fn stretch_binds(&mut self, statement: &Rc<Statement>) {
        let Some(connection) = &self.connection else {
            return;
        };
        if self.is_quiet() && connection.side.output.is_empty() {
            self.stretch.forget();
            self.stretch.stage = Stage::Begun;
        }
        if self.stretch.stage == Stage::Begun {
            self.stretch.bound.push(statement.clone());
            self.stretch.undescribed += 1;
        }
    }

    /// The Sync comes, and goes out with all that was before it.
    pub(super) fn stretch_ends(&mut self) {
        if self.stretch.stage != Stage::Begun {
            return self.stretch.forget();
        }
        match &self.connection {
            Some(connection) if connection.side.output.len() <= STRETCH_BYTES_MAX => {
                self.stretch.bytes.extend_from_slice(&connection.side.output);
                frontend::write_sync(&mut self.stretch.bytes);
                self.stretch.stage = Stage::Sent;
            }
            _ => self.stretch.forget(),
        }
    }

    /// Whoever has a statement, on whichever connection of the tenant, has it prepared anew before its next use.
    pub(super) fn plans_change(&self) {
        self.tenant.plans.set(self.tenant.plans.get() + 1);
    }

    /// A plan was refused. Whether the client need not know.
    pub(super) fn plan_refused(&mut self) -> bool {
        self.plans_change();
        let hidden = self.stretch.stage == Stage::Sent;
        if hidden {
            self.stretch.stage = Stage::Refused;
        }
        hidden
    }

    /// Sends the stretch once more, its statements prepared anew.
    pub(super) fn send_once_more(&mut self, connection: &mut ServerConnection) {
        let stretch = std::mem::take(&mut self.stretch);
        let out = connection.side.out(&self.tenant.worker.buffers);
        let mut before = Vec::new();
        for (index, statement) in stretch.bound.iter().enumerate() {
            if stretch.bound[..index].iter().any(|earlier| earlier.id == statement.id) {
                continue;
            }
            frontend::write_close_statement(out, &statement.name);
            frontend::write_parse(out, &statement.name, &statement.text, &statement.types);
            before.push(Expect::CloseSilent(statement.clone()));
            before.push(Expect::Parse { statement: statement.clone(), client: None });
            // Of an earlier segment: what comes next waits until the answer is there.
            connection.prepared.add(statement.clone(), self.segment - 1, self.tenant.plans.get());
        }
        out.extend_from_slice(&stretch.bytes);
        self.expected.put_before(before);
        // It has its portals described, and does not rely on what it was told before.
        let bound =
            |named: &Named| stretch.bound.iter().any(|statement| statement.id == named.statement.shared().id);
        self.statements.values_mut().filter(|named| bound(named)).for_each(|named| named.shape = None);
    }

    /// Whether a client that was told this shape of a statement's result may bind it on its connection; `None` when that
    /// is not known before the server has been asked.
    pub(super) fn has_shape(&mut self, statement: &Rc<Statement>, told: u64) -> Option<bool> {
        let connection = self.connection.as_mut()?;
        if let Some(shape) = connection.prepared.shape(statement.id) {
            return Some(shape == told);
        }
        if !self.expected.describes(statement.id) {
            let out = connection.side.out(&self.tenant.worker.buffers);
            frontend::write_describe_statement(out, &statement.name);
            frontend::write_flush(out);
            self.expected.push(Expect::DescribeStatement { statement: statement.clone(), client: None });
            self.unsynced = true;
        }
        None
    }

    /// Takes note of the shape of a statement's result, which the client is told if it was the one who asked.
    pub(super) fn learn_shape(&mut self, connection: &mut ServerConnection, shape: u64) -> Fate {
        let Some(Expect::DescribeStatement { statement, client }) = self.expected.pop() else {
            return Fate::PassOn;
        };
        connection.prepared.learn_shape(statement.id, shape);
        let named = client.as_ref().and_then(|client| self.statements.get_mut(client));
        if let Some(named) = named {
            named.shape = Some(shape);
        }
        if client.is_none() { Fate::KeepBack } else { Fate::PassOn }
    }

    /// What tells the client that what it was told of a statement's result is not so any more, as Postgres does.
    pub(super) fn change_of_shape(&self) -> BytesMut {
        let error = ErrorFields {
            severity: Severity::Error.as_str(),
            code: "0A000",
            message: "cached plan must not change result type",
            detail: None,
            hint: None,
            routine: Some("RevalidateCachedQuery"),
        };
        self.tenant.worker.shared.metrics.error(error.code);
        let mut answer = BytesMut::new();
        error.write_error(&mut answer);
        answer
    }
}

/// A number for the shape of a result: its columns' names and types, as Postgres compares them, of the body of a
/// RowDescription, which is empty for a statement without a result.
pub(super) fn shape_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for column in wire::backend::columns(body) {
        column.hash(&mut hasher);
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use bytes::BufMut as _;

    use super::*;

    fn described(name: &[u8], table: u32, of_type: u32) -> u64 {
        let mut body = BytesMut::new();
        body.put_i16(1);
        body.put_slice(name);
        body.put_u8(0);
        body.put_u32(table);
        body.put_i16(1);
        body.put_u32(of_type);
        body.put_i16(4);
        body.put_i32(-1);
        body.put_i16(0);
        shape_of(&body)
    }

    #[test]
    fn a_shape_is_names_and_types_wherever_the_table_is() {
        assert_eq!(described(b"a", 1, 23), described(b"a", 2, 23));
        assert_ne!(described(b"a", 1, 23), described(b"a", 1, 25));
        assert_ne!(described(b"a", 1, 23), described(b"b", 1, 23));
        assert_ne!(described(b"a", 1, 23), shape_of(b""));
    }
}
