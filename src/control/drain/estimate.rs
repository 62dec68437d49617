//! How fast a server empties, and when it will be empty: guessed from the moves that were made.

use catalog::MadeMove;
use serde::Serialize;

/// How fast it went lately, everything that kept it included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Rate {
    pub(super) tenants_per_hour: f64,
    pub(super) bytes_per_second: u64,
}

/// The rate of the newest moves; none before there is one.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people"
)]
pub(super) fn rate(made: &[MadeMove]) -> Option<Rate> {
    let begun = made.iter().map(|one| one.begun_s).reduce(f64::max)?;
    let switched = made.iter().map(|one| one.switched_s).reduce(f64::min)?;
    let seconds = (begun - switched).max(0.001);
    let bytes: f64 = made.iter().map(|one| one.bytes as f64).sum();
    let tenants_per_hour = (made.len() as f64 / seconds * 36_000.0).round() / 10.0;
    Some(Rate { tenants_per_hour, bytes_per_second: (bytes / seconds) as u64 })
}

/// Seconds until all of these have moved, so many at a time. The smallest go first, so a mean rate would mislead: each takes
/// its part that is the same for all, and a part by its bytes.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "for people"
)]
pub(super) fn eta_s(made: &[MadeMove], (tenants, bytes): (usize, u64), at_once: usize) -> Option<u64> {
    if tenants == 0 {
        return Some(0);
    }
    if made.is_empty() {
        return None;
    }
    let sized: f64 = made.iter().map(|one| one.sized_s).sum();
    let whole: f64 = made.iter().map(|one| one.whole_s).sum();
    let moved: f64 = made.iter().map(|one| one.bytes as f64).sum();
    let each = (whole - sized).max(0.0) / made.len() as f64;
    let a_byte = if moved > 0.0 { sized / moved } else { 0.0 };
    let work = each * tenants as f64 + a_byte * bytes as f64;
    Some((work / at_once.clamp(1, tenants) as f64).ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tenants_that_are_left_count_by_their_bytes() {
        let small =
            MadeMove { bytes: 10_000_000, whole_s: 5.0, sized_s: 1.0, begun_s: 20.0, switched_s: 10.0 };
        let made = [small, MadeMove { begun_s: 15.0, switched_s: 8.0, ..small }];
        assert_eq!(eta_s(&made, (2, 20_000_000), 2), Some(5));
        assert_eq!(eta_s(&made, (1, 1_000_000_000), 2), Some(104), "one alone goes no faster by two");
        assert_eq!(eta_s(&[], (1, 1), 2), None);
        assert_eq!(eta_s(&[], (0, 0), 2), Some(0));
    }

    #[test]
    fn the_rate_is_that_of_all_of_them_together() {
        assert_eq!(rate(&[]), None);
        let one = MadeMove { bytes: 600, whole_s: 6.0, sized_s: 1.0, begun_s: 20.0, switched_s: 14.0 };
        let made = [one, MadeMove { begun_s: 16.0, switched_s: 10.0, ..one }];
        assert_eq!(rate(&made), Some(Rate { tenants_per_hour: 720.0, bytes_per_second: 120 }));
    }
}
