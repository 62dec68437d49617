//! The tables that can be shown: their columns, which stay as they are, and where their rows come from.
//!
//! Only tenants that are warm at this router appear: those with clients, connections or a pause.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use shard_map::{Access, TenantId};
use wire::results::{Column, Value};

use crate::admin::command::Show;
use crate::admin::rows::{Row, Rows, boolean, int8, maybe, name, number, text};
use crate::admin::{config, help};
use crate::ask::{self, NoAnswer};
use crate::session::client::Client;
use crate::shared::Shared;
use crate::stats::{Figure, Figures};
use crate::tenant::Tenant;
use crate::worker::Worker;

/// Stands for all tenants that are not named one by one; no tenant can have this name.
pub(crate) const REST: &str = "(rest)";

const TENANTS: [Column; 9] = [
    text("tenant"),
    text("server"),
    text("state"),
    int8("clients"),
    int8("waiting"),
    int8("connections"),
    int8("idle"),
    int8("opening"),
    int8("pinned"),
];
const POOLS: [Column; 10] = [
    text("tenant"),
    text("access"),
    text("server"),
    int8("cl_idle"),
    int8("cl_active"),
    int8("cl_waiting"),
    int8("sv_active"),
    int8("sv_idle"),
    int8("maxwait"),
    int8("maxwait_us"),
];
const CLIENTS: [Column; 9] = [
    int8("id"),
    text("tenant"),
    text("user"),
    text("access"),
    text("address"),
    text("state"),
    text("pinned"),
    int8("connected_s"),
    int8("wait_us"),
];
const SERVERS: [Column; 8] = [
    text("server"),
    text("address"),
    text("tenant"),
    text("access"),
    text("state"),
    int8("pid"),
    int8("client"),
    int8("connected_s"),
];
const STATS: [Column; 9] = [
    text("tenant"),
    int8(Figure::Transactions.name()),
    int8(Figure::Statements.name()),
    int8(Figure::BytesIn.name()),
    int8(Figure::BytesOut.name()),
    int8(Figure::TransactionMicros.name()),
    int8(Figure::Waits.name()),
    int8(Figure::WaitMicros.name()),
    int8(Figure::Errors.name()),
];
const HOLDS: [Column; 8] = [
    text("tenant"),
    text("kind"),
    int8("hold"),
    int8("since_s"),
    int8("left_ms"),
    boolean("acknowledged"),
    int8("waiting"),
    int8("running"),
];
const VERSION: [Column; 1] = [text("version")];
const ISOLATION: [Column; 1] = [text("transaction_isolation")];

/// The columns of a table.
pub(crate) fn columns(table: Show) -> &'static [Column] {
    match table {
        Show::Help => &help::COLUMNS,
        Show::Tenants => &TENANTS,
        Show::Pools => &POOLS,
        Show::Clients => &CLIENTS,
        Show::Servers => &SERVERS,
        Show::Stats => &STATS,
        Show::Holds => &HOLDS,
        Show::Config => &config::COLUMNS,
        Show::Version => &VERSION,
        Show::Isolation => &ISOLATION,
    }
}

/// The rows of a table.
pub(crate) async fn rows(table: Show, shared: &Arc<Shared>) -> Result<Rows, NoAnswer> {
    let warm = async |make| Ok(Rows::of_tenants(ask::tenants(shared, false).await?, make, Vec::new()));
    match table {
        Show::Help => Ok(Rows::made(help::rows())),
        Show::Tenants => warm(|worker, id| of_warm(worker, id, tenant)).await,
        Show::Pools => warm(|worker, id| of_warm(worker, id, pools)).await,
        Show::Servers => warm(|worker, id| of_warm(worker, id, connections)).await,
        Show::Holds => warm(|worker, id| of_warm(worker, id, holds)).await,
        Show::Clients => clients(shared).await,
        Show::Stats => stats(shared).await,
        Show::Config => Ok(Rows::made(config::rows(&shared.config()))),
        Show::Version => Ok(Rows::made(vec![vec![name(concat!("tenantry ", env!("CARGO_PKG_VERSION")))]])),
        Show::Isolation => Ok(Rows::made(vec![vec![name("read committed")]])),
    }
}

fn of_warm(worker: &Worker, id: &TenantId, make: fn(&Tenant) -> Vec<Row>) -> Vec<Row> {
    worker.warm(id).map(|tenant| make(&tenant)).unwrap_or_default()
}

/// A word for whether a tenant's transactions may begin.
pub(crate) fn state(tenant: &Tenant) -> &'static str {
    if tenant.refusal().is_some() {
        "refused"
    } else if tenant.hold().is_some() {
        "held"
    } else if tenant.is_paused() {
        "paused"
    } else {
        "open"
    }
}

fn tenant(tenant: &Tenant) -> Vec<Row> {
    let clients = tenant.clients.borrow();
    let count = |is: fn(&Client) -> bool| number(clients.values().filter(|client| is(client)).count());
    vec![vec![
        name(&tenant.id),
        maybe(tenant.place(), |place| name(&place.server.name)),
        name(state(tenant)),
        number(clients.len()),
        count(|client| client.waiting.get().is_some()),
        number(tenant.open.get()),
        number(tenant.idle.borrow().len()),
        number(tenant.opening.get()),
        count(|client| !client.pins.get().is_empty()),
    ]]
}

fn pools(tenant: &Tenant) -> Vec<Row> {
    let of_access = |access: Access| {
        let clients = tenant.clients.borrow();
        let clients: Vec<_> = clients.values().filter(|client| client.access == access).collect();
        let idle = tenant.idle.borrow().iter().filter(|connection| connection.access == access).count();
        if clients.is_empty() && idle == 0 {
            return None;
        }
        let waits: Vec<Instant> = clients.iter().filter_map(|client| client.waiting.get()).collect();
        let active = clients.iter().filter(|client| client.target().is_some()).count();
        let longest = waits.iter().min().map(Instant::elapsed).unwrap_or_default();
        Some(vec![
            name(&tenant.id),
            name(access.as_str()),
            maybe(tenant.place(), |place| name(&place.server.name)),
            number(clients.len().saturating_sub(active + waits.len())),
            number(active),
            number(waits.len()),
            number(active),
            number(idle),
            number(longest.as_secs()),
            number(longest.subsec_micros()),
        ])
    };
    Access::ALL.into_iter().filter_map(of_access).collect()
}

async fn clients(shared: &Arc<Shared>) -> Result<Rows, NoAnswer> {
    let of_workers =
        ask::ask_all(shared, |worker| worker.clients.borrow().keys().copied().collect::<Vec<_>>());
    let mut all = Vec::new();
    for (worker, mut clients) in of_workers.await?.into_iter().enumerate() {
        clients.sort_unstable();
        all.extend(clients.into_iter().map(|client| (worker, client)));
    }
    Ok(Rows::of_clients(all, |worker, id| worker.clients.borrow().get(&id).map(client)))
}

/// A word for what a client does.
fn client_state(client: &Client) -> &'static str {
    if client.waiting.get().is_some() {
        "waiting"
    } else if client.is_busy() {
        "active"
    } else if client.target().is_some() && !client.parked.get() {
        "idle in transaction"
    } else {
        "idle"
    }
}

fn client(client: &Rc<Client>) -> Row {
    let pins: Vec<_> = client.pins.get().iter().map(wire::sql::PinReason::as_str).collect();
    vec![
        number(client.id),
        name(&client.tenant),
        name(&client.user),
        name(client.access.as_str()),
        name(client.address),
        name(client_state(client)),
        maybe(Some(pins).filter(|pins| !pins.is_empty()), |pins| name(pins.join(","))),
        number(client.connected.elapsed().as_secs()),
        maybe(client.waiting.get(), |since| number(since.elapsed().as_micros())),
    ]
}

fn connections(tenant: &Tenant) -> Vec<Row> {
    let row = |target: &crate::pool::CancelTarget, state, client| {
        vec![
            name(&target.server),
            name(target.address),
            name(&tenant.id),
            name(target.access.as_str()),
            name(state),
            number(target.process_id),
            client,
            number(target.since.elapsed().as_secs()),
        ]
    };
    let clients = tenant.clients.borrow();
    let active = clients
        .values()
        .filter_map(|client| client.target().map(|target| row(&target, "active", number(client.id))));
    let idle = tenant.idle.borrow();
    let idle = idle.iter().map(|connection| row(&connection.cancel, "idle", Value::Null));
    active.chain(idle).collect()
}

async fn stats(shared: &Arc<Shared>) -> Result<Rows, NoAnswer> {
    let mut rest = Figures::default();
    for of_worker in ask::ask_all(shared, |worker| worker.cold.borrow().rest()).await? {
        rest.add(&of_worker);
    }
    let tenants = ask::tenants(shared, true).await?;
    let of_tenant = |worker: &Rc<Worker>, id: &TenantId| vec![figures(id.as_str(), &worker.figures(id))];
    Ok(Rows::of_tenants(tenants, of_tenant, vec![figures(REST, &rest)]))
}

fn figures(tenant: &str, figures: &Figures) -> Row {
    std::iter::once(name(tenant)).chain(Figure::ALL.map(|figure| number(figures.get(figure)))).collect()
}

fn holds(tenant: &Tenant) -> Vec<Row> {
    let waiting = tenant.clients.borrow().values().filter(|client| client.waiting.get().is_some()).count();
    let row = |kind, hold, since: Instant, left, acknowledged| {
        let since = number(since.elapsed().as_secs());
        let counts = [number(waiting), number(tenant.under_way())];
        [name(&tenant.id), name(kind), hold, since, left, acknowledged].into_iter().chain(counts).collect()
    };
    let held = tenant.hold().map(|(hold, since, left, acknowledged)| {
        row("move", number(hold), since, number(left.as_millis()), Value::Bool(acknowledged))
    });
    let paused = tenant.paused.get().map(|since| row("pause", Value::Null, since, Value::Null, Value::Null));
    held.into_iter().chain(paused).collect()
}
