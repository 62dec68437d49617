//! What a client may not run, or prepare no more of.
//!
//! The refusal must come in its place among the answers, and make the server skip to the Sync as the client expects. So
//! the server is sent something that fails, and its error gives way to the router's own.

use std::rc::Rc;

use wire::frontend;

use shard_map::Access;

use crate::error::ClientError;
use crate::prepared::{NAME_OF_NONE, Statement};
use crate::session::Session;
use crate::session::expect::Expect;

/// SQLSTATE of what is sent in the place of a text that no client may run.
const NO_SUCH_STATEMENT: &str = "26000";
/// SQLSTATE of a statement that was cancelled.
const QUERY_CANCELED: &str = "57014";
/// SQLSTATE of what a role may not do.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Session {
    /// What the client is told in the place of an error with this SQLSTATE on a connection that has this access.
    pub(super) fn told_instead(&self, code: &str, access: Access) -> Option<ClientError> {
        match self.expected.front() {
            Some(Expect::Refused(refusal)) => return Some(ClientError::clone(refusal)),
            Some(Expect::Query(deeds)) if deeds.alters_role() && code == NO_SUCH_STATEMENT => {
                return Some(ClientError::SharedRole);
            }
            _ => {}
        }
        // Who asked for no more than it has is refused for another reason.
        if self.tenant.read_only.get() && access != self.access && code == INSUFFICIENT_PRIVILEGE {
            return Some(ClientError::OverSize(self.tenant.id.to_string()));
        }
        let limit = self.me.overdue.get().filter(|_| code == QUERY_CANCELED)?;
        Some(ClientError::QueryTimeout(limit))
    }

    /// Why a statement can't be had beside those that the client, or its tenant, has already.
    pub(super) fn refusal(&self, name: &[u8], statement: &Rc<Statement>) -> Option<ClientError> {
        let config = self.tenant.worker.shared.config();
        let max = config.prepared_per_client_max;
        if self.statements.len() >= max && !self.statements.contains_key(name) {
            return Some(ClientError::TooManyStatements(max));
        }
        self.refusal_of_any(statement)
    }

    /// Why the client can't have a statement, named or not: what it would do, or its length beside those that clients of
    /// its tenant have.
    pub(super) fn refusal_of_any(&self, statement: &Statement) -> Option<ClientError> {
        if statement.deeds.alters_role() {
            return Some(ClientError::SharedRole);
        }
        let max = self.tenant.worker.shared.config().prepared_bytes_per_tenant_max;
        let fits = self.tenant.statements.borrow().has_room_for(statement, max);
        (!fits).then_some(ClientError::StatementsTooLong(max))
    }

    /// Has the server fail where the client is to be told of a refusal.
    pub(super) fn refuse(&mut self, refusal: ClientError) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        self.stretch.forget();
        let out = connection.side.out(&self.tenant.worker.buffers);
        frontend::write_describe_statement(out, NAME_OF_NONE.as_bytes());
        self.expected.push(Expect::Refused(Box::new(refusal)));
        true
    }
}
