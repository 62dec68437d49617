//! What happened in the demo, in figures, and whether that is a success.

use serde_json::{Value, json};

use super::check::Findings;
use super::load::Tally;
use crate::cli::failure::Failure;
use crate::cli::output::{self, Format};

/// Errors that are shown in full.
const ERRORS_SHOWN_MAX: usize = 5;

/// What happened.
#[derive(Debug)]
pub(crate) struct Report {
    moved: Value,
    tenants: usize,
    transactions: usize,
    in_doubt: usize,
    errors: Vec<String>,
    longest_ms: f64,
    longest_of_others_ms: f64,
    findings: Findings,
    /// Whether the old server has no live database of the moved tenant; unknown until looked at.
    pub(crate) old_database_gone: Option<bool>,
}

impl Report {
    /// From the move as it ended, and what clients saw; the first tally is the moved tenant's.
    pub(crate) fn new(moved: &Value, tallies: &[Tally]) -> Self {
        let milliseconds = |tally: &Tally| tally.longest.as_secs_f64() * 1000.0;
        Self {
            moved: moved.clone(),
            tenants: tallies.len(),
            transactions: tallies.iter().map(|tally| tally.acknowledged.len()).sum(),
            in_doubt: tallies.iter().map(|tally| tally.in_doubt.len()).sum(),
            errors: tallies.iter().flat_map(|tally| tally.errors.iter().cloned()).collect(),
            longest_ms: tallies.first().map_or(0.0, milliseconds),
            longest_of_others_ms: tallies.iter().skip(1).map(milliseconds).fold(0.0, f64::max),
            findings: Findings::default(),
            old_database_gone: None,
        }
    }

    /// Adds what was found of one tenant.
    pub(crate) fn add(&mut self, findings: Findings) {
        self.findings.rows_checked += findings.rows_checked;
        self.findings.lost += findings.lost;
        self.findings.duplicated += findings.duplicated;
        self.findings.unexpected += findings.unexpected;
        self.findings.disagreements.extend(findings.disagreements);
    }

    /// What speaks against success.
    fn faults(&self) -> Vec<String> {
        let findings = &self.findings;
        let mut faults: Vec<String> = [
            (findings.lost, "acknowledged writes are lost"),
            (findings.duplicated, "writes are there more than once"),
            (findings.unexpected, "writes are there that nobody asked for"),
            (self.errors.len() as u64, "errors were seen by clients"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        faults.extend(findings.disagreements.iter().cloned());
        if self.old_database_gone != Some(true) {
            faults.push("the old server still has a live database of the moved tenant".to_owned());
        }
        if self.moved["verified"] == false {
            faults.push("the move's own comparison found differences".to_owned());
        }
        if self.transactions == 0 {
            faults.push("no transaction was made".to_owned());
        }
        faults
    }

    fn value(&self) -> Value {
        let round = |milliseconds: f64| (milliseconds * 10.0).round() / 10.0;
        json!({
            "ok": self.faults().is_empty(),
            "tenants": self.tenants,
            "moved": self.moved["tenant"],
            "from": self.moved["from"],
            "to": self.moved["to"],
            "hold_ms": self.moved["hold_ms"],
            "longest_stall_ms": round(self.longest_ms),
            "longest_stall_of_others_ms": round(self.longest_of_others_ms),
            "transactions": self.transactions,
            "errors": self.errors.len(),
            "in_doubt": self.in_doubt,
            "rows_checked": self.findings.rows_checked,
            "lost": self.findings.lost,
            "duplicated": self.findings.duplicated,
            "unexpected": self.findings.unexpected,
            "sums_agree": self.findings.disagreements.is_empty(),
            "old_database_gone": self.old_database_gone,
            "verified": self.moved["verified"],
        })
    }

    /// Prints it; the first errors go to stderr.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        for error in self.errors.iter().take(ERRORS_SHOWN_MAX) {
            eprintln!("a client saw: {error}");
        }
        if format == Format::Json {
            return Ok(output::json(&self.value())?);
        }
        let value = self.value();
        let shown = |key: &str| match &value[key] {
            Value::String(text) => text.clone(),
            Value::Null => "unknown".to_owned(),
            Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
            other => other.to_string(),
        };
        let lines = [
            ("moved", format!("{} from {} to {}, under load", shown("moved"), shown("from"), shown("to"))),
            ("new transactions were held for", format!("{} ms", shown("hold_ms"))),
            ("longest stall a client saw", format!("{} ms", shown("longest_stall_ms"))),
            ("of the other tenants' clients", format!("{} ms", shown("longest_stall_of_others_ms"))),
            ("transactions", format!("{} over {} tenants", shown("transactions"), shown("tenants"))),
            ("errors seen by clients", shown("errors")),
            ("rows checked", shown("rows_checked")),
            ("acknowledged writes lost", shown("lost")),
            ("writes doubled", shown("duplicated")),
            ("sums agree", shown("sums_agree")),
            ("old database gone", shown("old_database_gone")),
            ("compared by the move itself", shown("verified")),
        ];
        let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
        for (what, outcome) in lines {
            output::line(&format!("{what:width$}  {outcome}"))?;
        }
        Ok(())
    }

    /// Fails when anything was lost, or a client saw an error.
    pub(crate) fn judge(&self) -> anyhow::Result<()> {
        let faults = self.faults();
        if faults.is_empty() {
            return Ok(());
        }
        Err(Failure::failed(format!("the demo failed: {}", faults.join("; "))).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::new(&json!({ "hold_ms": 40, "verified": true }), &[]);
        report.transactions = 1;
        report.old_database_gone = Some(true);
        report
    }

    #[test]
    fn only_a_flawless_run_is_a_success() {
        assert!(report().judge().is_ok());
        let flaws: [fn(&mut Report); 7] = [
            |report| report.findings.lost = 1,
            |report| report.findings.duplicated = 1,
            |report| report.findings.unexpected = 1,
            |report| report.findings.disagreements.push("x".into()),
            |report| report.errors.push("x".into()),
            |report| report.old_database_gone = None,
            |report| report.moved["verified"] = false.into(),
        ];
        for flaw in flaws {
            let mut report = report();
            flaw(&mut report);
            assert!(report.judge().is_err());
            assert_eq!(report.value()["ok"], false);
        }
    }
}
