//! Which tenant is in which wave: canaries first, then growing shares of the fleet.

use catalog::NewTarget;
use shard_map::TenantId;

/// The wave of the canaries.
pub(crate) const CANARIES: i32 = 0;

/// Divides the tenants. Those given first are the canaries.
pub(crate) fn divide(tenants: Vec<TenantId>, canary: u32, shares_percent: &[u32]) -> Vec<NewTarget> {
    let count = tenants.len();
    // Index of the first tenant that is no longer in the wave.
    let mut ends = vec![(canary as usize).min(count)];
    ends.extend(shares_percent.iter().map(|share| (count * *share as usize).div_ceil(100)));
    let wave_of = |index: usize| ends.iter().position(|end| index < *end).unwrap_or(ends.len());
    tenants
        .into_iter()
        .enumerate()
        .map(|(index, tenant)| NewTarget { tenant, wave: i32::try_from(wave_of(index)).unwrap_or(i32::MAX) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waves(count: usize, canary: u32, shares: &[u32]) -> Vec<i32> {
        let tenants = (0..count).map(|n| TenantId::new(&format!("t{n}")).unwrap()).collect();
        divide(tenants, canary, shares).iter().map(|target| target.wave).collect()
    }

    #[test]
    fn canaries_then_shares() {
        assert_eq!(waves(10, 1, &[30, 100]), [0, 1, 1, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(waves(3, 0, &[100]), [1, 1, 1]);
        assert_eq!(waves(3, 5, &[1, 100]), [0, 0, 0]);
        assert_eq!(waves(250, 0, &[1, 100]).iter().filter(|w| **w == 1).count(), 3);
    }
}
