//! What a client may prepare no more of.
//!
//! The refusal must come in its place among the answers, and make the server skip to the Sync as the client expects. So
//! the server is sent something that fails, and its error gives way to the router's own.

use std::rc::Rc;

use wire::frontend;

use crate::error::ClientError;
use crate::prepared::{NAME_OF_NONE, Statement};
use crate::session::Session;
use crate::session::expect::Expect;

impl Session {
    /// Why a statement can't be had beside those that the client, or its tenant, has already.
    pub(super) fn refusal(&self, name: &[u8], statement: &Rc<Statement>) -> Option<ClientError> {
        let config = self.tenant.worker.shared.config();
        let max = config.prepared_per_client_max;
        if self.statements.len() >= max && !self.statements.contains_key(name) {
            return Some(ClientError::TooManyStatements(max));
        }
        self.too_long(statement)
    }

    /// Why the client can't have a statement, named or not, beside those that clients of its tenant have.
    pub(super) fn too_long(&self, statement: &Statement) -> Option<ClientError> {
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
