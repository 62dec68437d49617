//! What was looked at, what is wrong, and what to do about it.

use std::time::Duration;

use serde::Serialize;
use shard_map::duration::rough;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something does not work.
    Error,
    /// Something will not, or not as well as it should.
    Warning,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// With what kind of part: that of a [`Check`].
    pub part: &'static str,
    /// With which one.
    pub name: String,
    /// What is wrong.
    pub what: String,
    /// What to do; a command where there is one.
    pub remedy: String,
}

/// A part that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What kind of part: `control`, `catalog`, `server`, `router`, `map`, `operations`, `moves`, `migrations`, `tenants`.
    pub part: &'static str,
    /// Which one.
    pub name: String,
    /// Whether nothing was found to be wrong with it.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnosis {
    /// Whether nothing is wrong.
    pub ok: bool,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// What is wrong, errors first.
    pub findings: Vec<Finding>,
    /// Why the catalog can't be reached, if it can't: the rest is what could be seen without it.
    #[serde(skip)]
    pub unreachable: Option<String>,
}

/// A part with what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    part: &'static str,
    name: String,
    detail: String,
    findings: Vec<Finding>,
}

impl Part {
    pub(super) fn new(part: &'static str, name: impl Into<String>) -> Self {
        Self { part, name: name.into(), detail: String::new(), findings: Vec::new() }
    }

    /// Says what was seen.
    pub(super) fn see(&mut self, detail: impl Into<String>) {
        self.detail = detail.into();
    }

    pub(super) fn error(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Error, what.into(), remedy.into());
    }

    pub(super) fn warning(&mut self, what: impl Into<String>, remedy: impl Into<String>) {
        self.find(Severity::Warning, what.into(), remedy.into());
    }

    fn find(&mut self, severity: Severity, what: String, remedy: String) {
        let (part, name) = (self.part, self.name.clone());
        self.findings.push(Finding { severity, part, name, what, remedy });
    }

    /// What is wrong, each as `severity what`, for tests.
    #[cfg(test)]
    pub(super) fn wrong(&self) -> Vec<String> {
        self.findings.iter().map(|f| format!("{:?}: {}", f.severity, f.what)).collect()
    }

    #[cfg(test)]
    pub(super) fn remedies(&self) -> Vec<&str> {
        self.findings.iter().map(|f| f.remedy.as_str()).collect()
    }
}

impl Diagnosis {
    pub(super) fn of(parts: Vec<Part>, unreachable: Option<String>) -> Self {
        let mut checks = Vec::new();
        let mut findings = Vec::new();
        for part in parts {
            let ok = part.findings.is_empty();
            checks.push(Check { part: part.part, name: part.name, ok, detail: part.detail });
            findings.extend(part.findings);
        }
        findings.sort_by_key(|finding| finding.severity != Severity::Error); // stable
        Self { ok: findings.is_empty(), checks, findings, unreachable }
    }

    /// Adds a check of what was seen before all others.
    pub fn lead_with(&mut self, check: Check) {
        self.checks.insert(0, check);
    }

    /// Adds a finding before all others.
    pub fn blame(&mut self, finding: Finding) {
        self.ok = false;
        self.findings.insert(0, finding);
    }
}

/// How long ago something was, for people.
pub(super) fn age(ms: i64) -> String {
    rough(Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

/// A size for people.
pub(super) fn size(bytes: i64) -> String {
    match bytes.max(0) {
        bytes if bytes < 1 << 20 => format!("{} kB", bytes >> 10),
        bytes if bytes < 10 << 30 => format!("{} MB", bytes >> 20),
        bytes => format!("{} GB", bytes >> 30),
    }
}

/// A number of things.
pub(super) fn count(number: usize, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_first_and_a_part_with_a_finding_is_not_ok() {
        let (mut one, two) = (Part::new("server", "pg-1"), Part::new("map", "map"));
        one.warning("slow", "wait");
        one.error("down", "start it");
        let diagnosis = Diagnosis::of(vec![one, two], None);
        assert!(!diagnosis.ok);
        assert_eq!(diagnosis.checks.iter().map(|c| c.ok).collect::<Vec<_>>(), [false, true]);
        assert_eq!(diagnosis.findings.iter().map(|f| f.what.as_str()).collect::<Vec<_>>(), ["down", "slow"]);
    }

    #[test]
    fn people_read_units() {
        assert_eq!([-1, 900, 7_200_000].map(age), ["0 s", "0.9 s", "2 h"]);
        assert_eq!([5 << 10, 300 << 20, 40 << 30].map(size), ["5 kB", "300 MB", "40 GB"]);
        assert_eq!([1, 2].map(|n| count(n, "slot")), ["1 slot", "2 slots"]);
    }
}
