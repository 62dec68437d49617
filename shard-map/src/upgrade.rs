//! A plan by which a server of an old major version of Postgres is emptied onto newer ones: in waves, so that what a new version
//! does to an application is seen on one tenant first, then on a tenth of them, then on the rest; in each, the smallest first,
//! which are copied, and turned back, the fastest.
//!
//! Each tenant goes where the placement policy puts it, among servers of the newest version that has one which fits, as if those
//! before it were there already. It is a plan, not a promise: what a server bears when its turn comes may be something else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::ids::{ServerName, TenantId};
use crate::labels::Labels;
use crate::placement::{Candidate, Wish, choose_among};
use crate::policy::{PlacementPolicy, Quota};
use crate::server::Server;

/// Of all tenants, one in so many is in the second wave.
const SECOND_WAVE_SHARE: usize = 10;

/// A tenant that is to leave.
#[derive(Debug, Clone)]
pub struct Leaver {
    /// The account.
    pub id: TenantId,
    /// Its labels.
    pub labels: Labels,
    /// Its own quota.
    pub quota: Quota,
    /// Of its database, if that was measured.
    pub bytes: Option<u64>,
}

/// Where tenants may go.
#[derive(Debug, Clone)]
pub struct Places {
    /// All servers of the map. Who must not live together is in `neighbours`.
    pub candidates: Vec<Candidate>,
    /// Major versions of those that answered.
    pub majors: BTreeMap<ServerName, i32>,
    /// Values that tenants of a server have of labels by which the policy keeps tenants apart: server, key, value.
    pub neighbours: BTreeSet<(ServerName, String, String)>,
    /// How servers are chosen.
    pub policy: PlacementPolicy,
}

/// A tenant and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// The account.
    pub tenant: TenantId,
    /// Of its database, if that was measured.
    pub bytes: Option<u64>,
    /// Its new server.
    pub to: ServerName,
    /// That server's major version.
    pub version: i32,
    /// Why it and no other.
    pub why: String,
}

/// A tenant that no newer server can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unplaced {
    /// The account.
    pub tenant: TenantId,
    /// Of its database, if that was measured.
    pub bytes: Option<u64>,
    /// What is against each server.
    pub why: String,
}

/// The plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Those that go together; no wave is empty.
    pub waves: Vec<Vec<Planned>>,
    /// Those that stay.
    pub unplaced: Vec<Unplaced>,
}

/// Plans how these tenants leave a server of this major version.
#[must_use]
pub fn plan(from: (&Server, i32), mut leavers: Vec<Leaver>, mut places: Places) -> Plan {
    // What was never measured may be large.
    leavers.sort_by(|a, b| (a.bytes.is_none(), a.bytes, &a.id).cmp(&(b.bytes.is_none(), b.bytes, &b.id)));
    let (mut planned, mut unplaced) = (Vec::new(), Vec::new());
    for leaver in leavers {
        match place(from, &leaver, &places) {
            Ok(found) => {
                settle(&mut places, &leaver, &found.to);
                planned.push(found);
            }
            Err(why) => unplaced.push(Unplaced { tenant: leaver.id, bytes: leaver.bytes, why }),
        }
    }
    Plan { waves: in_waves(planned), unplaced }
}

/// One, then a tenth of all, then the rest.
fn in_waves<T>(mut all: Vec<T>) -> Vec<Vec<T>> {
    let tenth = all.len().div_ceil(SECOND_WAVE_SHARE);
    let mut waves = Vec::new();
    for count in [1, tenth, usize::MAX] {
        let rest = all.split_off(count.min(all.len()));
        if !all.is_empty() {
            waves.push(std::mem::replace(&mut all, rest));
        }
    }
    waves
}

/// Chooses among the newest servers first.
fn place((from, major): (&Server, i32), leaver: &Leaver, places: &Places) -> Result<Planned, String> {
    let majors = &places.majors;
    let wish = Wish {
        class: Some(from.class),
        labels: leaver.labels.clone(),
        quota: leaver.quota,
        bytes: leaver.bytes.unwrap_or(0),
        ..Wish::default()
    };
    let candidates = with_neighbours(places, leaver);
    let newer: BTreeSet<i32> = majors.values().copied().filter(|version| *version > major).collect();
    for &version in newer.iter().rev() {
        let other = |server: &Server| (majors.get(&server.name) != Some(&version)).then(String::new);
        if let Ok(decision) = choose_among(&candidates, &wish, &places.policy, other) {
            let (tenant, bytes, why) = (leaver.id.clone(), leaver.bytes, decision.why);
            return Ok(Planned { tenant, bytes, to: decision.server, version, why });
        }
    }
    let against = |server: &Server| match majors.get(&server.name) {
        None => Some("it does not answer".to_owned()),
        Some(version) => (*version <= major).then(|| format!("its Postgres is not newer ({version})")),
    };
    match choose_among(&candidates, &wish, &places.policy, against) {
        Ok(decision) => Err(format!("no server of one version only fits; {} does", decision.server)), // can't be
        Err(none) => Err(none.to_string()),
    }
}

fn with_neighbours(places: &Places, leaver: &Leaver) -> Vec<Candidate> {
    let mut candidates = places.candidates.clone();
    for candidate in &mut candidates {
        let near = |key: &&String| {
            leaver.labels.get(key).is_some_and(|value| {
                places.neighbours.contains(&(candidate.server.name.clone(), (*key).clone(), value.to_owned()))
            })
        };
        candidate.anti_affine = places.policy.anti_affinity.iter().filter(near).cloned().collect();
    }
    candidates
}

/// Counts a tenant as one of its new server.
fn settle(places: &mut Places, leaver: &Leaver, to: &ServerName) {
    let Some(candidate) = places.candidates.iter_mut().find(|candidate| candidate.server.name == *to) else {
        return;
    };
    let usage = &mut candidate.usage;
    usage.tenants += 1;
    if let Some(connections) = leaver.quota.connections {
        usage.own_quotas += 1;
        usage.own_connections += u64::from(connections);
    }
    usage.bytes = usage.bytes.map(|bytes| bytes.saturating_add(leaver.bytes.unwrap_or(0)));
    for key in &places.policy.anti_affinity {
        if let Some(value) = leaver.labels.get(key) {
            places.neighbours.insert((to.clone(), key.clone(), value.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests;
