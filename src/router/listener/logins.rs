//! Logins under way, on whichever worker. They are counted and ended together: for want of descriptors, a worker without a
//! login of its own must be able to end another's.
//!
//! One lock, taken when a login begins, and not for what it does.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

/// Ended logins that are kept track of, beside as many as are under way.
const ENDED_KEPT: usize = 64;

/// For want of a descriptor, no younger login is ended: it may be one that is about to finish.
const AGE_LEAST: Duration = Duration::from_secs(1);
/// For want of a descriptor, one login is ended in this time, however many want one.
const RELIEF_PAUSE: Duration = Duration::from_millis(50);

/// A router's logins under way.
#[derive(Default)]
pub(crate) struct Logins {
    tasks: TaskTracker,
    begun: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    /// The oldest first; some have ended already.
    logins: VecDeque<(Instant, AbortHandle)>,
    /// When descriptors were last short.
    relieved: Option<Instant>,
}

impl Begun {
    /// Ends the oldest, if it began before this; `false` when there is none.
    fn end_oldest(&mut self, before: Instant) -> bool {
        while let Some((since, oldest)) = self.logins.front() {
            if oldest.is_finished() {
                self.logins.pop_front();
                continue;
            }
            let is_due = *since <= before;
            if is_due {
                oldest.abort();
                self.logins.pop_front();
            }
            return is_due;
        }
        false
    }
}

impl Logins {
    fn begun(&self) -> MutexGuard<'_, Begun> {
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
        if begun.logins.len() > 2 * self.tasks.len() + ENDED_KEPT {
            begun.logins.retain(|(_, login)| !login.is_finished());
        }
        begun.logins.push_back((Instant::now(), login));
    }

    /// Ends the one that has taken longest, most likely one that will never finish; `false` when there is none.
    pub(crate) fn end_oldest(&self) -> bool {
        self.begun().end_oldest(Instant::now())
    }

    /// Descriptors are short: ends a login that has taken long, for its own; `false` when none was ended.
    pub(crate) fn relieve(&self) -> bool {
        let (now, mut begun) = (Instant::now(), self.begun());
        if begun.relieved.is_some_and(|last| now < last + RELIEF_PAUSE) {
            return false;
        }
        begun.relieved = Some(now);
        now.checked_sub(AGE_LEAST).is_some_and(|before| begun.end_oldest(before))
    }

    /// Ends all.
    pub(crate) fn end_all(&self) {
        self.begun().logins.drain(..).for_each(|(_, login)| login.abort());
    }

    /// Waits for the last; none may begin any more.
    pub(crate) async fn wait(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}
