//! An operation's steps, each in its journal, each between two points at which a test lets the control plane die.

use crate::context::Work;
use crate::error::Result;
use crate::failpoint;

/// The steps of one try of an operation.
pub(super) struct Steps<'w> {
    work: &'w Work,
    /// How the step before ended. Not known of one that an earlier try, or another controller, began.
    before: &'static str,
}

impl<'w> Steps<'w> {
    pub(super) fn of(work: &'w Work) -> Self {
        Self { work, before: "" }
    }

    /// Records that a step begins, and does its deeds. Points `NAME` and `NAME_done` are where it can die.
    pub(super) async fn run<T>(&mut self, name: &str, deeds: impl Future<Output = Result<T>>) -> Result<T> {
        self.work.begin(name, self.before).await?;
        let outcome = deeds.await?;
        self.before = "done";
        failpoint::reach(&format!("{name}_done")).await;
        Ok(outcome)
    }
}
