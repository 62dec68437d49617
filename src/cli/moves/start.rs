//! `tenantry move start`, and what a dry run finds.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use shard_map::duration::rough;
use shard_map::{ServerName, TenantId};

use super::{judge, number_of, show, wait_until};
use crate::cli::api::Api;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};
use crate::cli::values;
use crate::cli::wait::{number, text};

#[derive(Debug, Args)]
pub(super) struct Start {
    /// The tenant
    tenant: TenantId,
    /// The server to move it to
    #[arg(long, value_name = "SERVER")]
    to: ServerName,
    /// Return when the tenant is served by its new server
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::duration)]
    timeout: Duration,
    /// Only check whether it could be moved, and say what is in the way; exits 4 if anything is
    #[arg(long)]
    dry_run: bool,
    /// Longest time that new transactions may be held at the cutover, 50ms to 60s; beyond it, it is tried again later
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = values::duration)]
    max_hold: Duration,
    /// How both sides are compared [default: full]
    #[arg(long, value_enum)]
    verify: Option<Verify>,
    /// How long it can be turned round, and the sealed copy at the old server is kept [default: the control plane's]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    reverse_window: Option<Duration>,
    /// How long to put the cutover off for open transactions, prepared ones, and with --wait-sessions for sessions that
    /// can't be held, before the move is given up [default: 24h; with --kill-stragglers 10s]
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_wait: Option<Duration>,
    /// After that time, end open transactions (57P01) instead of giving up; at the cutover, those past the routers at once.
    /// Prepared transactions are never ended
    #[arg(long)]
    kill_stragglers: bool,
    /// Wait for sessions that can't be held (LISTEN, temporary tables, …) instead of ending them with 57P01 at the switch
    #[arg(long)]
    wait_sessions: bool,
    /// Take a finding upon yourself, by the code that --dry-run shows (can be given several times): capacity,
    /// foreign_servers, log_positions, tablespaces, unlogged_rows
    #[arg(long, value_name = "CODE")]
    accept: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Verify {
    /// By counts and hashes of all rows
    Full,
    /// By counts
    Count,
    /// Not at all
    None,
}

impl Verify {
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Count => "count",
            Self::None => "none",
        }
    }
}

pub(super) async fn run(api: &Api, format: Format, start: &Start) -> anyhow::Result<()> {
    let mut body = json!({
        "tenant": start.tenant,
        "to": start.to,
        "dry_run": start.dry_run,
        "max_hold_ms": values::milliseconds(start.max_hold),
        "kill_stragglers": start.kill_stragglers,
        "wait_sessions": start.wait_sessions,
        "accept": start.accept,
    });
    if let Some(verify) = start.verify {
        body["verify"] = verify.as_str().into();
    }
    if let Some(window) = start.reverse_window {
        body["reverse_window_s"] = window.as_secs().into();
    }
    if let Some(wait) = start.max_wait {
        body["max_wait_ms"] = values::milliseconds(wait).into();
    }
    let answer = api.post(&["v1", "moves"], &body).await?;
    if start.dry_run {
        return print_findings(format, &answer);
    }
    if !start.wait {
        return show::print(format, &answer);
    }
    let ended = wait_until(api, number_of(&answer)?, start.timeout, &|state| state != "running").await?;
    show::print(format, &ended)?;
    judge(&ended, &["switched", "completed"])
}

/// What the move would take, in a line.
fn estimate(answer: &Value) -> String {
    let figure = |key: &str| number(&answer["estimate"], key);
    let mut line = format!(
        "to copy: {} in {} tables ({} with indexes); about {} until the cutover",
        show::size(number(answer, "bytes")),
        number(answer, "tables"),
        show::size(number(answer, "database_bytes")),
        rough(Duration::from_secs(figure("seconds"))),
    );
    let rate = show::size(figure("bytes_per_second"));
    line.push_str(&match figure("from_copies") {
        0 => format!(" at {rate}/s, the most that is allowed: no large move is on record to tell by"),
        1 => format!(" at {rate}/s, as one move before"),
        copies => format!(" at {rate}/s, the median of {copies} moves"),
    });
    line.push_str(&format!(
        "; until then {} keeps about {} of log",
        text(answer, "from"),
        show::size(figure("wal_bytes"))
    ));
    if let (Some(hold), Some(longest)) =
        (answer["estimate"]["hold_ms"].as_f64(), answer["estimate"]["hold_ms_max"].as_f64())
    {
        line.push_str(&format!("; hold about {hold:.0} ms, at worst {longest:.0} ms"));
    }
    line
}

fn print_findings(format: Format, answer: &Value) -> anyhow::Result<()> {
    let none = Value::Array(Vec::new());
    let findings = answer.get("findings").unwrap_or(&none);
    if format == Format::Json {
        output::json(answer)?;
    } else {
        if findings.as_array().is_some_and(Vec::is_empty) {
            output::line("nothing is in the way")?;
        } else {
            let columns = [("LEVEL", "level"), ("CODE", "code"), ("WHAT", "what"), ("REMEDY", "remedy")];
            output::list(format, findings, &columns)?;
        }
        output::line(&estimate(answer))?;
    }
    let errors = findings.as_array().into_iter().flatten().filter(|f| text(f, "level") == "error").count();
    if errors == 0 {
        return Ok(());
    }
    let noun = if errors == 1 { "finding is" } else { "findings are" };
    Err(Failure::new(Exit::Refused, format!("{errors} {noun} in the way of this move")).into())
}
