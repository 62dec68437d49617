//! Times of transactions, counted in buckets: small enough for a report, fine enough to tell a 99th percentile from one that
//! is a fifth higher. Eight buckets to each doubling, from microseconds to minutes.

use std::collections::BTreeMap;
use std::ops::{AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// Buckets to a doubling: 2 to the power of this.
const FINE_BITS: u32 = 3;
const FINE: u64 = 1 << FINE_BITS;
/// The last bucket, which also has all that is longer: 4 minutes and more.
const LAST: u16 = 207;

/// How many buckets there are.
pub const BUCKETS: usize = LAST as usize + 1;

/// How many transactions took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latency(BTreeMap<u16, u64>);

/// The bucket of a time in microseconds.
#[must_use]
pub fn bucket(micros: u64) -> u16 {
    if micros < FINE {
        return micros as u16;
    }
    let doubling = u64::BITS - 1 - micros.leading_zeros() - FINE_BITS;
    let fine = (micros >> doubling) & (FINE - 1);
    (u64::from(doubling + 1) * FINE + fine).min(u64::from(LAST)) as u16
}

/// From where to where a bucket goes, in microseconds.
fn bounds(bucket: u16) -> (f64, f64) {
    let bucket = u64::from(bucket);
    if bucket < FINE {
        return (bucket as f64, bucket as f64 + 1.0);
    }
    let width = 1_u64 << (bucket / FINE - 1);
    let from = (FINE + bucket % FINE) * width;
    (from as f64, (from + width) as f64)
}

impl Latency {
    /// Counts transactions of a bucket.
    pub fn add(&mut self, bucket: u16, transactions: u64) {
        *self.0.entry(bucket).or_default() += transactions;
    }

    /// All transactions counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Half of them all, so that what is added counts more.
    pub fn fade(&mut self) {
        self.0.retain(|_, count| {
            *count /= 2;
            *count > 0
        });
    }

    /// The time that this share of the transactions was not above, in microseconds, as if each bucket's were spread
    /// evenly over it; none without transactions.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = self.count() as f64 * share;
        let mut below = 0.0;
        for (&bucket, &count) in &self.0 {
            let here = count as f64;
            if below + here >= wanted {
                let (from, to) = bounds(bucket);
                return Some(from + (to - from) * ((wanted - below) / here).clamp(0.0, 1.0));
            }
            below += here;
        }
        None
    }
}

impl AddAssign<&Self> for Latency {
    fn add_assign(&mut self, other: &Self) {
        for (&bucket, &count) in &other.0 {
            self.add(bucket, count);
        }
    }
}

impl Sub for &Latency {
    type Output = Latency;

    /// What came to be since an earlier count of the same.
    fn sub(self, earlier: Self) -> Latency {
        let since = |(&bucket, &count): (&u16, &u64)| {
            let more = count.saturating_sub(earlier.0.get(&bucket).copied().unwrap_or(0));
            (more > 0).then_some((bucket, more))
        };
        Latency(self.0.iter().filter_map(since).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_meet_and_are_an_eighth_wide() {
        for micros in (0..5_000).chain([1 << 20, (1 << 26) + 12_345, 100_000_000]) {
            let (from, to) = bounds(bucket(micros));
            assert!(from <= micros as f64 && (micros as f64) < to, "{micros} in {from} to {to}");
            assert!(to - from <= (from / 8.0).max(1.0), "{micros}");
        }
        assert_eq!(bucket(u64::MAX), LAST);
        assert!(bounds(LAST).0 > 200e6);
    }

    #[test]
    fn a_percentile_is_found_within_its_bucket() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.99), None);
        for micros in 1..10_240 {
            latency.add(bucket(micros), 1);
        }
        let found = latency.quantile(0.99).unwrap();
        assert!((found - 10_136.6).abs() < 5.0, "{found}");
        // One slow one in a hundred is not above it, two are.
        let of = |slow| {
            let mut latency = Latency::default();
            latency.add(bucket(1_000), 100 - slow);
            latency.add(bucket(50_000), slow);
            latency.quantile(0.99).unwrap()
        };
        assert!(of(1) < 1_100.0 && of(2) > 45_000.0);
    }

    #[test]
    fn what_came_since_is_counted_once() {
        let mut before = Latency::default();
        before.add(5, 10);
        let mut now = before.clone();
        now.add(5, 2);
        now.add(90, 1);
        let since = &now - &before;
        assert_eq!(since.count(), 3);
        before += &since;
        assert_eq!(before, now);
        now.fade();
        assert_eq!(now.count(), 6);
        let text = serde_json::to_string(&since).unwrap();
        assert_eq!(serde_json::from_str::<Latency>(&text).unwrap(), since);
    }
}
