//! What a run would do, and why it would be refused: decided on plain values, before anything is touched.

use std::collections::BTreeMap;

use serde::Serialize;
use shard_map::{ServerName, Tenant, TenantId};

use super::files::{Input, Migrations};
use super::history::{self, Applied, Drift};
use super::survey::{Found, Surveyed};
use super::waves;

/// What a tenant's turn takes when nothing is known of earlier ones, in milliseconds.
const TURN_MS: f64 = 50.0;
/// What a wave takes besides: looks at its servers, and the pauses between them.
const WAVE_MS: f64 = 1_000.0;

/// One tenant's part.
#[derive(Debug, Serialize)]
pub(crate) struct TenantPlan {
    pub(crate) tenant: TenantId,
    pub(crate) server: ServerName,
    pub(crate) state: &'static str,
    pub(crate) wave: i32,
    /// By its own history.
    pub(crate) schema_version: Option<i32>,
    /// What would run there.
    pub(crate) pending: Vec<String>,
    /// How its history differs from the directory: such a tenant is set aside when its turn comes.
    pub(crate) drift: Vec<String>,
    /// Whether its schema is another than that of the first tenant at the same version.
    pub(crate) schema_differs: bool,
    pub(crate) invalid_indexes: Vec<String>,
    /// What its turn would have to wait for.
    pub(crate) conflict: Option<String>,
}

/// What a run would do.
#[derive(Debug, Serialize)]
pub(crate) struct Plan {
    /// The version that it brings tenants to.
    pub(crate) version: i32,
    /// Why it would be refused.
    pub(crate) refused: Option<String>,
    /// What the trial of the files on a copy of a tenant's schema came to, in words.
    pub(crate) trial: String,
    /// How many tenants are at which version; `none` for those at which nothing ever ran.
    pub(crate) versions: BTreeMap<String, usize>,
    /// How many tenants are in which wave.
    pub(crate) waves: BTreeMap<i32, usize>,
    pub(crate) estimate_s: f64,
    pub(crate) tenants: Vec<TenantPlan>,
}

/// Each tenant's part. `conflicts` says what is under way at tenants.
pub(crate) fn tenants(
    all: &[Tenant],
    surveyed: &Surveyed,
    migrations: &Migrations,
    input: &Input,
    conflicts: &BTreeMap<TenantId, String>,
) -> Vec<TenantPlan> {
    let ids = all.iter().map(|tenant| tenant.id.clone()).collect();
    let targets = waves::divide(ids, input.canary, &input.waves);
    // The first tenant of each version is the model of that version: a canary, where one has it.
    let mut models: BTreeMap<Option<i32>, Option<&str>> = BTreeMap::new();
    let empty = Found::default();
    let mut plans = Vec::with_capacity(all.len());
    for (tenant, target) in all.iter().zip(targets) {
        let (found, unknown) = match surveyed.get(&tenant.id) {
            Some(Ok(found)) => (found, None),
            Some(Err(why)) => (&empty, Some(why.clone())),
            None => (&empty, None),
        };
        let version = history::version(&found.applied);
        let drift = history::drift(&found.applied, migrations);
        let shape = found.shape.as_deref();
        if shape.is_some() {
            models.entry(version).or_insert(shape);
        }
        let model = models.get(&version).copied().flatten();
        let pending = migrations.list.iter().filter(|m| version.is_none_or(|at| m.version() > at));
        plans.push(TenantPlan {
            tenant: tenant.id.clone(),
            server: tenant.server.clone(),
            state: tenant.state.as_str(),
            wave: target.wave,
            schema_version: version,
            pending: pending.map(ToString::to_string).collect(),
            drift: drift.iter().map(ToString::to_string).collect(),
            schema_differs: shape.is_some() && shape != model,
            invalid_indexes: found.invalid_indexes.clone(),
            conflict: unknown.or_else(|| conflicts.get(&tenant.id).cloned()),
        });
    }
    plans
}

/// How long a run would take, in seconds: each wave as long as its slowest server.
pub(crate) fn estimate_s(tenants: &[TenantPlan], per_server: usize, turn_ms: Option<f64>) -> f64 {
    let mut counts: BTreeMap<i32, BTreeMap<&ServerName, usize>> = BTreeMap::new();
    for tenant in tenants.iter().filter(|tenant| !tenant.pending.is_empty()) {
        *counts.entry(tenant.wave).or_default().entry(&tenant.server).or_default() += 1;
    }
    let turn_ms = turn_ms.unwrap_or(TURN_MS);
    let wave_ms = |servers: &BTreeMap<&ServerName, usize>| {
        let longest = servers.values().max().copied().unwrap_or(0);
        longest.div_ceil(per_server.max(1)) as f64 * turn_ms + WAVE_MS
    };
    // Of no waves, the sum is a negative zero.
    (counts.values().map(wave_ms).fold(0.0, |sum, ms| sum + ms) / 100.0).ceil() / 10.0
}

/// What contradicts the directory everywhere, so that the directory is wrong: nobody has run this file as it is, or all
/// have run what is not in it. What only some tenants contradict is their own drift.
pub(crate) fn contradiction(surveyed: &Surveyed, migrations: &Migrations) -> Option<Drift> {
    let histories: Vec<(&[Applied], Vec<Drift>)> = surveyed
        .values()
        .filter_map(|found| found.as_ref().ok())
        .filter(|found| !found.applied.is_empty())
        .map(|found| (found.applied.as_slice(), history::drift(&found.applied, migrations)))
        .collect();
    let mut kinds: Vec<&Drift> = Vec::new();
    for (_, found) in &histories {
        // What ran there and is nowhere else says nothing about files before it.
        let ahead = found.iter().any(|drift| matches!(drift, Drift::Unknown { .. }));
        let telling = found.iter().filter(|drift| !ahead || !matches!(drift, Drift::Missing { .. }));
        for drift in telling {
            if !kinds.contains(&drift) {
                kinds.push(drift);
            }
        }
    }
    let ran = |applied: &[Applied], file: &str| {
        let step = migrations.steps.iter().find(|step| step.name == file);
        step.is_some_and(|step| applied.iter().any(|row| row.version == step.version()))
    };
    let everywhere = |drift: &Drift| match drift {
        Drift::Changed { file } => {
            histories.iter().all(|(applied, found)| !ran(applied, file) || found.contains(drift))
        }
        Drift::Unknown { .. } => histories.iter().all(|(_, found)| found.contains(drift)),
        Drift::Missing { file } => histories.iter().all(|(applied, _)| !ran(applied, file)),
        Drift::Unreadable { .. } => false,
    };
    kinds.into_iter().find(|drift| everywhere(drift)).cloned()
}

/// The tenant on whose schema the files are tried: of those without drift, the first of the lowest version, where most
/// is to be run.
pub(crate) fn model<'t>(
    tenants: &'t [Tenant],
    surveyed: &Surveyed,
    migrations: &Migrations,
) -> Option<&'t Tenant> {
    let version = |tenant: &&Tenant| match surveyed.get(&tenant.id) {
        Some(Ok(found)) if history::drift(&found.applied, migrations).is_empty() => {
            Some(history::version(&found.applied))
        }
        _ => None,
    };
    tenants.iter().filter(|tenant| version(tenant).is_some()).min_by_key(|tenant| version(tenant).flatten())
}

/// How many tenants are at which version, and in which wave.
pub(crate) fn counts(tenants: &[TenantPlan]) -> (BTreeMap<String, usize>, BTreeMap<i32, usize>) {
    let (mut versions, mut waves) = (BTreeMap::new(), BTreeMap::new());
    for tenant in tenants {
        let version = tenant.schema_version.map_or_else(|| "none".to_owned(), |v| v.to_string());
        *versions.entry(version).or_default() += 1;
        *waves.entry(tenant.wave).or_default() += 1;
    }
    (versions, waves)
}

/// The first line, from 1, in which two texts differ.
pub(crate) fn first_difference(old: &str, new: &str) -> usize {
    old.lines().zip(new.lines()).take_while(|(old, new)| old == new).count() + 1
}

#[cfg(test)]
mod tests {
    use shard_map::{Epoch, TenantState};

    use super::super::files::File;
    use super::*;

    fn files(names: &[&str]) -> Migrations {
        let file = |name: &&str| File { name: format!("{name}.sql"), sql: "SELECT 1".to_owned() };
        Migrations::read(&names.iter().map(file).collect::<Vec<_>>()).unwrap()
    }

    fn found(ran: &[&str], shape: &str) -> Found {
        let steps = if ran.is_empty() { Vec::new() } else { files(ran).steps };
        let row = |step: &super::super::files::Step| Applied {
            version: step.version(),
            name: step.migration.name().to_owned(),
            applied_on: String::new(),
            checksum: step.migration.checksum().to_string(),
        };
        let applied = steps.iter().map(row).collect();
        Found { applied, shape: Some(shape.to_owned()), invalid_indexes: Vec::new() }
    }

    fn fleet(histories: &[(&str, &[&str], &str)]) -> (Vec<Tenant>, Surveyed) {
        let tenant = |id: &str, index: usize| Tenant {
            id: TenantId::new(id).unwrap(),
            server: format!("pg-{}", index % 2).parse().unwrap(),
            epoch: Epoch(1),
            state: TenantState::Open,
            labels: Default::default(),
            key_version: 1,
            schema_version: None,
            quota: None,
            read_only: false,
        };
        let tenants: Vec<_> = histories.iter().enumerate().map(|(i, (id, ..))| tenant(id, i)).collect();
        let surveyed = histories.iter().zip(&tenants);
        let surveyed = surveyed.map(|((_, ran, shape), tenant)| (tenant.id.clone(), Ok(found(ran, shape))));
        let surveyed = surveyed.collect();
        (tenants, surveyed)
    }

    fn input(canary: u32) -> Input {
        serde_json::from_value(serde_json::json!({ "files": [], "canary": canary })).unwrap()
    }

    #[test]
    fn it_tells_each_tenant_s_way_and_who_is_different() {
        let directory = files(&["V1__a", "V2__b"]);
        let (tenants, mut surveyed) = fleet(&[
            ("a", &["V1__a"], "x"),
            ("b", &["V1__a"], "y"),
            ("c", &[], "x"),
            ("d", &["V1__a", "V9__z"], "x"),
        ]);
        surveyed.insert(TenantId::new("c").unwrap(), Err("server pg-0 can't be reached".into()));
        let busy = BTreeMap::from([(TenantId::new("b").unwrap(), "operation 7 (move)".to_owned())]);
        let plans = super::tenants(&tenants, &surveyed, &directory, &input(1), &busy);
        assert_eq!(plans.iter().map(|plan| plan.wave).collect::<Vec<_>>(), [0, 1, 1, 1]);
        assert_eq!(
            (plans[0].schema_version, plans[0].pending.as_slice()),
            (Some(1), &["V2__b".to_owned()][..])
        );
        assert_eq!(
            plans.iter().map(|plan| plan.schema_differs).collect::<Vec<_>>(),
            [false, true, false, false]
        );
        assert!(plans[3].drift[0].contains("V9__z"), "{:?}", plans[3]);
        assert_eq!(plans[1].conflict.as_deref(), Some("operation 7 (move)"));
        assert!(plans[2].conflict.as_ref().unwrap().contains("pg-0"));
        assert_eq!(counts(&plans).0, BTreeMap::from([("1".into(), 2), ("9".into(), 1), ("none".into(), 1)]));
        // The wave of the canary, and one of two tenants at different servers with something pending.
        assert_eq!(estimate_s(&plans, 1, Some(500.0)), 3.0);
    }

    #[test]
    fn a_directory_that_nobody_agrees_with_is_wrong_and_a_tenant_that_nobody_agrees_with_has_drifted() {
        let directory = files(&["V1__a", "V2__b", "V3__c"]);
        let verdict = |histories: &[(&str, &[&str], &str)]| contradiction(&fleet(histories).1, &directory);
        assert_eq!(verdict(&[("a", &["V1__a"], ""), ("b", &[], "")]), None);
        let changed = verdict(&[("a", &["V1__old"], ""), ("b", &[], ""), ("c", &["V1__old", "V2__b"], "")]);
        assert_eq!(changed, Some(Drift::Changed { file: "V1__a.sql".into() }));
        assert_eq!(verdict(&[("a", &["V1__old"], ""), ("b", &["V1__a"], "")]), None);
        let unknown = verdict(&[("a", &["V1__a", "V9__z"], "")]);
        assert_eq!(unknown, Some(Drift::Unknown { migration: "V9__z".into() }));
        assert_eq!(verdict(&[("a", &["V1__a", "V9__z"], ""), ("b", &["V1__a"], "")]), None);
        let late = verdict(&[("a", &["V1__a", "V3__c"], "")]);
        assert_eq!(late, Some(Drift::Missing { file: "V2__b.sql".into() }));
    }

    #[test]
    fn files_are_tried_where_most_is_to_be_run() {
        let directory = files(&["V1__a", "V2__b"]);
        let (tenants, mut surveyed) =
            fleet(&[("a", &["V1__a"], ""), ("b", &["V9__z"], ""), ("c", &[], ""), ("d", &[], "")]);
        assert_eq!(model(&tenants, &surveyed, &directory).unwrap().id.as_str(), "c");
        surveyed.insert(TenantId::new("c").unwrap(), Err("away".into()));
        assert_eq!(model(&tenants, &surveyed, &directory).unwrap().id.as_str(), "d");
    }

    #[test]
    fn differences_have_a_line() {
        assert_eq!(first_difference("a\nb\nc", "a\nx\nc"), 2);
        assert_eq!(first_difference("a\nb", "a\nb\nc"), 3);
    }
}
