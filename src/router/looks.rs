//! Lets a login wait until the map has been asked for changes anew: a tenant may have been made a moment ago, and its
//! maker been told so, before the news of it came here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

/// How long a login waits for one look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the follower waits after it was asked, so that one look answers many.
pub(crate) const GATHER: Duration = Duration::from_millis(10);

/// Numbered looks at the catalog.
pub(crate) struct Looks {
    wanted: Notify,
    begun: AtomicU64,
    done: watch::Sender<u64>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { wanted: Notify::new(), begun: AtomicU64::new(0), done: watch::Sender::new(0) }
    }
}

impl Looks {
    /// Waits until a look that began after this call is over, or for as long as that may take.
    pub(crate) async fn anew(&self) {
        let goal = self.begun.load(Ordering::Acquire) + 1;
        let mut done = self.done.subscribe();
        self.wanted.notify_one();
        // Whoever sends it lives as long as this does; and a catalog that does not answer is not waited for.
        drop(tokio::time::timeout(LOOK_TIMEOUT, done.wait_for(|done| *done >= goal)).await);
    }

    /// For the follower: waits until somebody wants a look.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// For the follower: a look begins. Returns its number.
    pub(crate) fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// For the follower: a look is over, and what it found is in the map.
    pub(crate) fn end(&self, look: u64) {
        self.done.send_replace(look);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn a_look_that_had_begun_before_is_not_enough() {
        let looks = Looks::default();
        let early = looks.begin();
        let mut waiting = pin!(looks.anew());
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        looks.end(early);
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        looks.wanted().await;
        looks.end(looks.begin());
        waiting.await;
    }
}
