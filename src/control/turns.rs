//! Turns at driving an operation. The reconciler may take up a move to complete it in the moment in which the tenant's next
//! move completes it, too, to be rid of what is in its way: one after the other, and the later finds it ended.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// Operations that this instance drives at present, by id.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<i64, Weak<AsyncMutex<()>>>>);

impl Turns {
    /// Waits until nobody else here drives this operation. Whoever does goes on, or is stopped, under its own limits.
    pub(crate) async fn take(&self, operation: i64) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let turn = turns.get(&operation).and_then(Weak::upgrade).unwrap_or_default();
            turns.insert(operation, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_is_driven_by_one_at_a_time_and_others_do_not_wait_for_it() {
        let turns = Turns::default();
        let first = turns.take(1).await;
        let mut second = std::pin::pin!(turns.take(1));
        tokio::select! {
            biased;
            _ = &mut second => panic!("two at a time"),
            _ = turns.take(2) => {}
        }
        drop(first);
        drop(second.await);
        drop(turns.take(3).await);
        assert!(turns.0.lock().unwrap().len() <= 1, "those that are over are forgotten");
    }
}
