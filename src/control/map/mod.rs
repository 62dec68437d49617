//! The shard map held against what is on the servers, and set right: `map verify`, `rebuild`, `import`, `export`, `apply`.
//!
//! What follows from what is seen is decided in `shard_map::recovery`, as plain values; here servers are read, fenced and
//! the catalog written. It needs the catalog's URL and the master key, and no control plane that leads: the command
//! line does the same by itself when there is none.

mod repair;
mod survey;
mod verify;
pub(crate) mod watch;

use catalog::Catalog;
use serde::Serialize;
use shard_map::Server;
use shard_map::fleet::Fleet;
use shard_map::recovery::{
    CatalogView, Finding, MapFile, Refused, Sources, Step, declare, find, import, rebuild,
};

use crate::config::{ControlConfig, Secrets};
use crate::error::{Error, Result};
use crate::server::Connector;
use repair::{Decision, How};

/// What works on the map. Cheap to clone.
#[derive(Clone)]
pub struct MapTools {
    catalog: Catalog,
    connector: Connector,
    /// Where the catalog is to be made if it is not there; `None` for who has no business making it.
    url: Option<String>,
    keep_sealed_s: u64,
}

/// A plan, and whether it was carried out.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Whether it was.
    pub applied: bool,
    /// What changes.
    pub steps: Vec<Step>,
    /// Differences that stay.
    pub left: Vec<Finding>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

impl MapTools {
    /// Tools that need no control plane.
    ///
    /// # Errors
    /// When the catalog's URL can't be read.
    pub fn new(config: &ControlConfig, secrets: &Secrets) -> Result<Self> {
        let catalog = Catalog::new(&secrets.catalog_url, &prometheus::Registry::new())?;
        let connector = Connector::new(secrets.master_key.clone(), config.server_tls());
        let url = Some(secrets.catalog_url.clone());
        Ok(Self { catalog, connector, url, keep_sealed_s: config.reverse_window.as_secs() })
    }

    /// Tools of a control plane that runs.
    pub(crate) fn of_control(catalog: Catalog, connector: Connector, config: &ControlConfig) -> Self {
        Self { catalog, connector, url: None, keep_sealed_s: config.reverse_window.as_secs() }
    }

    /// What one server has otherwise than the catalog, as it is at this address.
    pub(crate) async fn differences_of(&self, server: Server) -> Result<Vec<Finding>> {
        let name = server.name.clone();
        let survey = survey::look(&self.connector, vec![server], 1).await;
        let view = verify::view(self, &verify::move_numbers(&survey)).await?;
        let mut findings = find(&view, &survey);
        findings.retain(|finding| finding.server.as_ref() == Some(&name));
        Ok(findings)
    }

    /// These files, if they name servers that the catalog does not have. Else none: verifying takes nothing but servers from
    /// them.
    pub(crate) async fn beyond_catalog(&self, sources: Sources) -> Result<Sources> {
        let names_others = sources.name_others(&verify::view(self, &[]).await?);
        Ok(if names_others { sources } else { Sources::default() })
    }

    /// Each difference between the catalog, the registries and the servers' databases. `sources` may name servers that
    /// the catalog lost.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn verify(&self, sources: &Sources) -> Result<Vec<Finding>> {
        verify::verify(self, sources, survey::COMMAND_SERVERS_AT_ONCE).await
    }

    /// The map as a file.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn export(&self) -> Result<MapFile> {
        Ok(MapFile::of(&self.catalog.recovery_view(&[]).await?))
    }

    /// Makes the catalog what the registries say. Without `apply`, only says what that would be.
    ///
    /// # Errors
    /// When the catalog can't be reached, or another repair is under way; [`Error::Refused`] when there would be no users
    /// and `sources` does not say that this is meant.
    pub async fn rebuild(&self, sources: &Sources, apply: bool) -> Result<Outcome> {
        let decide = |catalog: &CatalogView, survey: &_| {
            let (changes, left, notes) = rebuild(catalog, survey, sources);
            let nobody = catalog.users.is_empty() && changes.users.is_empty();
            // Routers that run know the users, until they load a map that has none.
            if apply && changes.version_above.is_some() && nobody && !sources.without_users {
                return Err(Error::refused(
                    "the map would have no users: routers would let nobody in",
                    USERS_HINT,
                ));
            }
            Ok(Decision { changes, left, notes })
        };
        let servers = |catalog: &CatalogView| sources.servers(catalog);
        repair::carry_out(self, &servers, &decide, How { write: apply, fenced: true }).await
    }

    /// Makes the catalog what a file says, as far as the registries agree.
    ///
    /// # Errors
    /// [`Error::Refused`] when they do not; nothing is changed then.
    pub async fn import(&self, file: &MapFile, dry_run: bool) -> Result<Outcome> {
        let sources = Sources { file: Some(file.clone()), ..Sources::default() };
        let decide = |catalog: &CatalogView, survey: &_| {
            let changes = import(catalog, survey, file).map_err(|refused| refusal(&refused, IMPORT_HINT))?;
            Ok(Decision { changes, left: Vec::new(), notes: Vec::new() })
        };
        let servers = |catalog: &CatalogView| sources.servers_as_given(catalog);
        repair::carry_out(self, &servers, &decide, How { write: !dry_run, fenced: true }).await
    }

    /// Makes servers, policies and users what a file declares. What it does not declare stays.
    ///
    /// # Errors
    /// [`Error::Refused`] when a server can't be what it is declared to be; nothing is changed then.
    pub async fn apply(&self, fleet: &Fleet, dry_run: bool) -> Result<Outcome> {
        let sources = Sources { declared: Some(fleet.clone()), ..Sources::default() };
        let decide = |catalog: &CatalogView, survey: &_| {
            let (changes, notes) =
                declare(catalog, survey, fleet).map_err(|refused| refusal(&refused, APPLY_HINT))?;
            Ok(Decision { changes, left: Vec::new(), notes })
        };
        // Only those that are to change are asked: a server that is down is no reason to give no user.
        let servers = |catalog: &CatalogView| {
            let unchanged = |server: &shard_map::Server| {
                catalog.servers.get(&server.name).is_some_and(|known| known.server == *server)
            };
            let mut servers = sources.servers_as_given(catalog);
            servers.retain(|server| !unchanged(server));
            servers
        };
        repair::carry_out(self, &servers, &decide, How { write: !dry_run, fenced: false }).await
    }
}

const USERS_HINT: &str = "give a router's snapshot or an exported map with --snapshot; or say --without-users, and make them afterwards";
const IMPORT_HINT: &str =
    "take placements from the servers, and only the rest from the file: tenantry map rebuild --snapshot FILE";
const APPLY_HINT: &str = "arm a new server first: tenantry server add NAME --url postgres://…";

fn refusal(refused: &Refused, hint: &str) -> Error {
    Error::refused(refused.to_string(), hint)
}
