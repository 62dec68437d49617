//! A copy in pieces: each table is cut into ranges of blocks, which Postgres 14 and newer read without an index.

use crate::server::tables::Table;

/// Blocks of a range: 64 MB, enough to make a range's own cost vanish, little enough to share out evenly. With failpoints
/// 512 kB, so that the tables of tests have several, too.
pub(crate) const BLOCKS: i64 = if cfg!(feature = "failpoints") { 64 } else { 8192 };

/// A piece of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    /// Index of the table in the list it came from.
    pub(crate) table: usize,
    /// The table's file that it is a piece of: other pieces of the same copy are of the same one.
    pub(crate) file: u32,
    /// First block.
    pub(crate) from: i64,
    /// The block after the last; none for the table's last range, which has no upper bound.
    pub(crate) to: Option<i64>,
}

/// Cuts all tables, in their order: the largest come first, so that the last pieces are small ones.
pub(crate) fn cut(tables: &[Table]) -> Vec<Range> {
    let of_table = |(index, table): (usize, &Table)| cut_one(index, table.file, table.blocks);
    tables.iter().enumerate().flat_map(of_table).collect()
}

/// Cuts one table.
pub(crate) fn cut_one(table: usize, file: u32, blocks: i64) -> Vec<Range> {
    let count = (blocks.div_euclid(BLOCKS) + i64::from(blocks % BLOCKS != 0)).max(1);
    let range =
        |n: i64| Range { table, file, from: n * BLOCKS, to: (n + 1 < count).then(|| (n + 1) * BLOCKS) };
    (0..count).map(range).collect()
}

impl Range {
    /// Whether it is all of its table, so that no other piece has to fit to it.
    pub(crate) fn is_whole(&self) -> bool {
        self.from == 0 && self.to.is_none()
    }

    /// The statement that reads it. Of a whole table nothing is planned.
    pub(crate) fn copy_out(&self, table: &Table, format: &str) -> String {
        if self.is_whole() {
            return table.copy_out(format);
        }
        let columns = table.columns.join(", ");
        let upper = self.to.map(|to| format!(" AND ctid < '({to},0)'")).unwrap_or_default();
        format!(
            "COPY (SELECT {columns} FROM ONLY {} WHERE ctid >= '({},0)'{upper}) TO STDOUT (FORMAT {format})",
            table.name, self.from
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_meet_and_the_last_is_open() {
        for blocks in [0, 1, BLOCKS - 1, BLOCKS, BLOCKS + 1, 3 * BLOCKS] {
            let ranges = cut_one(0, 1, blocks);
            assert_eq!(ranges[0].from, 0);
            for pair in ranges.windows(2) {
                assert_eq!(pair[0].to, Some(pair[1].from));
            }
            assert_eq!(ranges.last().unwrap().to, None, "{blocks}");
            assert_eq!(ranges[0].is_whole(), blocks <= BLOCKS, "{blocks}");
        }
        assert_eq!(cut_one(0, 1, BLOCKS + 1).len(), 2);
    }
}
