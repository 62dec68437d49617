//! Rows that differ between a source that changes and a target that follows it. What a row is on one side now, it is on the
//! other a moment later, or was before: both are looked at again and again, and a row agrees as soon as one version was seen on
//! both sides. A row that keeps still on the source while the stream goes on must be equal: if not, the copy is not what it
//! should be.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::range::{RowKey, Version};

/// How often a row that kept still on the source may be another one on the target, which had everything by then.
const STEADY_MAX: u32 = 3;
/// Versions of a row that are remembered of each side.
const VERSIONS_MAX: usize = 1000;
/// Rows that are looked at so closely; of more, most agree at a next look.
const SAMPLED_MAX: usize = 1000;
/// Looks at rows that change all the time, before they are taken to differ.
pub(super) const LOOKS_MAX: u32 = 200;

/// The time before a look: short at first, when most agree.
pub(super) fn rest(looks: u32) -> Duration {
    Duration::from_millis(u64::from(looks.min(25) * 2))
}

/// How often the source is looked at within a look: of a row that changes all the time, enough versions have to be known for the
/// target to be met at one of them.
pub(super) fn samples(looks: u32, rows: usize) -> u32 {
    if looks < 4 || rows > SAMPLED_MAX { 0 } else { looks.min(20) * 2 }
}

/// Rows that have not been seen alike on both sides yet.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    rows: HashMap<RowKey, Seen>,
    /// Whether versions are how often a row is there, as in tables without a key.
    counted: bool,
}

/// The versions of one row that were seen; none where it was not there.
#[derive(Debug, Default)]
struct Seen {
    source: HashSet<Option<Version>>,
    target: HashSet<Option<Version>>,
    now: Option<Version>,
    /// Looks in a row that found it on the source as it was before.
    steady: u32,
}

impl Unsettled {
    /// The rows that differ.
    pub(super) fn of(
        source: HashMap<RowKey, Version>,
        mut target: HashMap<RowKey, Version>,
        counted: bool,
    ) -> Self {
        let mut rows = HashMap::new();
        for (key, version) in source {
            let found = target.remove(&key);
            if found.as_ref() != Some(&version) {
                rows.insert(key, Seen::of(Some(version), found));
            }
        }
        rows.extend(target.into_iter().map(|(key, version)| (key, Seen::of(None, Some(version)))));
        Self { rows, counted }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn keys(&self) -> Vec<RowKey> {
        self.rows.keys().cloned().collect()
    }

    /// What the source has of them at the beginning of a look.
    pub(super) fn source(&mut self, mut found: HashMap<RowKey, Version>) {
        for (key, seen) in &mut self.rows {
            let version = found.remove(key);
            seen.steady = if version == seen.now { seen.steady + 1 } else { 0 };
            seen.now.clone_from(&version);
            remember(&mut seen.source, version);
        }
        self.settle();
    }

    /// What the source has of them a moment later.
    pub(super) fn more_of_source(&mut self, mut found: HashMap<RowKey, Version>) {
        for (key, seen) in &mut self.rows {
            remember(&mut seen.source, found.remove(key));
        }
        self.settle();
    }

    /// What the target has of them now.
    pub(super) fn target(&mut self, mut found: HashMap<RowKey, Version>) {
        for (key, seen) in &mut self.rows {
            remember(&mut seen.target, found.remove(key));
        }
        self.settle();
    }

    fn settle(&mut self) {
        let counted = self.counted;
        self.rows.retain(|_, seen| seen.source.is_disjoint(&seen.target) && !(counted && seen.is_between()));
    }

    /// One that differs for good, after so many looks; each ended with the target having all that the source had at its
    /// beginning.
    pub(super) fn differing(&self, looks: u32) -> Option<&RowKey> {
        let differs = |seen: &Seen| seen.steady >= STEADY_MAX || looks >= LOOKS_MAX;
        self.rows.iter().find(|(_, seen)| differs(seen)).map(|(key, _)| key)
    }
}

fn remember(versions: &mut HashSet<Option<Version>>, version: Option<Version>) {
    if versions.len() >= VERSIONS_MAX {
        versions.clear();
    }
    versions.insert(version);
}

impl Seen {
    /// Whether the target was seen to have a number of rows between two that the source had. Where equal rows come all the
    /// time, and each look reads a whole table, the same number is hardly ever met twice.
    fn is_between(&self) -> bool {
        let count =
            |version: &Option<Version>| version.as_ref().map_or(Some(0), |count| count.parse::<u64>().ok());
        let counts = self.source.iter().filter_map(count);
        let Some((least, most)) = counts.clone().min().zip(counts.max()) else { return false };
        self.target.iter().filter_map(count).any(|count| (least..=most).contains(&count))
    }

    fn of(source: Option<Version>, target: Option<Version>) -> Self {
        Self { source: [source.clone()].into(), target: [target].into(), now: source, steady: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[(&str, &str)]) -> HashMap<RowKey, Version> {
        rows.iter().map(|(key, version)| (vec![(*key).to_owned()], (*version).to_owned())).collect()
    }

    #[test]
    fn a_row_agrees_once_a_version_of_it_was_seen_on_both_sides() {
        let source = rows(&[("same", "1"), ("hot", "1"), ("late", "1")]);
        let mut left = Unsettled::of(source, rows(&[("same", "1"), ("hot", "0"), ("deleted", "1")]), false);
        assert_eq!(left.len(), 3);
        // The target shows what the source has not been seen at, then what it was at a while ago.
        left.source(rows(&[("hot", "5"), ("late", "1")]));
        left.target(rows(&[("hot", "3"), ("late", "1")]));
        assert_eq!(left.keys(), [["hot"]], "what is gone from both has agreed, too");
        left.source(rows(&[("hot", "9")]));
        left.target(rows(&[("hot", "5")]));
        assert!(left.is_empty());
    }

    #[test]
    fn only_a_row_that_keeps_still_differs_for_good_soon() {
        let mut left = Unsettled::of(
            rows(&[("still", "1"), ("hot", "1")]),
            rows(&[("still", "0"), ("hot", "0")]),
            false,
        );
        for look in 1..STEADY_MAX {
            left.source(rows(&[("still", "1"), ("hot", &format!("s{look}"))]));
            left.target(rows(&[("still", "0"), ("hot", &format!("t{look}"))]));
            assert_eq!(left.differing(look), None);
        }
        left.source(rows(&[("still", "1"), ("hot", "s")]));
        assert_eq!(left.differing(STEADY_MAX), Some(&vec!["still".to_owned()]));
        left.source(rows(&[("hot", "s1")]));
        left.target(rows(&[("hot", "t2")]));
        assert_eq!(left.differing(LOOKS_MAX - 1), None, "what is gone from both has agreed");
        assert!(left.differing(LOOKS_MAX).is_some());
    }

    #[test]
    fn equal_rows_that_are_counted_agree_between_two_counts() {
        let mut left =
            Unsettled::of(rows(&[("log", "9"), ("twice", "1")]), rows(&[("log", "7"), ("twice", "2")]), true);
        left.source(rows(&[("log", "15"), ("twice", "1")]));
        assert_eq!(left.len(), 2);
        left.target(rows(&[("log", "12"), ("twice", "2")]));
        assert_eq!(left.keys(), [["twice"]]);
    }
}
