//! A piece of a table that is compared at once, and what can be asked of it on either side.

use std::collections::HashMap;

use tokio_postgres::types::ToSql;

use super::super::driver::Verify;
use super::key::Key;
use crate::error::{Error, Result};
use crate::server::tables::Table;
use crate::server::{Connection, reader};

/// A row's key, each column as text. Where a table has none, the hash of the row.
pub(super) type RowKey = Vec<String>;
/// A row's contents, hashed; empty when only rows are counted. Where a table has no key: how often the row is there.
pub(super) type Version = String;

/// What a piece of a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) rows: i64,
    /// Of all rows, whatever their order; empty when only rows are counted.
    pub(crate) hash: String,
}

/// Rows of one table: those after `from` up to `to`, or all of them.
#[derive(Debug, Clone)]
pub(super) struct Range<'t> {
    pub(super) table: &'t Table,
    pub(super) key: Option<&'t Key>,
    pub(super) verify: Verify,
    /// Exclusive.
    pub(super) from: Option<RowKey>,
    /// Inclusive.
    pub(super) to: Option<RowKey>,
}

/// A hash of a row that does not depend on where it lies. MD5, because Postgres's own hash functions may differ between
/// versions.
fn row_hash(table: &Table) -> String {
    format!("md5(ROW({})::text)", table.columns.join(", "))
}

/// What is counted and hashed of some rows; a sum, which does not depend on their order.
pub(super) fn aggregate(table: &Table, verify: Verify) -> String {
    match verify {
        Verify::Full => format!(
            "count(*), coalesce(sum(('x' || left({}, 16))::bit(64)::bigint::numeric), 0)::text",
            row_hash(table)
        ),
        Verify::Count | Verify::None => "count(*), ''".to_owned(),
    }
}

impl Range<'_> {
    pub(super) async fn summary(&self, side: &Connection) -> Result<Summary> {
        let (condition, values) = self.condition();
        let sql = format!(
            "SELECT {} FROM ONLY {} WHERE {condition}",
            aggregate(self.table, self.verify),
            self.table.name
        );
        let row = reader::rows(side, &sql, &params(&values)).await?.pop();
        let row = row.ok_or_else(|| Error::Failed("no answer to a count".into()))?;
        Ok(Summary { rows: row.get(0), hash: row.get(1) })
    }

    /// The last key of the next `rows` rows; none when fewer are left.
    pub(super) async fn end(&self, side: &Connection, rows: i64) -> Result<Option<RowKey>> {
        let Some(key) = self.key else { return Ok(None) };
        let (condition, values) = self.condition();
        let sql = format!(
            "SELECT {} FROM ONLY {} WHERE {condition} ORDER BY {} OFFSET {} LIMIT 1",
            as_text(key),
            self.table.name,
            names(key),
            rows - 1
        );
        Ok(reader::rows(side, &sql, &params(&values)).await?.pop().map(|row| row.get(0)))
    }

    /// Its rows, one by one. None when there are more than `most`.
    pub(super) async fn rows(
        &self,
        side: &Connection,
        most: usize,
    ) -> Result<Option<HashMap<RowKey, Version>>> {
        let (condition, values) = self.condition();
        let sql = format!("{} WHERE {condition} {} LIMIT {}", self.select(), self.grouped(), most + 1);
        let rows = reader::rows(side, &sql, &params(&values)).await?;
        Ok((rows.len() <= most).then(|| rows.iter().map(|row| (row.get(0), row.get(1))).collect()))
    }

    /// Those of these rows that are there.
    pub(super) async fn look(&self, side: &Connection, keys: &[RowKey]) -> Result<HashMap<RowKey, Version>> {
        let width = self.key.map_or(1, |key| key.columns.len());
        let values: Vec<Vec<&str>> =
            (0..width).map(|at| keys.iter().map(|key| key[at].as_str()).collect()).collect();
        let condition = match self.key {
            Some(key) => {
                let casts =
                    key.columns.iter().enumerate().map(|(at, column)| format!("v{at}::{}", column.kind));
                let lists = (1..=width).map(|at| format!("${at}::text[]")).collect::<Vec<_>>().join(", ");
                let aliases = (0..width).map(|at| format!("v{at}")).collect::<Vec<_>>().join(", ");
                let casts = casts.collect::<Vec<_>>().join(", ");
                format!("({}) IN (SELECT {casts} FROM unnest({lists}) AS sought ({aliases}))", names(key))
            }
            None => format!("{} = ANY ($1::text[])", row_hash(self.table)),
        };
        let sql = format!("{} WHERE {condition} {}", self.select(), self.grouped());
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|list| list as _).collect();
        Ok(reader::rows(side, &sql, &values).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    fn select(&self) -> String {
        let hash = row_hash(self.table);
        match self.key {
            Some(key) => {
                let version = if self.verify == Verify::Full { hash.as_str() } else { "''" };
                format!("SELECT {}, {version} FROM ONLY {}", as_text(key), self.table.name)
            }
            None => format!("SELECT ARRAY[{hash}], count(*)::text FROM ONLY {}", self.table.name),
        }
    }

    fn grouped(&self) -> &'static str {
        if self.key.is_some() { "" } else { "GROUP BY 1" }
    }

    fn condition(&self) -> (String, Vec<&str>) {
        let Some(key) = self.key else { return ("true".to_owned(), Vec::new()) };
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for (bound, operator) in [(&self.from, ">"), (&self.to, "<=")] {
            let Some(bound) = bound else { continue };
            let casts = key.columns.iter().zip(values.len() + 1..);
            let casts: Vec<String> =
                casts.map(|(column, at)| format!("${at}::text::{}", column.kind)).collect();
            conditions.push(format!("({}) {operator} ({})", names(key), casts.join(", ")));
            values.extend(bound.iter().map(String::as_str));
        }
        if conditions.is_empty() {
            conditions.push("true".to_owned());
        }
        (conditions.join(" AND "), values)
    }

    /// Where it is, for people.
    pub(super) fn told(&self) -> String {
        let bound = |key: &RowKey| format!("({})", shortened(key));
        match (self.key, &self.from, &self.to) {
            (None, ..) | (_, None, None) => "all rows".to_owned(),
            (_, Some(from), None) => format!("rows after {}", bound(from)),
            (_, None, Some(to)) => format!("rows up to {}", bound(to)),
            (_, Some(from), Some(to)) => format!("rows after {} up to {}", bound(from), bound(to)),
        }
    }
}

/// A key for people: of a long one its beginning.
pub(super) fn shortened(key: &RowKey) -> String {
    const MOST: usize = 60;
    let text = key.join(", ");
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn names(key: &Key) -> String {
    key.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn as_text(key: &Key) -> String {
    let texts = key.columns.iter().map(|column| format!("{}::text", column.name));
    format!("ARRAY[{}]", texts.collect::<Vec<_>>().join(", "))
}

fn params<'v>(values: &'v [&'v str]) -> Vec<&'v (dyn ToSql + Sync)> {
    values.iter().map(|value| value as _).collect()
}
