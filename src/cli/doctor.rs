//! `tenantry doctor`: what is wrong with the fleet, and what to do about it.
//!
//! It must work when the control plane does not: with the control plane's own configuration it looks by itself then.

use std::path::PathBuf;

use clap::Args;
use control::{Check, Doctor, Finding, Severity};
use serde_json::{Value, json};

use crate::cli::api::{Api, Connection};
use crate::cli::failure::{Exit, Failure};
use crate::cli::map;
use crate::cli::output::{self, Format};

/// Check every part of the fleet; say what is wrong and what to do. Exits 1 if something is
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry doctor -o json")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    connection: Connection,
    /// When the control plane does not answer, look at the catalog and the servers directly, with this configuration of it
    #[arg(long, value_name = "FILE", env = "TENANTRY_MAP_CONFIG", help_heading = "Connection")]
    config: Option<PathBuf>,
}

pub(crate) async fn run(args: DoctorArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let (found, failure) = match api.get_with_failure(&["v1", "doctor"]).await? {
        (Some(found), failure) if found["checks"].is_array() => (Some(found), failure),
        (_, Some(failure)) if failure.exit == Exit::Unreachable => {
            (look(&args, &failure).await, Some(failure))
        }
        (found, failure) => (found, failure),
    };
    if let Some(found) = &found {
        match args.connection.output {
            Format::Json => output::json(found)?,
            Format::Table => print(found)?,
        }
    }
    match (failure, found) {
        (Some(failure), _) => Err(failure.into()),
        (None, Some(found)) if found["ok"] != true => Err(Failure::failed(summary(&found)).into()),
        _ => Ok(()),
    }
}

/// What can be seen without the control plane; nothing without its configuration.
async fn look(args: &DoctorArgs, failure: &Failure) -> Option<Value> {
    let looked = match &args.config {
        Some(path) => {
            map::read_config(path).and_then(|(config, secrets)| Ok(Doctor::new(&config, &secrets)?))
        }
        None => return None,
    };
    let doctor = match looked {
        Ok(doctor) => doctor,
        Err(error) => {
            eprintln!("warning: {error:#}");
            return None;
        }
    };
    let mut diagnosis = doctor.examine().await;
    let (part, name) = ("control", args.connection.api.clone());
    diagnosis.lead_with(Check { part, name: name.clone(), ok: false, detail: "does not answer".to_owned() });
    diagnosis.blame(Finding {
        severity: Severity::Error,
        part,
        name,
        what: failure.message.clone(),
        remedy: "start it (systemctl start tenantry-control), or set --api to its address".to_owned(),
    });
    Some(json!(diagnosis))
}

fn summary(found: &Value) -> String {
    let findings = found["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let errors = findings.iter().filter(|finding| finding["severity"] == "error").count();
    let plural = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    match (errors, findings.len() - errors) {
        (errors, 0) => format!("{} found", plural(errors, "error")),
        (0, warnings) => format!("{} found", plural(warnings, "warning")),
        (errors, warnings) => {
            format!("{} and {} found", plural(errors, "error"), plural(warnings, "warning"))
        }
    }
}

/// A line for each part; then each finding with its remedy below it.
fn print(found: &Value) -> std::io::Result<()> {
    let findings = found["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let rows = found["checks"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|check| {
        let of_part = findings.iter().filter(|f| f["part"] == check["part"] && f["name"] == check["name"]);
        let state = match of_part.count() {
            0 => "ok".to_owned(),
            1 => "1 finding".to_owned(),
            many => format!("{many} findings"),
        };
        let mut row = check.clone();
        row["state"] = json!(state);
        row
    });
    let columns = [("PART", "part"), ("NAME", "name"), ("STATE", "state"), ("SEEN", "detail")];
    output::list(Format::Table, &rows.collect(), &columns)?;
    for finding in findings {
        let text = |key: &str| output::printable(finding[key].as_str().unwrap_or_default());
        let (part, name) = (text("part"), text("name"));
        let whose = if part == name { part } else { format!("{part} {name}") };
        output::line(&format!(
            "\n{}: {whose}: {}\n  do: {}",
            text("severity"),
            text("what"),
            text("remedy")
        ))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_by_severity() {
        let found = |severities: &[&str]| {
            let findings: Vec<_> = severities.iter().map(|s| json!({ "severity": s })).collect();
            summary(&json!({ "findings": findings }))
        };
        assert_eq!(found(&["error"]), "1 error found");
        assert_eq!(found(&["warning", "warning"]), "2 warnings found");
        assert_eq!(found(&["error", "warning", "warning"]), "1 error and 2 warnings found");
    }
}
