//! The rows of a result, made a few at a time as they are taken: neither a worker nor memory feels how many there are.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use shard_map::TenantId;
use wire::results::{Column, ColumnType, Value};

use crate::ask::{self, NoAnswer, PORTION};
use crate::shared::Shared;
use crate::worker::Worker;

/// A row.
pub(crate) type Row = Vec<Value>;

pub(crate) const fn int8(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Int8 }
}

pub(crate) const fn text(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Text }
}

pub(crate) const fn boolean(name: &'static str) -> Column {
    Column { name, kind: ColumnType::Bool }
}

/// A number as a value; those of a router fit.
pub(crate) fn number(number: impl TryInto<i64>) -> Value {
    Value::Int8(number.try_into().unwrap_or(i64::MAX))
}

/// A name as a value.
#[allow(clippy::needless_pass_by_value, reason = "callers have texts, names and addresses, owned and not")]
pub(crate) fn name(name: impl ToString) -> Value {
    Value::Text(name.to_string())
}

/// A value that may be missing.
pub(crate) fn maybe<T>(value: Option<T>, make: impl FnOnce(T) -> Value) -> Value {
    value.map_or(Value::Null, make)
}

/// Makes the rows of one tenant at its worker.
pub(crate) type OfTenant = fn(&Rc<Worker>, &TenantId) -> Vec<Row>;
/// Makes the row of one client at its worker, if it is still there.
pub(crate) type OfClient = fn(&Rc<Worker>, u32) -> Option<Row>;

/// Where rows come from.
enum Source {
    /// They are all there.
    Made,
    Tenants(VecDeque<TenantId>, OfTenant),
    /// Clients by worker and number.
    Clients(VecDeque<(usize, u32)>, OfClient),
}

/// Rows that are still to be taken.
pub(crate) struct Rows {
    source: Source,
    ready: VecDeque<Row>,
    /// What comes behind all others.
    last: Vec<Row>,
}

impl Rows {
    pub(crate) fn made(rows: Vec<Row>) -> Self {
        Self { source: Source::Made, ready: rows.into(), last: Vec::new() }
    }

    pub(crate) fn of_tenants(tenants: Vec<TenantId>, make: OfTenant, last: Vec<Row>) -> Self {
        Self { source: Source::Tenants(tenants.into(), make), ready: VecDeque::new(), last }
    }

    pub(crate) fn of_clients(clients: Vec<(usize, u32)>, make: OfClient) -> Self {
        Self { source: Source::Clients(clients.into(), make), ready: VecDeque::new(), last: Vec::new() }
    }

    /// The next row.
    pub(crate) async fn next(&mut self, shared: &Arc<Shared>) -> Result<Option<Row>, NoAnswer> {
        while self.ready.is_empty() {
            match &mut self.source {
                Source::Tenants(tenants, make) if !tenants.is_empty() => {
                    let portion: Vec<_> = tenants.drain(..tenants.len().min(PORTION)).collect();
                    let rows = ask::each(shared, &portion, *make).await?;
                    self.ready.extend(rows.into_iter().flatten());
                }
                Source::Clients(clients, make) if !clients.is_empty() => {
                    let worker = clients[0].0;
                    let same = clients.iter().take(PORTION).take_while(|client| client.0 == worker).count();
                    let portion: Vec<_> = clients.drain(..same).map(|client| client.1).collect();
                    let make = *make;
                    let look = move |worker: &Rc<Worker>| {
                        portion.into_iter().filter_map(|client| make(worker, client)).collect::<Vec<_>>()
                    };
                    self.ready.extend(ask::ask(shared, worker, look).await?);
                }
                _ if self.last.is_empty() => return Ok(None),
                _ => self.ready.extend(self.last.drain(..)),
            }
        }
        Ok(self.ready.pop_front())
    }
}
