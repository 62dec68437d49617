//! The stock: databases that are made before anybody asks for them, so that making a tenant is to claim one.
//!
//! A prepared database is made as a tenant's is, by the same deeds, for a tenant that does not exist: its roles and its
//! name are of the stock's own. The server's registry has it on record before anything of it is there, so the leader, or
//! the next one, finds what another left half made, and brings it to its end or drops it.
//!
//! Of a server it asks little: one database at a time, a pause as long as the last one took, and nothing while the server
//! is busy, or a move or a migration run goes on there. What it does not do: promise that there is one. Whoever finds none makes his own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use shard_map::policy::PlacementPolicy;
use shard_map::{Epoch, Server, ServerClass, ServerName, ServerState, Tenant, TenantId, TenantState};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::error::{Error, Result};
use crate::failpoint;
use crate::fleet;
use crate::server::stock::{Item, State};
use crate::server::{Connection, database, registry, roles, stock};

/// How often it is looked what is missing when nobody nudges.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long a new leader waits: it has to take up what others left first.
const FIRST_AFTER: Duration = Duration::from_secs(2);
/// Servers that are worked on at once.
const SERVERS_AT_ONCE: usize = 4;
/// How long a server is left alone after something failed there.
const REST: Duration = Duration::from_secs(60);
/// How long one server's stock may take to fill: the schema of each database is the fleet's, with all its migrations.
const FILL_TIMEOUT: Duration = Duration::from_mins(30);
/// The pause after a database was made is as long as that took, within these.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// As long as tenants follow each other more closely, none is added: a claim would wait for the disk with it.
const CLAIM_PAUSE: Duration = Duration::from_secs(1);
/// Unless only one of so many that are wanted is left: then a tenant that has to be made the long way would cost more.
const REFILL_AT_ONE_OF: usize = 4;

/// What a server shall have.
struct Wanted {
    count: usize,
    schema: Option<String>,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
enum Deed<'a> {
    /// Bring it to the schema, and on the shelf.
    Finish(&'a TenantId),
    Drop(&'a TenantId),
    Make,
}

/// Decides; nothing when all is as it shall be.
fn next<'a>(items: &'a [Item], wanted: &Wanted) -> Option<Deed<'a>> {
    if let Some(item) = items.iter().find(|item| item.state == State::Dropping) {
        return Some(Deed::Drop(&item.id));
    }
    let is_done = |item: &Item| item.state == State::Ready && item.schema == wanted.schema;
    if items.len() > wanted.count {
        let of_no_use = items.iter().find(|item| !is_done(item)).or(items.last());
        return of_no_use.map(|item| Deed::Drop(&item.id));
    }
    match items.iter().find(|item| !is_done(item)) {
        // Schemas only go on; what has one that is no longer wanted at all is made anew.
        Some(item) if item.schema.is_some() && wanted.schema.is_none() => Some(Deed::Drop(&item.id)),
        Some(item) => Some(Deed::Finish(&item.id)),
        None => (items.len() < wanted.count).then_some(Deed::Make),
    }
}

/// Servers that are left alone for a while, since when.
type Resting = Mutex<HashMap<ServerName, Instant>>;

/// Keeps the stock, for as long as this instance leads, until `stop`. Work under way is dropped where it stands then.
pub(crate) async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let resting = Resting::default();
    let mut wait = FIRST_AFTER;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            () = context.stock_nudge.notified(), if wait == INTERVAL => {}
        }
        let Some(term) = *context.term.borrow() else {
            wait = FIRST_AFTER;
            continue;
        };
        wait = INTERVAL;
        tokio::select! {
            () = stop.cancelled() => return,
            outcome = pass(&context, term, &resting) => {
                if let Err(error) = outcome {
                    tracing::warn!(%error, "the stock could not be looked at");
                }
            }
        }
    }
}

async fn pass(context: &Context, term: i64, resting: &Resting) -> Result<()> {
    let catalog = &context.catalog;
    let policy = context.policy().await?;
    let count = policy.stock_per_server.unwrap_or(context.config.stock_per_server) as usize;
    let schema = catalog.fleet_schema_mark().await?.map(|mark| mark.schema);
    let servers = catalog.servers().await?;
    stream::iter(&servers)
        .for_each_concurrent(SERVERS_AT_ONCE, async |row| {
            let server = &row.server;
            let takes_tenants = server.class == ServerClass::Shared && server.state == ServerState::Active;
            let wanted = Wanted { count: if takes_tenants { count } else { 0 }, schema: schema.clone() };
            let rests = |rests: &mut HashMap<ServerName, Instant>| {
                rests.retain(|_, since| since.elapsed() < REST);
                rests.contains_key(&server.name)
            };
            if rests(&mut resting.lock().unwrap_or_else(PoisonError::into_inner)) {
                return;
            }
            let filling = fill(context, term, (server, &policy), &wanted);
            let filled = tokio::time::timeout(FILL_TIMEOUT, filling).await;
            let late = |_| Err(Error::Timeout(format!("not filled within {FILL_TIMEOUT:?}")));
            if let Err(error) = filled.unwrap_or_else(late) {
                tracing::warn!(server = %server.name, %error, "its stock could not be filled; it rests");
                let mut resting = resting.lock().unwrap_or_else(PoisonError::into_inner);
                resting.insert(server.name.clone(), Instant::now());
            }
        })
        .await;
    Ok(())
}

/// Brings one server's stock to what it shall be, one database after the other.
async fn fill(
    context: &Context,
    term: i64,
    (server, policy): (&Server, &PlacementPolicy),
    wanted: &Wanted,
) -> Result<()> {
    let mut connection = context.connector.warm_registry(server).await?;
    if !registry::has_stock(&connection).await? {
        // Armed by an older program.
        registry::migrate(&mut connection).await?;
        connection.run("SET search_path = ''").await?;
    }
    let gauge = context.metrics.stock.with_label_values(&[server.name.as_str()]);
    loop {
        let items = stock::list(&connection).await?;
        gauge.set(items.iter().filter(|item| item.state == State::Ready).count() as i64);
        let Some(deed) = next(&items, wanted) else { break };
        if gives_way(context, server).await? || is_busy(&connection, server, policy).await? {
            break;
        }
        let begun = Instant::now();
        match deed {
            Deed::Drop(id) => discard(&connection, term, id).await?,
            Deed::Finish(id) => finish(context, term, (server, &connection), id, wanted).await?,
            Deed::Make => {
                if let Some(since) = last_claim(context)
                    && since < CLAIM_PAUSE
                    && items.len() > wanted.count / REFILL_AT_ONE_OF
                {
                    tokio::time::sleep(CLAIM_PAUSE - since).await;
                    continue;
                }
                let id = stock::add(&connection, term).await?;
                failpoint::reach("stock_added").await;
                finish(context, term, (server, &connection), &id, wanted).await?;
            }
        }
        tokio::time::sleep(begun.elapsed().clamp(PAUSE_MIN, PAUSE_MAX)).await;
        if *context.term.borrow() != Some(term) {
            break;
        }
    }
    context.connector.keep_warm(server, connection);
    Ok(())
}

/// How long ago a tenant was last made from the stock.
fn last_claim(context: &Context) -> Option<Duration> {
    context.stock_claimed.borrow().map(|at| at.elapsed())
}

/// Whether a migration run goes on, or a move to or from the server. What is made meanwhile would soon be old, or in the way.
async fn gives_way(context: &Context, server: &Server) -> Result<bool> {
    let catalog = &context.catalog;
    Ok(catalog.is_migrating().await? || catalog.moving_servers().await?.contains(&server.name))
}

/// Whether the server has enough to do: half of what it gives to routers is at work, or more than its operator allows.
async fn is_busy(connection: &Connection, server: &Server, policy: &PlacementPolicy) -> Result<bool> {
    const ACTIVE: &str = "
        SELECT count(*) FROM pg_catalog.pg_stat_activity
        WHERE state = 'active' AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()";
    let capacity = server.capacity.or(&policy.class(server.class).capacity);
    let most = capacity.active_sessions_max.unwrap_or(server.max_connections.div_ceil(2));
    Ok(connection.value::<i64>(ACTIVE, &[]).await? >= i64::from(most))
}

/// Makes what is missing of it, or brings it to the schema; one that can't be is dropped.
async fn finish(
    context: &Context,
    term: i64,
    (server, connection): (&Server, &Connection),
    id: &TenantId,
    wanted: &Wanted,
) -> Result<()> {
    // Nobody may claim it from here on. The schema is on record before anything of it is there.
    if !stock::set(connection, term, id, (State::Making, wanted.schema.as_deref())).await? {
        return Ok(());
    }
    match prepare(context, (server, connection), id).await {
        Ok(()) => {
            stock::set(connection, term, id, (State::Ready, wanted.schema.as_deref())).await?;
            failpoint::reach("stock_ready").await;
            Ok(())
        }
        Err(error) => {
            if !error.is_transient() {
                discard(connection, term, id).await?;
            }
            Err(error)
        }
    }
}

/// As a tenant's database is made; each deed can be repeated.
async fn prepare(
    context: &Context,
    (server, connection): (&Server, &Connection),
    id: &TenantId,
) -> Result<()> {
    let nobody = Tenant {
        id: id.clone(),
        server: server.name.clone(),
        epoch: Epoch::default(),
        state: TenantState::Creating,
        labels: [].into(),
        key_version: 1,
        schema_version: None,
        quota: None,
        read_only: false,
    };
    roles::put_tenant_roles(connection, &context.key, id, nobody.key_version).await?;
    failpoint::reach("stock_roles").await;
    if !database::is_valid(connection, id.live_database()).await? {
        // Half dropped; nothing else ever has its name.
        database::drop(connection, id.live_database()).await?;
    }
    database::create(connection, id.live_database(), 0).await?;
    database::grant(connection, id.live_database(), id).await?;
    failpoint::reach("stock_database").await;
    let inside = context.connector.database(server, id.live_database()).await?;
    database::grant_schema(&inside, id).await?;
    inside.close().await;
    fleet::apply_fleet_schema(context, server, &nobody).await?;
    // A session that is just leaving would be in the way of the rename.
    let deadline = Instant::now() + database::TERMINATE_TIMEOUT;
    database::terminate(connection, id.live_database(), None, deadline).await
}

async fn discard(connection: &Connection, term: i64, id: &TenantId) -> Result<()> {
    if !stock::set(connection, term, id, (State::Dropping, None)).await? {
        return Ok(());
    }
    database::drop(connection, id.live_database()).await?;
    failpoint::reach("stock_dropped").await;
    roles::drop_tenant_roles(connection, term, id).await?;
    stock::remove(connection, term, id).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, state: State, schema: Option<&str>) -> Item {
        let id = TenantId::of_stock(&format!("{name}__stock")).unwrap();
        Item { id, state, schema: schema.map(str::to_owned) }
    }

    #[test]
    fn what_is_half_done_is_ended_before_anything_new_is_made() {
        let wanted = Wanted { count: 2, schema: Some("new".to_owned()) };
        let dropping = item("a", State::Dropping, None);
        let making = item("b", State::Making, None);
        let old = item("c", State::Ready, Some("old"));
        let ready = item("d", State::Ready, Some("new"));
        let of = |items: &[&Item]| items.iter().map(|item| (*item).clone()).collect::<Vec<_>>();

        assert_eq!(next(&of(&[&ready, &dropping]), &wanted), Some(Deed::Drop(&dropping.id)));
        assert_eq!(next(&of(&[&ready, &making]), &wanted), Some(Deed::Finish(&making.id)));
        assert_eq!(next(&of(&[&ready, &old]), &wanted), Some(Deed::Finish(&old.id)));
        assert_eq!(next(&of(&[&ready, &ready, &old]), &wanted), Some(Deed::Drop(&old.id)));
        assert_eq!(next(&of(&[&ready]), &wanted), Some(Deed::Make));
        assert_eq!(next(&of(&[&ready, &ready]), &wanted), None);
        let nothing = Wanted { count: 0, schema: None };
        assert_eq!(next(&of(&[&ready]), &nothing), Some(Deed::Drop(&ready.id)), "the server drains");
        let empty = Wanted { count: 2, schema: None };
        assert_eq!(next(&of(&[&ready]), &empty), Some(Deed::Drop(&ready.id)), "no schema is wanted");
    }
}
