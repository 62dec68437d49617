//! The copy's budget: a rate that never exceeds the configured one, and gives way when routers see that transactions
//! on the source or the target take longer than before the copy began.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// Slowest rate: a copy that stands still would keep the source's log for ever.
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// A wait shorter than this is put off.
const SLACK: Duration = Duration::from_millis(2);
/// By how much a neighbour's transactions may take longer, in percent of their time before.
const LATENCY_PERCENT_MAX: u64 = 120;

/// A rate limit in bytes, shared by the workers of one copy.
#[derive(Debug)]
pub(crate) struct Throttle {
    most: u64,
    rate: AtomicU64,
    /// When the next bytes may go.
    next: Mutex<Instant>,
}

impl Throttle {
    pub(crate) fn new(bytes_per_second_max: u64) -> Self {
        Self {
            most: bytes_per_second_max,
            rate: AtomicU64::new(bytes_per_second_max),
            next: Mutex::new(Instant::now()),
        }
    }

    /// Waits until these bytes are within the budget.
    pub(crate) async fn take(&self, bytes: u64) {
        let rate = self.rate.load(Relaxed).max(1);
        let cost = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate);
        let at = {
            let mut next = self.next.lock().await;
            let at = (*next).max(Instant::now());
            *next = at + cost;
            at
        };
        // Timers are exact to a millisecond: shorter waits are saved up for the next call.
        if at > Instant::now() + SLACK {
            tokio::time::sleep_until(at.into()).await;
        }
    }

    /// Sets the rate by what routers measured: halved when transactions take too long, else raised by a tenth of the
    /// most (additive increase, multiplicative decrease, as in TCP).
    pub(crate) fn adapt(&self, before_us: Option<u64>, now_us: Option<u64>) {
        let rate = self.rate.load(Relaxed);
        let too_slow = matches!((before_us, now_us), (Some(before), Some(now))
            if now.saturating_mul(100) > before.saturating_mul(LATENCY_PERCENT_MAX));
        let next = if too_slow { rate / 2 } else { rate + self.most / 10 };
        self.rate.store(next.clamp(BYTES_PER_SECOND_MIN.min(self.most), self.most), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_gives_way_and_comes_back() {
        let throttle = Throttle::new(100 << 20);
        throttle.adapt(Some(1_000), Some(1_300));
        assert_eq!(throttle.rate.load(Relaxed), 50 << 20);
        for _ in 0..20 {
            throttle.adapt(Some(1_000), Some(5_000));
        }
        assert_eq!(throttle.rate.load(Relaxed), BYTES_PER_SECOND_MIN);
        for _ in 0..20 {
            throttle.adapt(Some(1_000), Some(1_100));
        }
        assert_eq!(throttle.rate.load(Relaxed), 100 << 20);
        throttle.adapt(None, Some(9_000));
        assert_eq!(
            throttle.rate.load(Relaxed),
            100 << 20,
            "without a figure from before there is nothing to compare"
        );
    }
}
