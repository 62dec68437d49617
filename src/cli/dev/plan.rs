//! What a fleet shall look like: decided from the flags, the last start and the declaration, before anything is done.

use std::path::PathBuf;

use shard_map::ServerClass;
use shard_map::fleet::{DeclaredServer, DeclaredUser, Fleet};

use super::DevArgs;
use super::layout::{Layout, Settings, random_password};
use super::ports;
use super::postgres::Instance;
use crate::cli::failure::Failure;

/// The declaration: classes, sizes and the user.
const DECLARED: &str = include_str!("../../../shard-map/examples/dev.toml");
const CATALOG_CONNECTIONS: u32 = 60;
/// Database of the catalog.
pub(crate) const CATALOG_DATABASE: &str = "tenantry_catalog";

const ROUTER_PORT: u16 = 6432;
const API_PORT: u16 = 7432;
const BASE_PORT: u16 = 7500;
const SERVERS: u16 = 3;

/// A whole fleet.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) catalog: Instance,
    pub(crate) servers: Vec<PlannedServer>,
    pub(crate) user: DeclaredUser,
    pub(crate) tenants_per_server_max: u32,
    /// Prepared databases that each shared server keeps.
    pub(crate) stock: u32,
}

/// A server, and what the shard map is told about it.
#[derive(Debug)]
pub(crate) struct PlannedServer {
    pub(crate) declared: DeclaredServer,
    pub(crate) instance: Instance,
}

/// What to start with: flags first, then what was there last time, then defaults.
pub(crate) fn settle(args: &DevArgs, last: Option<Settings>) -> anyhow::Result<Settings> {
    let servers = args.servers.or(last.map(|last| last.servers)).unwrap_or(SERVERS);
    if let Some(last) = last.filter(|last| last.servers > servers) {
        return Err(Failure::usage(format!(
            "this fleet has {} servers, and tenants may live on all of them",
            last.servers
        ))
        .hint("give at least as many with --servers, or start with a new --dir")
        .into());
    }
    let base_port = args.base_port.or(last.map(|last| last.base_port)).unwrap_or(BASE_PORT);
    if base_port.checked_add(servers).is_none() {
        return Err(
            Failure::usage(format!("--base-port {base_port} leaves no room for {servers} servers")).into()
        );
    }
    let router_port = args.router_port.or(last.map(|last| last.router_port)).unwrap_or(ROUTER_PORT);
    let api_port = args.api_port.or(last.map(|last| last.api_port)).unwrap_or(API_PORT);
    // Nobody relies on this one but through DIR/env, so a taken one is no error.
    let metrics_port = args.metrics_port.or_else(|| {
        let mut spoken_for = vec![router_port, api_port];
        spoken_for.extend(base_port..=base_port + servers);
        let first = last.map_or(api_port.saturating_add(1), |last| last.metrics_port);
        ports::free_from(first, &spoken_for)
    });
    let metrics_port = metrics_port.ok_or_else(|| {
        Failure::failed("no free port was found for the router's metrics")
            .hint("give one with --metrics-port")
    })?;
    Ok(Settings { servers, router_port, api_port, metrics_port, base_port })
}

/// Fails when programs are given for a server that is not there.
pub(crate) fn check_servers(settings: &Settings, given: &[(String, PathBuf)]) -> Result<(), Failure> {
    let is_there = |name: &str| (1..=settings.servers).any(|i| name == format!("pg-{i}"));
    match given.iter().find(|(name, _)| !is_there(name)) {
        Some((name, _)) => Err(Failure::usage(format!("--server-pg-bin: there is no server {name}"))
            .hint(format!("the servers are pg-1 to pg-{}", settings.servers))),
        None => Ok(()),
    }
}

/// Fails when a port is in use. Asked before anything is started.
pub(crate) fn check_ports(settings: &Settings) -> Result<(), Failure> {
    let names: Vec<String> = (1..=settings.servers).map(|i| format!("pg-{i}")).collect();
    let mut wanted = vec![
        (settings.router_port, "router", "--router-port"),
        (settings.api_port, "API", "--api-port"),
        (settings.metrics_port, "router metrics", "--metrics-port"),
        (settings.base_port, "catalog", "--base-port"),
    ];
    let servers = names.iter().zip(settings.base_port + 1..);
    wanted.extend(servers.map(|(name, port)| (port, name.as_str(), "--base-port")));
    ports::check(&wanted)
}

/// Works the whole fleet out; makes the secrets that are not there yet.
pub(crate) fn plan(layout: &Layout, settings: Settings) -> anyhow::Result<Plan> {
    let declared = Fleet::parse(DECLARED)?;
    let of_class = |class: ServerClass| {
        declared.servers.iter().find(|server| server.class == class).cloned().ok_or_else(|| {
            anyhow::anyhow!("the declaration of the fleet has no {class:?} server") // a defect, caught by a test
        })
    };
    let (shared, dedicated) = (of_class(ServerClass::Shared)?, of_class(ServerClass::Dedicated)?);
    let user = declared.users.first().cloned();
    let user = user.ok_or_else(|| anyhow::anyhow!("the declaration of the fleet has no user"))?;
    let instance = |name: &str, index: u16, max_connections: u32| -> anyhow::Result<Instance> {
        Ok(Instance {
            name: name.to_owned(),
            home: layout.path(name),
            port: settings.base_port + index,
            max_connections,
            password: layout.secret(&format!("{name}.password"), random_password)?,
            log: layout.log(name),
        })
    };
    let mut servers = Vec::new();
    for index in 1..=settings.servers {
        let is_last = index == settings.servers && settings.servers > 1;
        let name = format!("pg-{index}");
        let instance =
            instance(&name, index, if is_last { dedicated.max_connections } else { shared.max_connections })?;
        let like = if is_last { &dedicated } else { &shared };
        let declared = DeclaredServer { name: name.parse()?, port: instance.port, ..like.clone() };
        servers.push(PlannedServer { declared, instance });
    }
    let catalog = instance("catalog", 0, CATALOG_CONNECTIONS)?;
    let tenants_per_server_max = declared.placement.tenants_per_server_max;
    Ok(Plan { settings, catalog, servers, user, tenants_per_server_max, stock: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> DevArgs {
        DevArgs {
            dir: "x".into(),
            servers: None,
            router_port: None,
            api_port: None,
            metrics_port: None,
            pg_bin: None,
            server_pg_bin: Vec::new(),
            stock: 0,
            base_port: None,
        }
    }

    #[test]
    fn flags_win_over_the_last_start_which_wins_over_defaults() {
        let first = settle(&args(), None).unwrap();
        assert_eq!(
            (first.servers, first.router_port, first.api_port, first.base_port),
            (3, 6432, 7432, 7500)
        );
        let last = Settings { servers: 2, router_port: 1000, ..first };
        let again = settle(&DevArgs { api_port: Some(1001), ..args() }, Some(last)).unwrap();
        assert_eq!((again.servers, again.router_port, again.api_port), (2, 1000, 1001));
    }

    #[test]
    fn a_fleet_does_not_lose_servers() {
        let last = settle(&args(), None).unwrap();
        let error = settle(&DevArgs { servers: Some(2), ..args() }, Some(last)).unwrap_err();
        assert!(error.to_string().contains("has 3 servers"), "{error}");
        assert!(settle(&DevArgs { base_port: Some(65_534), ..args() }, None).is_err());
    }

    #[test]
    fn the_last_server_is_dedicated_unless_it_is_the_only_one() {
        let dir = std::env::temp_dir().join(format!("tenantry-plan-{:016x}", rand::random::<u64>()));
        let layout = Layout::open(&dir).unwrap();
        for servers in [1, 2, 4] {
            let settings = Settings { servers, ..settle(&args(), None).unwrap() };
            let plan = plan(&layout, settings).unwrap();
            let dedicated: Vec<_> =
                plan.servers.iter().map(|s| s.declared.class == ServerClass::Dedicated).collect();
            let expected: Vec<_> = (1..=servers).map(|i| i == servers && servers > 1).collect();
            assert_eq!(dedicated, expected);
            assert_eq!(plan.servers[0].instance.url("db").split('@').nth(1), Some("127.0.0.1:7501/db"));
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
