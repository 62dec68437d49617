//! Chooses a server for a new tenant: deterministically, so that an operator can foretell and a test can state it, and
//! with an account of each server, so that nobody has to guess why.
//!
//! A server must be of the class asked for (shared unless said otherwise), have the labels, have no tenant that this one
//! must not live with, answer, and have room: for one tenant more, for bytes, for its connections, and for its work. Of those that
//! remain, the least full one is taken: full is what is nearest to its limit, in whole percent, so that a fleet far
//! from its limits spreads by tenants for each connection allowed, and only then by name.
//!
//! A server named by the operator is taken whatever its class, labels and neighbours are, since these are wishes, and
//! also while it does not answer; not without room, and not while it drains.
//!
//! A tenant's label constrains its placement when servers of the class carry a label of that key: `region=eu` goes to
//! a server with `region=eu` where servers have regions, and `plan=gold` anywhere where no server has a plan.

use serde::Serialize;

use crate::bytes::Bytes;
use crate::ids::ServerName;
use crate::labels::Labels;
use crate::policy::{PlacementPolicy, Quota};
use crate::server::{Server, ServerClass, ServerState};

/// What a server bears at present, as far as it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tenants placed on it, those being made and those on their way to it included.
    pub tenants: u32,
    /// Those of them that have a connection quota of their own.
    pub own_quotas: u32,
    /// What their own connection quotas add up to.
    pub own_connections: u64,
    /// Bytes of all its databases together, and of tenants that came to it since those were measured or are on their way.
    pub bytes: Option<u64>,
    /// Sessions at work at once, on average over the last while, in thousandths.
    pub active_sessions_milli: Option<u64>,
}

/// A server that could take the tenant.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The server.
    pub server: Server,
    /// What it bears.
    pub usage: Usage,
    /// Keys of labels of which a tenant there has the same value as the new one: of those that the policy keeps apart.
    pub anti_affine: Vec<String>,
}

/// What the tenant asks for.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// This server and no other.
    pub server: Option<ServerName>,
    /// Servers of this class; shared ones when not said.
    pub class: Option<ServerClass>,
    /// The tenant's labels.
    pub labels: Labels,
    /// The tenant's own quota.
    pub quota: Quota,
    /// Bytes that it brings along; 0 for one that is made.
    pub bytes: u64,
    /// Servers that did not answer just now: none of them is chosen, but one that was named.
    pub away: Vec<ServerName>,
}

/// What was found about one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The server.
    pub server: ServerName,
    /// Whether it could take the tenant.
    pub fits: bool,
    /// Why not, or how full it is.
    pub reason: String,
    /// How near it is to its nearest limit.
    pub percent_full: u64,
    /// Tenants placed on it.
    pub tenants: u32,
    /// Bytes of all its databases together, if measured.
    pub bytes: Option<u64>,
}

/// A server, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// The one that is taken.
    pub server: ServerName,
    /// Why it and no other, in words.
    pub why: String,
    /// What was found about each: those that fit in the order in which they would be taken, then the others by name.
    pub servers: Vec<Verdict>,
}

/// Why no server was chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoPlacement {
    /// The named server is not in the map.
    #[error("server {0} does not exist")]
    UnknownServer(ServerName),
    /// No server can take it: each of them with its reason.
    #[error("no server can take the tenant: {}", reasons(.0))]
    NoneFits(Vec<Verdict>),
}

/// Of so many servers the reasons are told in an error; the rest is counted.
const REASONS_MAX: usize = 20;

fn reasons(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "the map has no servers".to_owned();
    }
    let told = verdicts.iter().take(REASONS_MAX);
    let told: Vec<_> = told.map(|verdict| format!("{}: {}", verdict.server, verdict.reason)).collect();
    let more = match verdicts.len().saturating_sub(REASONS_MAX) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    told.join("; ") + &more
}

/// Chooses.
///
/// # Errors
/// [`NoPlacement`] when the named server can't take it, or none fits.
pub fn choose(
    candidates: &[Candidate],
    wish: &Wish,
    policy: &PlacementPolicy,
) -> Result<Decision, NoPlacement> {
    choose_among(candidates, wish, policy, |_| None)
}

/// Chooses among those against which nothing else speaks, either: what does, in words, `also_against` says.
///
/// # Errors
/// As [`choose`].
pub fn choose_among(
    candidates: &[Candidate],
    wish: &Wish,
    policy: &PlacementPolicy,
    also_against: impl Fn(&Server) -> Option<String>,
) -> Result<Decision, NoPlacement> {
    let class = wish.class.unwrap_or_default();
    let constraints = constraints(candidates, wish, class);
    let mut judged: Vec<(&Candidate, Verdict)> = (candidates.iter())
        .filter(|candidate| wish.server.as_ref().is_none_or(|name| candidate.server.name == *name))
        .map(|candidate| {
            let mut against = Vec::from_iter(also_against(&candidate.server));
            if wish.server.is_none() {
                against.extend(unwished(candidate, class, &constraints));
                against.extend(kept_apart(candidate, wish, policy));
                let is_away = wish.away.contains(&candidate.server.name);
                against.extend(is_away.then(|| "it does not answer".to_owned()));
            }
            if candidate.server.state == ServerState::Draining {
                against.push("it is draining and takes no new tenants".to_owned());
            }
            (candidate, judge(candidate, wish, policy, against))
        })
        .collect();
    if let (Some(name), true) = (&wish.server, judged.is_empty()) {
        return Err(NoPlacement::UnknownServer(name.clone()));
    }
    judged.sort_by(|(a, a_verdict), (b, b_verdict)| {
        let fits = b_verdict.fits.cmp(&a_verdict.fits);
        let fuller = || a_verdict.percent_full.cmp(&b_verdict.percent_full).then_with(|| denser(a, b));
        let order = if a_verdict.fits && b_verdict.fits { fits.then_with(fuller) } else { fits };
        order.then_with(|| a.server.name.cmp(&b.server.name))
    });
    let servers: Vec<Verdict> = judged.into_iter().map(|(_, verdict)| verdict).collect();
    let fitting = servers.iter().filter(|verdict| verdict.fits).count();
    let Some(first) = servers.first().filter(|verdict| verdict.fits) else {
        return Err(NoPlacement::NoneFits(servers));
    };
    let why = match (&wish.server, fitting) {
        (Some(_), _) => "it was named, and has room".to_owned(),
        (None, 1) => "it is the only one that fits".to_owned(),
        (None, _) => format!("it is the least full of {fitting} that fit: {}", first.reason),
    };
    Ok(Decision { server: first.server.clone(), why, servers })
}

/// Labels of the tenant that servers of the class have, too.
fn constraints<'a>(candidates: &[Candidate], wish: &'a Wish, class: ServerClass) -> Vec<(&'a str, &'a str)> {
    let of_class = || candidates.iter().filter(|candidate| candidate.server.class == class);
    let constrains = |key: &str| of_class().any(|candidate| candidate.server.labels.get(key).is_some());
    wish.labels.iter().filter(|(key, _)| constrains(key)).collect()
}

/// What speaks against it by its class and its labels.
fn unwished(candidate: &Candidate, class: ServerClass, constraints: &[(&str, &str)]) -> Vec<String> {
    let server = &candidate.server;
    if server.class != class {
        return vec![format!("it is {}, {} was asked for", server.class.as_str(), class.as_str())];
    }
    let other = constraints.iter().filter(|(key, value)| server.labels.get(key) != Some(*value));
    let other = other.map(|(key, value)| match server.labels.get(key) {
        Some(has) => format!("its {key} is {has}, not {value}"),
        None => format!("it has no label {key}={value}"),
    });
    other.collect()
}

/// What speaks against it by the tenants that it has.
fn kept_apart(candidate: &Candidate, wish: &Wish, policy: &PlacementPolicy) -> Vec<String> {
    let near = |key: &&String| candidate.anti_affine.contains(*key);
    let keys = policy.anti_affinity.iter().filter(near);
    keys.filter_map(|key| Some((key, wish.labels.get(key)?)))
        .map(|(key, value)| format!("a tenant with {key}={value} is there"))
        .collect()
}

/// One of the things that a server has a limit of, with the new tenant on it.
struct Part {
    would_have: u64,
    limit: u64,
    /// What it would have, and of how much, in words.
    text: String,
}

impl Part {
    fn percent(&self) -> u64 {
        self.would_have.saturating_mul(100) / self.limit.max(1)
    }
}

fn parts(candidate: &Candidate, wish: &Wish, policy: &PlacementPolicy) -> Vec<Part> {
    let (server, usage) = (&candidate.server, &candidate.usage);
    let class = policy.class(server.class);
    let capacity = server.capacity.or(&class.capacity);
    let mut parts = Vec::new();
    let most = u64::from(capacity.tenants_max.unwrap_or(policy.tenants_per_server_max));
    let text = format!("{} of {most} tenants", usage.tenants);
    parts.push(Part { would_have: u64::from(usage.tenants) + 1, limit: most, text });
    if let (Some(bytes), Some(Bytes(limit))) = (usage.bytes, capacity.bytes_max) {
        let mut text = format!("{} of {}", Bytes(bytes).rounded(), Bytes(limit));
        if wish.bytes > 0 {
            text.push_str(&format!(", and it brings {}", Bytes(wish.bytes).rounded()));
        }
        parts.push(Part { would_have: bytes.saturating_add(wish.bytes), limit, text });
    }
    if let Some(times) = policy.connections_overcommit {
        let each = u64::from(class.quota.connections.unwrap_or(0));
        let has = u64::from(usage.tenants.saturating_sub(usage.own_quotas)) * each + usage.own_connections;
        let limit = u64::from(server.max_connections) * u64::from(times);
        let more = wish.quota.or(&class.quota).connections.map_or(0, u64::from);
        let text = format!("{has} of {limit} connections promised");
        parts.push(Part { would_have: has + more, limit, text });
    }
    if let (Some(milli), Some(most)) = (usage.active_sessions_milli, capacity.active_sessions_max) {
        let text = format!("{}.{} of {most} sessions at work", milli / 1000, milli % 1000 / 100);
        parts.push(Part { would_have: milli, limit: u64::from(most) * 1000, text });
    }
    parts
}

fn judge(candidate: &Candidate, wish: &Wish, policy: &PlacementPolicy, mut against: Vec<String>) -> Verdict {
    let parts = parts(candidate, wish, policy);
    let full = parts.iter().filter(|part| part.would_have > part.limit);
    against.extend(full.map(|part| format!("it is full: {}", part.text)));
    // Of parts that are equally near to their limits, the first.
    let nearest = parts.iter().rev().max_by_key(|part| part.percent());
    let percent_full = nearest.map_or(0, Part::percent);
    let reason = if against.is_empty() {
        let text = nearest.map_or("", |part| part.text.as_str());
        format!("{percent_full} % full ({text})")
    } else {
        against.join(", ")
    };
    Verdict {
        server: candidate.server.name.clone(),
        fits: against.is_empty(),
        reason,
        percent_full,
        tenants: candidate.usage.tenants,
        bytes: candidate.usage.bytes,
    }
}

/// By tenants for each connection allowed: a server twice as large takes twice as many. Compared crosswise, a/b < c/d as
/// a*d < c*b, because fractions of floats have no total order.
fn denser(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    let left = u64::from(a.usage.tenants) * u64::from(b.server.max_connections);
    let right = u64::from(b.usage.tenants) * u64::from(a.server.max_connections);
    left.cmp(&right)
}

#[cfg(test)]
mod tests;
