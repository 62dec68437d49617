//! A sound fleet to damage, and what a rebuild makes of it; the tests by subject.

mod files;
mod lost_records;
mod operations;
mod placements;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::fleet::Fleet;
use crate::ids::{Epoch, ServerName, TenantId};
use crate::policy::{Capacity, Quota};
use crate::server::{Server, ServerClass, ServerState};
use crate::tenant::{Tenant, TenantState};
use crate::user::{Access, PoolMode, User};

fn id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn name(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

fn server(of: &str) -> CatalogServer {
    let number = i64::from(of.bytes().last().unwrap() - b'0');
    let server = Server {
        name: name(of),
        host: "db".into(),
        port: 5400 + u16::try_from(number).unwrap(),
        class: ServerClass::Shared,
        max_connections: 80,
        labels: [].into(),
        state: ServerState::Active,
        capacity: Capacity::default(),
        quota: Quota::default(),
    };
    CatalogServer { server, system_identifier: number }
}

fn tenant(of: &str, on: &str, epoch: i64) -> Tenant {
    Tenant {
        id: id(of),
        server: name(on),
        epoch: Epoch(epoch),
        state: TenantState::Open,
        labels: [("plan".to_owned(), "gold".to_owned())].into(),
        key_version: 2,
        schema_version: Some(7),
        quota: None,
        read_only: false,
    }
}

fn record(of: &str, database: &str, epoch: i64, state: RecordState) -> Record {
    Record { id: id(of), database: database.to_owned(), epoch: Epoch(epoch), state, moved_to: None }
}

fn sealed(of: &str, epoch: i64, to: &str) -> Record {
    Record { moved_to: Some(name(to)), ..record(of, &format!("{of}__sealed"), epoch, RecordState::Sealed) }
}

/// A sound fleet: a and b on s1, c on s2; nobody on s3.
fn sound() -> (CatalogView, Survey) {
    let mut catalog = CatalogView {
        fleet: Some("f".to_owned()),
        term: 4,
        version: Some(100),
        routers_version: 100,
        operation_number: 9,
        ..CatalogView::default()
    };
    let mut survey = Survey::new();
    for (of, tenants) in [("s1", &[("a", 3), ("b", 5)][..]), ("s2", &[("c", 7)][..]), ("s3", &[][..])] {
        let server = server(of);
        let mut registry = Registry {
            system_identifier: server.system_identifier,
            fleet: Some("f".to_owned()),
            term: 4,
            connections_max: 90,
            ..Registry::default()
        };
        for (of_tenant, epoch) in tenants {
            catalog.tenants.insert(id(of_tenant), tenant(of_tenant, of, *epoch));
            registry.records.push(record(of_tenant, of_tenant, *epoch, RecordState::Open));
            registry.databases.insert((*of_tenant).to_owned());
        }
        catalog.servers.insert(name(of), server);
        survey.insert(name(of), Seen::Registry(Box::new(registry)));
    }
    let user = User {
        name: "web".to_owned(),
        verifier: "SCRAM".to_owned(),
        tenants: "*".parse().unwrap(),
        access: Access::App,
        pool_mode: PoolMode::Transaction,
    };
    catalog.users.insert(user.name.clone(), user);
    (catalog, survey)
}

fn registry<'a>(survey: &'a mut Survey, of: &str) -> &'a mut Registry {
    match survey.get_mut(of).unwrap() {
        Seen::Registry(registry) => registry,
        Seen::Unreachable(why) => panic!("{why}"),
    }
}

fn kinds(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.kind.as_str()).collect()
}

fn move_operation(number: i64, of: &str, state: &str, step: &str) -> OperationView {
    OperationView {
        id: number,
        kind: "move".to_owned(),
        tenant: Some(id(of)),
        state: state.to_owned(),
        step: step.to_owned(),
        from: Some(name("s1")),
        to: Some(name("s3")),
        becomes: None,
    }
}

/// What a rebuild makes of it: the catalog afterwards, and what is left. Another rebuild must find nothing to do.
#[track_caller]
fn rebuilt(catalog: &CatalogView, survey: &Survey) -> (CatalogView, Vec<&'static str>) {
    rebuilt_with(catalog, survey, &Sources::default())
}

#[track_caller]
fn rebuilt_with(
    catalog: &CatalogView,
    survey: &Survey,
    sources: &Sources,
) -> (CatalogView, Vec<&'static str>) {
    let (changes, left, _) = rebuild(catalog, survey, sources);
    let (mut after, mut survey) = (catalog.clone(), survey.clone());
    changes.apply_to(&mut after);
    changes.apply_to_survey(&mut survey);
    changes.raise_epochs(&mut survey);
    let (again, left_again, _) = rebuild(&after, &survey, sources);
    assert_eq!(again, Changes::default(), "one rebuild is enough");
    assert_eq!(kinds(&left), kinds(&left_again));
    for (id, before) in &catalog.tenants {
        let later = after.tenants.get(id).map_or(before.epoch, |tenant| tenant.epoch);
        assert!(later >= before.epoch, "an epoch went back: {id}");
    }
    (after, kinds(&left))
}

/// What a server's registry is when its database was dropped: nothing, but the server's own databases.
fn lose_registry(survey: &mut Survey, of: &str) {
    let seen = registry(survey, of);
    *seen =
        Registry { lacks: Some("its database"), records: Vec::new(), fleet: None, term: 0, ..seen.clone() };
}
