//! What is left of a copy. Workers take ranges and give back what they could not copy; a table whose rows came to lie
//! elsewhere meanwhile is put in anew.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::ranges::{Range, cut, cut_one};
use crate::server::tables::Table;

/// From so many rewrites of a table on, it is copied in one piece: its lock keeps the next rewrite waiting.
const REWRITES_MAX: u32 = 3;

/// Ranges that are to be copied, shared by the workers of one copy.
pub(super) struct Queue {
    left: Mutex<Left>,
    changed: Notify,
}

struct Left {
    ranges: VecDeque<Range>,
    /// Ranges that workers have in hand.
    in_hand: usize,
    /// By table: ranges that are not copied.
    open: Vec<usize>,
    /// By table: the file that its ranges are of, and how often that became another.
    files: Vec<(u32, u32)>,
}

impl Queue {
    pub(super) fn of(tables: &[Table]) -> Self {
        let files = tables.iter().map(|table| (table.file, 0)).collect();
        let ranges: VecDeque<Range> = cut(tables).into();
        let mut open = vec![0; tables.len()];
        ranges.iter().for_each(|range| open[range.table] += 1);
        Self { left: Mutex::new(Left { ranges, in_hand: 0, open, files }), changed: Notify::new() }
    }

    /// The next range; none when all are copied. While others have some in hand, which they may give back, it waits.
    pub(super) async fn next(&self) -> Option<Range> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut left = self.left();
                if let Some(range) = left.ranges.pop_front() {
                    left.in_hand += 1;
                    return Some(range);
                }
                if left.in_hand == 0 {
                    return None;
                }
            }
            changed.await;
        }
    }

    /// A range in hand is copied, or need not be.
    pub(super) fn done(&self, range: &Range) {
        {
            let mut left = self.left();
            left.in_hand -= 1;
            if left.files[range.table].0 == range.file {
                left.open[range.table] -= 1;
            }
        }
        self.changed.notify_waiters();
    }

    /// A range in hand was not copied.
    pub(super) fn give_back(&self, range: Range) {
        {
            let mut left = self.left();
            left.in_hand -= 1;
            if left.files[range.table].0 == range.file {
                left.ranges.push_front(range);
            }
        }
        self.changed.notify_waiters();
    }

    /// Tables of which nothing is left to copy.
    pub(super) fn tables_done(&self) -> usize {
        self.left().open.iter().filter(|ranges| **ranges == 0).count()
    }

    /// Whether the range is of the file that its table is copied from now.
    pub(super) fn is_current(&self, range: &Range) -> bool {
        self.left().files[range.table].0 == range.file
    }

    /// Nothing of this table is copied: all of it is to be, from another file.
    pub(super) fn begin_anew(&self, table: usize, file: u32, blocks: i64) {
        {
            let mut left = self.left();
            let rewrites = left.files[table].1 + 1;
            left.files[table] = (file, rewrites);
            left.ranges.retain(|range| range.table != table);
            let blocks = if rewrites < REWRITES_MAX { blocks } else { 0 };
            let ranges = cut_one(table, file, blocks);
            left.open[table] = ranges.len();
            for range in ranges.into_iter().rev() {
                left.ranges.push_front(range);
            }
        }
        self.changed.notify_waiters();
    }

    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ranges::BLOCKS;
    use super::*;

    fn table(file: u32, blocks: i64) -> Table {
        Table {
            name: "public.t".into(),
            owner: "acme__owner".into(),
            columns: vec!["a".into()],
            blocks,
            bytes: 0,
            rows_estimate: 0,
            file,
            binary: true,
        }
    }

    #[tokio::test]
    async fn a_rewritten_table_is_copied_anew_and_none_of_its_old_ranges() {
        let queue = Queue::of(&[table(1, 2 * BLOCKS), table(9, 1)]);
        let old = queue.next().await.unwrap();
        queue.begin_anew(0, 2, 3 * BLOCKS);
        assert!(!queue.is_current(&old));
        queue.give_back(old);
        let mut found = Vec::new();
        while let Some(range) = queue.next().await {
            found.push((range.file, range.from));
            queue.done(&range);
        }
        assert_eq!(queue.tables_done(), 2);
        assert_eq!(found, [(2, 0), (2, BLOCKS), (2, 2 * BLOCKS), (9, 0)]);
    }

    #[tokio::test]
    async fn a_table_that_is_rewritten_again_and_again_is_copied_in_one_piece() {
        let queue = Queue::of(&[table(1, 5 * BLOCKS)]);
        for file in 2..=4 {
            queue.begin_anew(0, file, 5 * BLOCKS);
        }
        let range = queue.next().await.unwrap();
        assert!(range.is_whole() && queue.is_current(&range));
        queue.done(&range);
        assert!(queue.next().await.is_none());
    }

    #[tokio::test]
    async fn nobody_goes_home_while_a_range_may_come_back() {
        let queue = Queue::of(&[table(1, 1)]);
        let range = queue.next().await.unwrap();
        let (again, ()) = tokio::join!(queue.next(), async {
            tokio::task::yield_now().await;
            queue.give_back(range);
        });
        assert_eq!(again, Some(range));
        queue.done(&range);
        assert_eq!(queue.next().await, None);
    }
}
