//! The parts of a fleet, in the order in which they start, and the other way round when they stop.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};
use shard_map::policy::PlacementPolicy;
use tokio::sync::watch;

use super::env_file::{self, Variables};
use super::host::Host;
use super::layout::{Layout, random_key, random_password, write_private};
use super::plan::{CATALOG_DATABASE, Plan};
use super::postgres::Instance;
use super::supervisor::{self, Part, Spec};
use crate::cli::api::Api;
use crate::cli::failure::{Exit, Failure};

/// How long the control plane and the router may take until they serve. A lease of a killed control plane runs out
/// first.
const SERVE_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Exits of a router or control plane during start-up after which it is given up.
const EXITS_MAX: u32 = 3;

/// What runs.
#[derive(Default)]
pub(crate) struct Parts {
    servers: Vec<Part>,
    control: Option<Part>,
    router: Option<Part>,
}

/// What is started, on what.
pub(crate) struct Fleet<'a> {
    pub(crate) host: &'a Host,
    pub(crate) layout: &'a Layout,
    pub(crate) plan: &'a Plan,
}

impl Parts {
    /// Stops all: the router first, so that its clients end well, and the servers last.
    pub(crate) async fn stop(self, hurry: &watch::Receiver<bool>) {
        supervisor::stop_all(self.router.into_iter().collect(), hurry).await;
        supervisor::stop_all(self.control.into_iter().collect(), hurry).await;
        supervisor::stop_all(self.servers, hurry).await;
    }
}

impl Fleet<'_> {
    /// Starts everything, and returns when it serves. What has been started is in `parts`, however this ends.
    pub(crate) async fn start(&self, parts: &mut Parts) -> anyhow::Result<()> {
        self.prepare_servers().await?;
        for instance in self.instances() {
            parts.servers.push(self.start_server(instance));
        }
        for (instance, part) in self.instances().zip(&parts.servers) {
            instance.wait_ready(part).await?;
        }
        eprintln!("{} servers and the catalog run", self.plan.servers.len());
        let made = self.make_catalog().await?;
        let token = self.layout.secret("token", random_password)?;
        self.write_control_config()?;
        let declared = self.layout.path("fleet.toml");
        let lost = made && declared.exists();
        self.write_declaration(&declared)?;
        if lost {
            eprintln!("the catalog is gone: making it anew from the servers");
            let (config, snapshot) = (self.layout.path("control.toml"), self.layout.path("router/snapshot"));
            crate::cli::map::make_anew(&config, &declared, &snapshot).await?;
        }
        let control = parts.control.insert(self.start_own("control", supervisor::CONTROL_ENDING));
        let api = Api::at(&self.api_url(), Some(token))?;
        wait_for(control, self.layout, "control", async || api.ready("healthz").await).await?;
        // From here on it may still wait for the lease of one that was killed; until then it answers 503.
        wait_for(control, self.layout, "control", async || self.add_servers(&api).await).await?;
        wait_for(control, self.layout, "control", async || self.make_user(&api).await).await?;
        self.write_router_config()?;
        let router = parts.router.insert(self.start_own("router", supervisor::ROUTER_ENDING));
        let metrics = Api::at(&format!("http://127.0.0.1:{}", self.plan.settings.metrics_port), None)?;
        wait_for(router, self.layout, "router", async || metrics.ready("readyz").await).await
    }

    /// The catalog, then the servers.
    fn instances(&self) -> impl Iterator<Item = &Instance> {
        std::iter::once(&self.plan.catalog).chain(self.plan.servers.iter().map(|server| &server.instance))
    }

    async fn prepare_servers(&self) -> anyhow::Result<()> {
        let mut making = tokio::task::JoinSet::new();
        for instance in self.instances() {
            let (host, instance) = (self.host.of_server(&instance.name), instance.clone());
            making.spawn(async move { instance.prepare(&host).await });
        }
        while let Some(outcome) = making.join_next().await {
            outcome??;
        }
        Ok(())
    }

    fn start_server(&self, instance: &Instance) -> Part {
        let (name, log) = (instance.name.clone(), instance.log.clone());
        let (host, instance) = (self.host.of_server(&instance.name), instance.clone());
        let launch = Box::new(move || instance.launch(&host));
        Part::start(Spec { name, log, ending: supervisor::POSTGRES_ENDING, launch })
    }

    fn start_own(&self, role: &'static str, ending: supervisor::Ending) -> Part {
        let (host, config) = (self.host.clone(), self.layout.path(&format!("{role}.toml")));
        let config = config.to_string_lossy().into_owned();
        let launch = Box::new(move || Ok(host.own(&[role, "--config", &config])));
        Part::start(Spec { name: role.to_owned(), log: self.layout.log(role), ending, launch })
    }

    /// Makes the catalog's database if it is not there. Returns whether it did.
    async fn make_catalog(&self) -> anyhow::Result<bool> {
        let client =
            self.plan.catalog.connect("postgres").await.context("connecting to the catalog's server")?;
        let exists = client
            .query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&CATALOG_DATABASE])
            .await
            .context("looking for the catalog")?;
        if exists.is_none() {
            let sql = format!("CREATE DATABASE {CATALOG_DATABASE}");
            client.batch_execute(&sql).await.context("making the catalog")?;
        }
        Ok(exists.is_none())
    }

    fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.plan.settings.api_port)
    }

    /// Configuration that both roles need: where the catalog and the keys are.
    fn common_config(&self) -> anyhow::Result<toml::Table> {
        self.layout.secret("master_key", random_key)?;
        let catalog_url = self.layout.secret_path("catalog_url");
        write_private(&catalog_url, &self.plan.catalog.url(CATALOG_DATABASE))?;
        let mut table = toml::Table::new();
        insert_path(&mut table, "catalog_url_file", &catalog_url);
        insert_path(&mut table, "master_key_file", &self.layout.secret_path("master_key"));
        Ok(table)
    }

    fn write_control_config(&self) -> anyhow::Result<()> {
        let mut table = self.common_config()?;
        let listen = format!("127.0.0.1:{}", self.plan.settings.api_port);
        table.insert("listen".to_owned(), listen.into());
        table.insert("name".to_owned(), "control-1".into());
        table.insert("tenants_per_server_max".to_owned(), i64::from(self.plan.tenants_per_server_max).into());
        table.insert("stock_per_server".to_owned(), i64::from(self.plan.stock).into());
        insert_path(&mut table, "token_file", &self.layout.secret_path("token"));
        insert_path(&mut table, "pg_bin", &self.host.bin);
        insert_path(&mut table, "work_dir", &self.layout.path("control"));
        write_config(&self.layout.path("control.toml"), &table)
    }

    fn write_router_config(&self) -> anyhow::Result<()> {
        let settings = &self.plan.settings;
        let mut table = self.common_config()?;
        table.insert("listen".to_owned(), format!("127.0.0.1:{}", settings.router_port).into());
        table.insert("metrics_listen".to_owned(), format!("127.0.0.1:{}", settings.metrics_port).into());
        table.insert("name".to_owned(), "router-1".into());
        table.insert("shutdown_timeout".to_owned(), "8s".into());
        // Everybody here comes from one address.
        table.insert("login_failures_per_address_max".to_owned(), 0.into());
        table.insert("admin_users".to_owned(), vec![self.plan.user.name.clone()].into());
        insert_path(&mut table, "snapshot_file", &self.layout.path("router").join("snapshot"));
        write_config(&self.layout.path("router.toml"), &table)
    }

    /// Tells the control plane of servers that it does not have yet, or has elsewhere.
    async fn add_servers(&self, api: &Api) -> anyhow::Result<()> {
        let known = api.list(&["v1", "servers"], &[]).await?;
        for server in &self.plan.servers {
            let declared = &server.declared;
            let mut known = known.as_array().into_iter().flatten();
            let known = known.find(|known| known["name"] == declared.name.as_str());
            let is_there =
                |known: &Value| known["host"] == declared.host.as_str() && known["port"] == declared.port;
            if known.is_some_and(is_there) {
                continue;
            }
            let body = json!({
                "name": declared.name,
                "url": server.instance.url("postgres"),
                "class": declared.class,
                "max_connections": declared.max_connections,
                "labels": declared.labels,
            });
            let added = api.post(&["v1", "servers"], &body).await;
            let Err(error) = added.with_context(|| format!("adding {}", declared.name)) else { continue };
            // It was failed over to a server that is none of these.
            let is_refused = error.downcast_ref::<Failure>().is_some_and(|f| f.exit == Exit::Refused);
            if known.is_none() || !is_refused {
                return Err(error);
            }
            eprintln!("{} stays where the map has it: {error:#}", declared.name);
        }
        Ok(())
    }

    async fn make_user(&self, api: &Api) -> anyhow::Result<()> {
        let (user, password) = (&self.plan.user, self.user_password()?);
        let users = api.list(&["v1", "users"], &[]).await?;
        if users.as_array().into_iter().flatten().any(|known| known["name"] == user.name.as_str()) {
            return Ok(());
        }
        let mut body = serde_json::to_value(user)?;
        body["password"] = Value::String(password);
        api.post(&["v1", "users"], &body).await.context("making the router user")?;
        Ok(())
    }

    /// The fleet as it is declared: what `map rebuild` finds the servers by when the catalog is lost.
    fn write_declaration(&self, path: &Path) -> anyhow::Result<()> {
        let declared = shard_map::fleet::Fleet {
            placement: PlacementPolicy {
                tenants_per_server_max: self.plan.tenants_per_server_max,
                ..PlacementPolicy::default()
            },
            servers: self.plan.servers.iter().map(|server| server.declared.clone()).collect(),
            users: vec![self.plan.user.clone()],
        };
        let text = toml::to_string(&declared)?;
        let head = "# The fleet as `tenantry dev` declared it. Written at each start.\n";
        write_private(path, &format!("{head}{text}"))
    }

    fn user_password(&self) -> anyhow::Result<String> {
        self.layout.secret("user.password", random_password)
    }

    /// Writes what a shell needs to use the fleet.
    pub(crate) fn write_env(&self) -> anyhow::Result<()> {
        let settings = &self.plan.settings;
        let mut variables: Variables = Vec::new();
        let mut export = |name: &str, value: String| variables.push((name.to_owned(), value));
        export("TENANTRY_API", self.api_url());
        export("TENANTRY_TOKEN", self.layout.secret("token", random_password)?);
        export("TENANTRY_ROUTER_HOST", "127.0.0.1".to_owned());
        export("TENANTRY_ROUTER_PORT", settings.router_port.to_string());
        export("TENANTRY_ROUTER_METRICS_PORT", settings.metrics_port.to_string());
        export("TENANTRY_USER", self.plan.user.name.clone());
        export("TENANTRY_PASSWORD", self.user_password()?);
        export("TENANTRY_CATALOG_URL", self.plan.catalog.url(CATALOG_DATABASE));
        for (server, i) in self.plan.servers.iter().zip(1..) {
            export(&format!("TENANTRY_SERVER_{i}"), server.instance.name.clone());
            export(&format!("TENANTRY_SERVER_{i}_URL"), server.instance.url("postgres"));
        }
        let path = |name: &str| self.layout.path(name).to_string_lossy().into_owned();
        export("TENANTRY_MAP_CONFIG", path("control.toml"));
        export("TENANTRY_MAP_FILE", path("fleet.toml"));
        export("TENANTRY_MAP_SNAPSHOT", path("router/snapshot"));
        env_file::write(&self.layout.path("env"), &variables)
    }
}

fn insert_path(table: &mut toml::Table, key: &str, path: &Path) {
    table.insert(key.to_owned(), path.to_string_lossy().into_owned().into());
}

fn write_config(path: &Path, table: &toml::Table) -> anyhow::Result<()> {
    let text = toml::to_string(table)?;
    write_private(path, &format!("# Written by `tenantry dev` at each start.\n{text}"))
}

/// Tries until it succeeds, as long as the part lives and nothing but time is missing.
async fn wait_for(
    part: &Part,
    layout: &Layout,
    name: &str,
    attempt: impl AsyncFn() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let Err(error) = attempt().await else { return Ok(()) };
        let may_pass = error.downcast_ref::<Failure>().is_some_and(|f| f.exit == Exit::Unreachable);
        if !may_pass {
            return Err(error);
        }
        if part.exits() >= EXITS_MAX || begun.elapsed() > SERVE_TIMEOUT {
            let log = layout.log(name);
            let last = super::postgres::last_line(&log).unwrap_or_else(|| format!("{error:#}"));
            return Err(Failure::failed(format!("{name} does not serve: {last}"))
                .hint(format!("its log is {}", log.display()))
                .into());
        }
        tokio::time::sleep(POLL).await;
    }
}
