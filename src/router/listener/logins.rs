//! Logins under way, on whichever worker. They are counted and ended together: for want of descriptors, a worker without a
//! login of its own must be able to end another's.
//!
//! One lock, taken when a login begins, and not for what it does.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// Ended logins that are kept track of, beside as many as are under way.
const ENDED_KEPT: usize = 64;

/// A router's logins under way.
#[derive(Default)]
pub(crate) struct Logins {
    tasks: TaskTracker,
    /// The oldest first; some have ended already.
    begun: Mutex<VecDeque<AbortHandle>>,
}

impl Logins {
    fn begun(&self) -> MutexGuard<'_, VecDeque<AbortHandle>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.tasks.len()
    }

    /// Begins one, on the worker whose thread this is.
    pub(super) fn begin(&self, login: impl Future<Output = ()> + 'static) {
        let login = self.tasks.spawn_local(login).abort_handle();
        let mut begun = self.begun();
        if begun.len() > 2 * self.tasks.len() + ENDED_KEPT {
            begun.retain(|login| !login.is_finished());
        }
        begun.push_back(login);
    }

    /// Ends the one that has taken longest, most likely one that will never finish; `false` when there is none.
    pub(crate) fn end_oldest(&self) -> bool {
        let mut begun = self.begun();
        while let Some(oldest) = begun.pop_front() {
            if !oldest.is_finished() {
                oldest.abort();
                return true;
            }
        }
        false
    }

    /// Ends all.
    pub(crate) fn end_all(&self) {
        self.begun().drain(..).for_each(|login| login.abort());
    }

    /// Waits for the last; none may begin any more.
    pub(crate) async fn wait(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
