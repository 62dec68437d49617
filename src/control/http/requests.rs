//! What requests have in common: the changes under way, which are waited for at the end, and the refusals on record, which
//! must not fill the audit log.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tokio_util::task::TaskTracker;

/// Refused requests of one token that are put on record within a minute. All of them are counted in
/// `tenantry_control_requests_total`.
const REFUSALS_PER_MINUTE_MAX: u32 = 10;
const MINUTE: Duration = Duration::from_mins(1);
/// Tokens whose refusals are told apart: as many as there may be.
const TOKENS_MAX: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// How long changes are waited for at the end, whose clients may have left.
const CHANGES_END_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests of this instance.
pub(crate) struct Requests {
    /// Changes, each to its end and its notes.
    pub(super) changes: TaskTracker,
    /// When a token's minute began, and its refusals since.
    refusals: Mutex<LruCache<String, (Instant, u32)>>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { changes: TaskTracker::new(), refusals: Mutex::new(LruCache::new(TOKENS_MAX)) }
    }
}

impl Requests {
    /// Whether one more refusal of this token's is put on record.
    pub(super) fn has_room_for_refusal(&self, token: &str) -> bool {
        let now = Instant::now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = refusals.get_or_insert_mut_ref(token, || (now, 0));
        if now.duration_since(*since) >= MINUTE {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        if *count == REFUSALS_PER_MINUTE_MAX + 1 {
            tracing::warn!(token, "further refusals within this minute are counted and not put on record");
        }
        *count <= REFUSALS_PER_MINUTE_MAX
    }

    /// Waits for changes under way, those included whose clients have left.
    pub(crate) async fn settle(&self) {
        self.changes.close();
        if tokio::time::timeout(CHANGES_END_TIMEOUT, self.changes.wait()).await.is_err() {
            let left = self.changes.len();
            tracing::warn!(
                left,
                "changes were not done within changes_end_timeout ({CHANGES_END_TIMEOUT:?})"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_refusals_are_bounded_and_leave_room_for_another_ones() {
        let requests = Requests::default();
        let on_record = |token| (0..100).filter(|_| requests.has_room_for_refusal(token)).count();
        let most = REFUSALS_PER_MINUTE_MAX as usize;
        assert_eq!([on_record("ann"), on_record("ann"), on_record("bob")], [most, 0, most]);
        let minute = |(since, _): &mut (Instant, u32)| *since -= MINUTE;
        requests.refusals.lock().unwrap().get_mut("ann").map(minute).unwrap();
        assert_eq!(on_record("ann"), most);
    }
}
