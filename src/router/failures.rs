//! How often logins from an address failed lately.
//!
//! A bucket of tokens for each address, refilled over a minute: a failure takes one, a login that succeeds takes none,
//! and with none left the address is refused before any work is done for it. The table is bounded; a flood from ever new
//! addresses pushes others out of it, which no table could prevent.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::ClientError;
use crate::places::network;

/// Addresses that are remembered.
const ADDRESSES_MAX: usize = 10_000;
/// How long an empty bucket takes to be full again.
const REFILL: Duration = Duration::from_secs(60);

/// Refills for which an address that failed all at once may have to wait: an hour.
const REFILLS_OWED_MAX: f64 = 60.0;

/// The failures of all addresses.
#[derive(Default)]
pub(crate) struct Failures(Mutex<HashMap<IpAddr, Bucket>>);

/// Failures that still count, as of a moment.
#[derive(Clone, Copy)]
struct Bucket {
    failures: f64,
    as_of: Instant,
}

impl Bucket {
    fn at(self, now: Instant, max: u32) -> f64 {
        let forgotten = now.duration_since(self.as_of).as_secs_f64() / REFILL.as_secs_f64() * f64::from(max);
        (self.failures - forgotten).max(0.0)
    }
}

impl Failures {
    /// Whether this address may try; 0 is no limit.
    pub(crate) fn check(&self, address: IpAddr, max: u32) -> Result<(), ClientError> {
        self.check_at(address, max, Instant::now())
    }

    /// Notes that a login from it failed.
    pub(crate) fn note(&self, address: IpAddr, max: u32) {
        self.note_at(address, max, Instant::now());
    }

    fn check_at(&self, address: IpAddr, max: u32, now: Instant) -> Result<(), ClientError> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = failures.get(&network(address)).map_or(0.0, |bucket| bucket.at(now, max));
        // What is left must be enough for the failure that this may become.
        if max == 0 || known + 1.0 <= f64::from(max) {
            return Ok(());
        }
        Err(ClientError::TooManyFailures { max })
    }

    fn note_at(&self, address: IpAddr, max: u32, now: Instant) {
        if max == 0 {
            return;
        }
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = network(address);
        if failures.len() >= ADDRESSES_MAX && !failures.contains_key(&address) {
            failures.retain(|_, bucket| bucket.at(now, max) > 0.0);
            if failures.len() >= ADDRESSES_MAX
                && let Some(any) = failures.keys().next().copied()
            {
                failures.remove(&any);
            }
        }
        let known = failures.get(&address).map_or(0.0, |bucket| bucket.at(now, max));
        // Many that tried at the same time count all, so that on the whole there are no more than allowed.
        let most = f64::from(max) * REFILLS_OWED_MAX;
        failures.insert(address, Bucket { failures: (known + 1.0).min(most), as_of: now });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_and_no_other_does() {
        let failures = Failures::default();
        let (bad, good) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let start = Instant::now();
        for _ in 0..5 {
            failures.check_at(bad, 5, start).unwrap();
            failures.note_at(bad, 5, start);
        }
        assert_eq!(failures.check_at(bad, 5, start), Err(ClientError::TooManyFailures { max: 5 }));
        failures.check_at(good, 5, start).unwrap();
        failures.check_at(bad, 0, start).unwrap();
        assert!(failures.check_at(bad, 5, start + REFILL / 5 - Duration::from_millis(1)).is_err());
        failures.check_at(bad, 5, start + REFILL / 5).unwrap();
    }

    #[test]
    fn the_table_is_bounded_and_a_host_of_ipv6_is_one_entry() {
        let failures = Failures::default();
        let now = Instant::now();
        for host in 0..ADDRESSES_MAX as u32 + 100 {
            failures.note_at(IpAddr::from(host.to_be_bytes()), 5, now);
        }
        assert_eq!(failures.0.lock().unwrap().len(), ADDRESSES_MAX);
        let (one, same) = ("2001:db8::1".parse().unwrap(), "2001:db8::ffff:1".parse().unwrap());
        (0..5).for_each(|_| failures.note_at(one, 5, now));
        assert!(failures.check_at(same, 5, now).is_err());
    }
}
