//! Looks at every part and says what is wrong, and what to do. It changes nothing.
//!
//! What is seen is gathered here as plain values: from the catalog, and from all servers at once, each with a limit, so that
//! those that hang cost no more than that. What follows from it is decided in a file for each part, by pure functions.
//! Needs the catalog's URL and the master key, and no control plane that leads: the command line does the same by itself
//! when there is none.

mod addresses;
mod catalog;
mod diagnosis;
mod map;
mod routers;
mod servers;
mod work;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::catalog::{Catalog, Health, MoveState, OperationHealth, ServerRow};
use futures_util::future::join_all;
use shard_map::Server;

use crate::config::{ControlConfig, Secrets};
use crate::error::{Error, Result};
use crate::server::{Connector, health, names};
use diagnosis::Part;
pub use diagnosis::{Check, Diagnosis, Finding, Severity};
use servers::{Expected, Seen};

/// How long one server may take to be looked at.
const SERVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long all of it may take.
const EXAMINE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long ago a failed change of a tenant may be to be told.
const FAILED_WITHIN: Duration = Duration::from_secs(24 * 3600);

/// What looks at the fleet.
pub struct Doctor {
    catalog: Catalog,
    connector: Connector,
    lease_duration: Duration,
    router_timeout: Duration,
    map_check_interval: Duration,
    /// The servers as the catalog had them last, for when it can't be asked.
    servers: Mutex<Vec<ServerRow>>,
}

impl Doctor {
    /// One that needs no control plane.
    ///
    /// # Errors
    /// When the catalog's URL can't be read.
    pub fn new(config: &ControlConfig, secrets: &Secrets) -> Result<Self> {
        let catalog = Catalog::new(&secrets.catalog_url, &prometheus::Registry::new())?;
        Ok(Self::of_control(catalog, Connector::new(secrets.master_key.clone(), config.server_tls()), config))
    }

    pub(crate) fn of_control(catalog: Catalog, connector: Connector, config: &ControlConfig) -> Self {
        Self {
            catalog,
            connector,
            lease_duration: config.lease_duration,
            router_timeout: config.router_timeout,
            map_check_interval: config.map_check_interval,
            servers: Mutex::default(),
        }
    }

    /// Keeps the servers as the catalog has them.
    pub(crate) fn remember(&self, servers: Vec<ServerRow>) {
        *self.servers.lock().unwrap_or_else(PoisonError::into_inner) = servers;
    }

    /// Looks at everything, within `EXAMINE_TIMEOUT`.
    pub async fn examine(&self) -> Diagnosis {
        let (mut parts, mut unreachable) = (Vec::new(), None);
        let looked =
            tokio::time::timeout(EXAMINE_TIMEOUT, self.look_at_all(&mut parts, &mut unreachable)).await;
        if looked.is_err() {
            let slow = format!("not all of it was read within {EXAMINE_TIMEOUT:?}");
            parts.push(unread("catalog", &::catalog::Error::Unreachable(slow), &mut unreachable));
        }
        Diagnosis::of(parts, unreachable)
    }

    async fn look_at_all(&self, parts: &mut Vec<Part>, unreachable: &mut Option<String>) {
        let asked = health::unix_time();
        let health = self.catalog.health().await;
        let answered = health::unix_time();
        match &health {
            Ok(seen) => {
                parts.push(catalog::judge(seen, health::ahead(seen.unix_ms, asked, answered)));
                parts.push(catalog::judge_leader(seen.lease.as_ref(), self.lease_duration));
            }
            Err(error) => parts.push(unread("catalog", error, unreachable)),
        }
        // Once it is away it is not asked again: each question would wait as long as the first.
        let mut before = Vec::new();
        if unreachable.is_none() {
            match self.catalog.servers().await {
                Ok(servers) => self.remember(servers),
                Err(error) => parts.push(unread("server", &error, unreachable)),
            }
        }
        if unreachable.is_none() {
            before = self.catalog.operation_health().await.unwrap_or_default();
        }
        let rows = self.remembered();
        let seen = self.look_at(&rows).await;
        if unreachable.is_some() {
            let (moves, addresses) = (&BTreeMap::new(), &[]);
            let expected = Expected { fleet: None, term: None, moves, moves_known: false, addresses };
            parts.extend(rows.iter().zip(&seen).map(|(row, seen)| servers::judge(row, seen, &expected)));
            return;
        }
        parts.extend(self.judge_servers((&rows, &seen), &before, health.as_ref().ok()).await);
        let map_version = health.ok().and_then(|health| health.map_version);
        self.judge_records(parts, unreachable, map_version).await;
    }

    fn remembered(&self) -> Vec<ServerRow> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn look_at(&self, rows: &[ServerRow]) -> Vec<Seen> {
        let servers: Vec<Server> = rows.iter().map(|row| row.server.clone()).collect();
        let looks = servers.into_iter().map(async |server| {
            let look = health::read(&self.connector, &server);
            match tokio::time::timeout(SERVER_TIMEOUT, look).await {
                Ok(seen) => seen,
                Err(_) => Err(Error::ServerUnreachable {
                    server: server.name.to_string(),
                    message: format!("it did not answer within {SERVER_TIMEOUT:?}"),
                }),
            }
        });
        join_all(looks).await
    }

    /// Holds servers against the catalog as it was before they were looked at, and as it is now: what a move is just
    /// ending is nothing that was left.
    async fn judge_servers(
        &self,
        (rows, seen): (&[ServerRow], &[Seen]),
        before: &[OperationHealth],
        health: Option<&Health>,
    ) -> Vec<Part> {
        let slots = seen.iter().flatten().flat_map(|(health, _)| &health.slots);
        let numbers: Vec<i64> = slots.filter_map(|slot| names::move_of(&slot.name)).collect();
        let states = self.catalog.move_states(&numbers).await;
        let moves_known = states.is_ok();
        let away = matches!(states, Err(::catalog::Error::Unreachable(_)));
        let mut moves: BTreeMap<i64, MoveState> =
            states.unwrap_or_default().into_iter().map(|state| (state.id, state)).collect();
        for operation in before {
            let OperationHealth { id, tenant, state, .. } = operation.clone();
            moves.insert(id, MoveState { id, tenant, state });
        }
        let identity = if away { None } else { self.catalog.identity().await.ok() };
        // A leader that came meanwhile has told the servers its term already.
        let term = |health: &Health| health.lease.as_ref().map(|lease| lease.term);
        let now = if away { None } else { self.catalog.health().await.ok() };
        let term = health.and_then(term).max(now.as_ref().and_then(term));
        let fleet = identity.as_ref().map(|identity| identity.fleet.as_str());
        let addresses = if away { None } else { self.catalog.server_addresses().await.ok() };
        let addresses = &addresses.unwrap_or_default();
        let expected = Expected { fleet, term, moves: &moves, moves_known, addresses };
        rows.iter().zip(seen).map(|(row, seen)| servers::judge(row, seen, &expected)).collect()
    }

    /// Everything that stands in the catalog, as long as it answers.
    async fn judge_records(
        &self,
        parts: &mut Vec<Part>,
        unreachable: &mut Option<String>,
        map_version: Option<i64>,
    ) {
        let catalog = &self.catalog;
        let mut add = |part, judged: ::catalog::Result<Vec<Part>>| match judged {
            Ok(judged) => {
                parts.extend(judged);
                true
            }
            Err(error) => {
                parts.push(unread(part, &error, unreachable));
                unreachable.is_none()
            }
        };
        let judged = catalog.router_health().await;
        if !add("router", judged.map(|seen| routers::judge(&seen, map_version, self.router_timeout))) {
            return;
        }
        let judged = catalog.hold_health(self.router_timeout).await;
        if !add("router", judged.map(|seen| vec![routers::judge_holds(&seen)])) {
            return;
        }
        let judged = match (catalog.map_check().await, catalog.map_check_age().await) {
            (Ok(check), Ok(ages)) => Ok(vec![map::judge(check.as_ref(), ages, self.map_check_interval)]),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if !add("map", judged) {
            return;
        }
        let judged = catalog.operation_health().await;
        if !add(
            "operations",
            judged.map(|seen| vec![work::judge_operations(&seen), work::judge_moves(&seen)]),
        ) {
            return;
        }
        let judged = catalog.run_health().await;
        if !add("migrations", judged.map(|seen| vec![work::judge_run(seen.as_ref())])) {
            return;
        }
        let judged = catalog.unfinished_tenants(FAILED_WITHIN).await;
        add("tenants", judged.map(|seen| vec![work::judge_tenants(&seen)]));
    }
}

/// A part of which the catalog does not tell.
fn unread(name: &'static str, error: &::catalog::Error, unreachable: &mut Option<String>) -> Part {
    let mut part = Part::new(name, name);
    part.see("not seen");
    if let ::catalog::Error::Unreachable(_) = error {
        *unreachable = unreachable.take().or(Some(error.to_string()));
        part.error(
            error.to_string(),
            "start the catalog's Postgres, or promote its standby; clients go on meanwhile (docs/catalog.md)",
        );
    } else {
        part.error(
            format!("the catalog is damaged: {error}"),
            "tenantry map rebuild; if a table is gone, drop the catalog's database first (docs/recovery.md)",
        );
    }
    part
}
