//! Everything that is looked at before a run, and the verdict.

use std::collections::BTreeMap;
use std::sync::Arc;

use refinery::Migration;
use shard_map::{Tenant, TenantId, TenantState};

use super::files::{Input, Migrations};
use super::history::Drift;
use super::plan::{self, Plan};
use super::survey::{Look, Surveyed, survey};
use super::trial;
use crate::context::Context;
use crate::error::{Error, Result};

/// What was found.
pub(crate) struct Examined {
    pub(crate) migrations: Migrations,
    pub(crate) tenants: Vec<Tenant>,
    surveyed: Surveyed,
    /// Why the run must not begin: file, line and reason.
    pub(crate) refusal: Option<String>,
    /// What the trial came to, in words.
    pub(crate) trial: String,
    trial_ms: Option<f64>,
}

/// Looks at the files, the tenants and their databases.
///
/// # Errors
/// [`Error::Usage`] when the files contradict themselves, [`Error::NotFound`] when no tenant is meant.
pub(crate) async fn examine(context: &Arc<Context>, input: &Input, look: Look) -> Result<Examined> {
    let migrations = input.check()?;
    let rows = context.catalog.tenants(None, &input.selector).await?.into_iter();
    let tenants: Vec<Tenant> =
        rows.map(|row| row.tenant).filter(|tenant| tenant.state != TenantState::Deleted).collect();
    if tenants.is_empty() && !input.selector.is_all() {
        return Err(Error::NotFound(format!("no tenant matches {}", input.selector)));
    }
    let surveyed = survey(context, &tenants, look).await?;
    let mut examined = Examined {
        refusal: match plan::contradiction(&surveyed, &migrations) {
            Some(drift) => Some(place(context, &drift, &migrations, &surveyed).await?),
            None => None,
        },
        migrations,
        tenants,
        surveyed,
        trial: String::new(),
        trial_ms: None,
    };
    try_files(context, &mut examined).await;
    Ok(examined)
}

/// The trial. That it can't be made is no reason to refuse: the canaries come first.
async fn try_files(context: &Arc<Context>, examined: &mut Examined) {
    if examined.refusal.is_some() {
        examined.trial = "not made".to_owned();
        return;
    }
    let Some(tenant) = plan::model(&examined.tenants, &examined.surveyed, &examined.migrations).cloned()
    else {
        examined.trial = "not made: there is no tenant to try them on".to_owned();
        return;
    };
    let applied = match examined.surveyed.get(&tenant.id) {
        Some(Ok(found)) => found.applied.clone(),
        _ => Vec::new(),
    };
    if super::history::version(&applied) == Some(examined.migrations.version()) {
        examined.trial = "not needed: nothing is pending".to_owned();
        return;
    }
    let (context, migrations) = (context.clone(), examined.migrations.clone());
    let name = tenant.id.clone();
    // To its end also when whoever asked is gone: the copy has to be dropped.
    let trial = tokio::spawn(async move {
        let server = context.server(&tenant.server).await?;
        trial::run(&context, (&server, &tenant), &applied, &migrations).await
    });
    match trial.await.unwrap_or_else(|e| Err(Error::Failed(e.to_string()))) {
        Ok(outcome) => {
            examined.trial =
                format!("made on a copy of {name}'s schema, in {:.1} s", outcome.took.as_secs_f64());
            examined.trial_ms = Some(outcome.took.as_secs_f64() * 1000.0);
            examined.refusal = outcome.refusal;
        }
        Err(error) => {
            tracing::warn!(%error, "migrations could not be tried before the run");
            examined.trial = format!("not made: {error}");
        }
    }
}

/// A contradiction with its file and line.
async fn place(
    context: &Context,
    drift: &Drift,
    migrations: &Migrations,
    surveyed: &Surveyed,
) -> Result<String> {
    let step = |file: &str| migrations.steps.iter().find(|step| step.name == file);
    Ok(match drift {
        Drift::Changed { file } => {
            let Some(step) = step(file) else { return Ok(drift.to_string()) };
            let ran = surveyed.values().filter_map(|found| found.as_ref().ok()).flat_map(|f| &f.applied);
            let sums: Vec<&str> =
                ran.filter(|row| row.version == step.version()).map(|row| row.checksum.as_str()).collect();
            let earlier =
                context.catalog.earlier_files(step.version()).await?.into_iter().find(|(name, sql)| {
                    let stem = name.strip_suffix(".sql").unwrap_or(name);
                    let migration = Migration::unapplied(stem, sql);
                    migration.is_ok_and(|m| sums.contains(&m.checksum().to_string().as_str()))
                });
            let line = earlier.map_or(1, |(_, sql)| plan::first_difference(&sql, step.sql()));
            step.at(line, "is different from the one that ran: undo the change, and put it into a new file")
        }
        Drift::Missing { file } => match step(file) {
            Some(step) => step.at(1, "is older than what ran everywhere: give it a version after those"),
            None => drift.to_string(),
        },
        Drift::Unknown { migration } => {
            format!("{migration}.sql:1: ran at all tenants and is not in the directory: put it back")
        }
        Drift::Unreadable { .. } => drift.to_string(),
    })
}

impl Examined {
    /// The plan, with what is under way at tenants.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub(crate) async fn plan(self, context: &Context, input: &Input) -> Result<Plan> {
        let mut refused = self.refusal;
        let mut conflicts: BTreeMap<TenantId, String> = BTreeMap::new();
        for operation in context.catalog.open_operations().await? {
            if operation.state != "running" {
                continue;
            }
            let what = format!("operation {} ({}) is under way", operation.id, operation.kind.as_str());
            match operation.tenant {
                Some(tenant) => drop(conflicts.insert(tenant, what)),
                None => {
                    refused.get_or_insert(format!("migration run {} is under way", operation.id));
                }
            }
        }
        let tenants = plan::tenants(&self.tenants, &self.surveyed, &self.migrations, input, &conflicts);
        let usual = context.catalog.usual_turn_ms().await?.or(self.trial_ms);
        let (versions, waves) = plan::counts(&tenants);
        Ok(Plan {
            version: self.migrations.version(),
            refused,
            trial: self.trial,
            versions,
            waves,
            estimate_s: plan::estimate_s(&tenants, input.per_server, usual),
            tenants,
        })
    }
}
