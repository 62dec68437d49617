//! Places for clients: as many as the configuration of the moment allows. A limit that is lowered sends nobody away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The places that are taken.
#[derive(Default)]
pub(crate) struct Places(Arc<AtomicUsize>);

/// One place, given back when it is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    /// A place, if fewer than `most` are taken.
    pub(crate) fn take(&self, most: usize) -> Option<Place> {
        let one_more = |taken: usize| (taken < most).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Place(self.0.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_moment_counts() {
        let places = Places::default();
        let taken: Vec<_> = (0..3).map(|_| places.take(3).unwrap()).collect();
        assert!(places.take(3).is_none());
        let fourth = places.take(4).unwrap();
        drop(taken);
        assert!(places.take(1).is_none());
        drop(fourth);
        assert!(places.take(1).is_some());
    }
}
