//! The changes by which a router came to its version, each by its mark.
//!
//! A version alone does not say whose change it was: a standby that was promoted without its primary's last changes gives
//! the same numbers to others. A router that only counted would never see what came in the place of what it had.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Changes that are remembered: far more than a standby is behind its primary.
pub const MARKS_MAX: usize = 10_000;

/// What a router remembers of the change log, over all its connections to the catalog, and over its own restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Trail {
    /// Version and mark, in order and without a gap.
    marks: VecDeque<(i64, i64)>,
}

impl Trail {
    /// One of these changes.
    #[must_use]
    pub fn of(marks: impl Iterator<Item = (i64, i64)>) -> Self {
        let mut trail = Self::default();
        marks.for_each(|(version, mark)| trail.go_on(version, mark));
        trail
    }

    /// Adds the next one.
    pub fn go_on(&mut self, version: i64, mark: i64) {
        if self.marks.back().is_some_and(|(last, _)| last + 1 != version) {
            self.marks.clear();
        }
        self.marks.push_back((version, mark));
        if self.marks.len() > MARKS_MAX {
            self.marks.pop_front();
        }
    }

    /// Whether the router has passed the change that has this version and mark.
    #[must_use]
    pub fn passed(&self, version: i64, mark: Option<i64>) -> bool {
        mark.is_some() && self.mark(version) == mark
    }

    /// Whether the router has passed this version by another change.
    #[must_use]
    pub fn contradicts(&self, version: i64, mark: i64) -> bool {
        self.mark(version).is_some_and(|known| known != mark)
    }

    /// The last change's mark.
    #[must_use]
    pub fn last_mark(&self) -> Option<i64> {
        self.marks.back().map(|(_, mark)| *mark)
    }

    /// Whether the other one came to its end by another change than this one did.
    #[must_use]
    pub fn parts_from(&self, other: &Self) -> bool {
        other.marks.back().is_some_and(|(version, mark)| self.contradicts(*version, *mark))
    }

    fn mark(&self, version: i64) -> Option<i64> {
        let (first, _) = self.marks.front()?;
        let index = usize::try_from(version.checked_sub(*first)?).ok()?;
        self.marks.get(index).map(|(_, mark)| *mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_of_this_trail_was_passed() {
        let mut trail = Trail::default();
        assert!(!trail.passed(5, Some(50)) && !trail.contradicts(5, 50), "nothing is known yet");
        trail = Trail::of([(5, 50), (6, 60)].into_iter());
        trail.go_on(7, 70);
        assert!(trail.passed(5, Some(50)) && trail.passed(7, Some(70)));
        assert!(!trail.passed(6, Some(61)) && !trail.passed(6, None) && !trail.passed(4, Some(40)));
        assert!(trail.contradicts(7, 71) && !trail.contradicts(7, 70) && !trail.contradicts(8, 80));
        assert!(!trail.passed(i64::MIN, Some(1)), "a catalog without a version");
        trail.go_on(9, 90);
        assert!(!trail.passed(7, Some(70)), "what lies before a gap is not known");
        for version in 10..20_000 {
            trail.go_on(version, version);
        }
        assert!(trail.marks.len() == MARKS_MAX && trail.passed(19_999, Some(19_999)));
    }
}
