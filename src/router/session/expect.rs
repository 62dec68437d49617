//! What the server still owes an answer for, in order, with what is to be done when the answer comes or never will.
//!
//! After an error in the extended protocol a server skips to the next Sync. Everything before that Sync is then taken
//! back here in the same way, so that the account stays right whatever was in the pipeline.

use std::collections::VecDeque;
use std::rc::Rc;

use wire::backend::TransactionStatus;

use crate::error::ClientError;
use crate::prepared::{Held, Statement};
use crate::state::Deeds;

/// A request that was sent, or answered here in its turn.
#[derive(Debug)]
pub(crate) enum Expect {
    /// Parse of a statement under its shared name; the client's name for it, unless the router sent it by itself.
    Parse { statement: Rc<Statement>, client: Option<Box<[u8]>> },
    /// Parse of the unnamed statement, by the client or (silent) again by the router.
    ParseUnnamed { id: u64, silent: bool },
    /// Parse that is passed on as it came.
    ParseRaw,
    /// Something in the place of a request that the router refuses: the server's error to it gives way to this one, and
    /// the server skips to the Sync as the client expects.
    Refused(Box<ClientError>),
    /// Bind.
    Bind,
    /// Describe of a portal, or of a statement that is the client's own affair.
    Describe,
    /// Describe of a shared statement; the client's name for it, unless the router wants to know.
    DescribeStatement { statement: Rc<Statement>, client: Option<Box<[u8]>> },
    /// Bind of nothing, for a client that must be told that its statement's result has changed.
    BindRefused,
    /// Execute.
    Execute(Deeds),
    /// Close that is passed on as it came.
    CloseRaw,
    /// Close by which the router made room on the connection.
    CloseSilent(Rc<Statement>),
    /// Parse that needs nothing from the server.
    LocalParse(Box<[u8]>),
    /// Close that needs nothing from the server: what was closed.
    LocalClose(Option<(Box<[u8]>, Named)>),
    /// End of the data of a COPY: answered by the statement's own answer.
    CopyEnd,
    /// Sync.
    Sync,
    /// Query.
    Query(Deeds),
    /// FunctionCall.
    FunctionCall,
}

/// A client's named statement.
#[derive(Debug)]
pub(crate) struct Named {
    pub(crate) statement: Held,
    /// The segment in which its Parse was sent, until that is answered.
    pub(crate) unsure: Option<u64>,
    /// The shape of its result, if the client was told.
    pub(crate) shape: Option<u64>,
}

/// The requests without an answer.
#[derive(Debug, Default)]
pub(crate) struct Expected(VecDeque<Expect>);

/// Room kept for a pipeline.
const KEPT_MAX: usize = 64;

impl Expected {
    pub(crate) fn push(&mut self, expect: Expect) {
        self.0.push_back(expect);
    }

    /// Puts requests before all others.
    pub(crate) fn put_before(&mut self, before: Vec<Expect>) {
        before.into_iter().rev().for_each(|expect| self.0.push_front(expect));
    }

    /// Whether the next answer tells the shape of a shared statement's result.
    pub(crate) fn wants_shape(&self) -> bool {
        matches!(self.0.front(), Some(Expect::DescribeStatement { .. }))
    }

    /// Whether the router has asked for the description of this statement.
    pub(crate) fn describes(&self, id: u64) -> bool {
        let asks = |expect: &Expect| matches!(expect, Expect::DescribeStatement { statement, client: None } if statement.id == id);
        self.0.iter().any(asks)
    }

    pub(crate) fn front(&self) -> Option<&Expect> {
        self.0.front()
    }

    pub(crate) fn pop(&mut self) -> Option<Expect> {
        let front = self.0.pop_front();
        if self.0.is_empty() && self.0.capacity() > KEPT_MAX {
            self.0 = VecDeque::new();
        }
        front
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a COMMIT is among them.
    pub(crate) fn commits(&self) -> bool {
        self.0.iter().any(|expect| match expect {
            Expect::Execute(deeds) | Expect::Query(deeds) => deeds.commits(),
            _ => false,
        })
    }

    /// Whether a transaction may turn out to have failed by what is before the end of a stretch; `status` is that before
    /// them all.
    pub(crate) fn may_fail_transaction(&self, status: TransactionStatus) -> bool {
        let controls = |expect: &Expect| match expect {
            Expect::Execute(deeds) | Expect::Query(deeds) => deeds.transaction.is_some(),
            _ => false,
        };
        self.ends_stretch() && (status != TransactionStatus::Idle || self.0.iter().any(controls))
    }

    /// Whether the end of a stretch is among them, where what is not in a transaction is committed.
    pub(crate) fn ends_stretch(&self) -> bool {
        self.0.iter().any(|expect| matches!(expect, Expect::Query(_) | Expect::Sync | Expect::FunctionCall))
    }

    /// Whether an error now makes the server skip to a Sync.
    pub(crate) fn skips_after_error(&self) -> bool {
        !matches!(self.0.front(), None | Some(Expect::Query(_) | Expect::FunctionCall | Expect::Sync))
    }

    /// Takes what is before the next Sync, latest first; `false` when there is no Sync yet.
    pub(crate) fn skip_to_sync(&mut self) -> (Vec<Expect>, bool) {
        let sync = self.0.iter().position(|expect| matches!(expect, Expect::Sync));
        let skipped: Vec<_> = self.0.drain(..sync.unwrap_or(self.0.len())).rev().collect();
        (skipped, sync.is_some())
    }

    /// A COPY from the client has begun: the server ignores every Sync up to the end of the data. Gives whether that end
    /// was sent already.
    pub(crate) fn copy_begins(&mut self) -> bool {
        let end = self.0.iter().position(|expect| matches!(expect, Expect::CopyEnd));
        let mut at = 0;
        let until = end.unwrap_or(self.0.len());
        self.0.retain(|expect| {
            at += 1;
            at > until || !matches!(expect, Expect::Sync)
        });
        end.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(all: impl IntoIterator<Item = Expect>) -> Expected {
        Expected(all.into_iter().collect())
    }

    fn execute() -> Expect {
        Expect::Execute(Deeds::default())
    }

    #[test]
    fn an_error_takes_back_what_is_before_the_sync_and_no_more() {
        let mut all = expected([Expect::Bind, execute(), Expect::Sync, Expect::Bind, Expect::Sync]);
        assert!(all.skips_after_error());
        let (skipped, found) = all.skip_to_sync();
        assert!(found && matches!(skipped[..], [Expect::Execute(_), Expect::Bind]));
        assert_eq!(all.0.len(), 3);
        assert!(!all.skips_after_error(), "an error at the Sync itself skips nothing");
        let mut unsynced = expected([Expect::Bind, Expect::Query(Deeds::default())]);
        assert!(!unsynced.skip_to_sync().1);
        assert!(unsynced.is_empty(), "a Query is skipped too");
    }

    #[test]
    fn a_sync_inside_a_copy_has_no_answer() {
        let mut all = expected([execute(), Expect::Sync]);
        assert!(!all.copy_begins());
        assert_eq!(all.0.len(), 1);
        let mut all = expected([execute(), Expect::Sync, Expect::CopyEnd, Expect::Sync]);
        assert!(all.copy_begins());
        assert!(matches!(all.0.make_contiguous(), [Expect::Execute(_), Expect::CopyEnd, Expect::Sync]));
    }
}
