//! `tenantry move`: a tenant's database to another server, while its clients keep working.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use shard_map::{ServerName, TenantId};

use crate::cli::api::{Api, Connection};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};
use crate::cli::values;
use crate::cli::wait::{self, Awaited, number, text};

/// A tenant's database to another server, while its clients keep working
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry move start acme --to pg-3 --wait")]
pub(crate) struct MoveArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: MoveCommand,
}

#[derive(Debug, Subcommand)]
enum MoveCommand {
    /// Start a move
    #[command(after_help = "Example:\n  tenantry move start acme --to pg-3 --max-hold 500ms --wait")]
    Start(Start),
    /// All moves
    #[command(after_help = "Example:\n  tenantry move list -o json")]
    List,
    /// One move, step by step
    #[command(after_help = "Example:\n  tenantry move show 12 -o json")]
    Show {
        /// The move
        id: i64,
    },
    /// Give a move up; the tenant stays where it is. In the cutover, which ends by itself, it may come too late
    #[command(after_help = "Example:\n  tenantry move abort 12 --wait")]
    Abort(Change),
    /// Turn a move round within its window: back to the old server without a copy, with all that was written since
    #[command(after_help = "Example:\n  tenantry move reverse 12 --wait")]
    Reverse(Change),
    /// Drop the sealed copy at the old server now
    #[command(after_help = "Example:\n  tenantry move complete 12 --wait")]
    Complete(Change),
}

#[derive(Debug, Args)]
struct Start {
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
    /// How both sides are compared [default: the control plane's]
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

#[derive(Debug, Args)]
struct Change {
    /// The move
    id: i64,
    /// Return when it is done
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = values::duration)]
    timeout: Duration,
}

pub(crate) async fn run(args: MoveArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        MoveCommand::Start(start) => run_start(&api, format, &start).await,
        MoveCommand::List => {
            let columns = [
                ("ID", "id"),
                ("TENANT", "tenant"),
                ("FROM", "from"),
                ("TO", "to"),
                ("STATE", "state"),
                ("STEP", "step"),
                ("HOLD MS", "hold_ms"),
                ("VERIFIED", "verified"),
                ("ERROR", "error"),
            ];
            Ok(output::list(format, &api.get(&["v1", "moves"]).await?, &columns)?)
        }
        MoveCommand::Show { id } => print(format, &api.get(&["v1", "moves", &id.to_string()]).await?),
        MoveCommand::Abort(change) => run_change(&api, format, &change, ("abort", &["aborted"])).await,
        MoveCommand::Reverse(change) => {
            run_change(&api, format, &change, ("reverse", &["switched", "completed"])).await
        }
        MoveCommand::Complete(change) => {
            run_change(&api, format, &change, ("complete", &["completed"])).await
        }
    }
}

async fn run_start(api: &Api, format: Format, start: &Start) -> anyhow::Result<()> {
    let mut body = json!({
        "tenant": start.tenant,
        "to": start.to,
        "dry_run": start.dry_run,
        "max_hold_ms": values::milliseconds(start.max_hold),
        "kill_stragglers": start.kill_stragglers,
        "wait_sessions": start.wait_sessions,
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
        return print(format, &answer);
    }
    let ended = wait_until(api, number_of(&answer)?, start.timeout, &|state| state != "running").await?;
    print(format, &ended)?;
    judge(&ended, &["switched", "completed"])
}

/// What is asked of a move, and the states in which it has been done.
type Verb<'a> = (&'a str, &'a [&'a str]);

async fn run_change(api: &Api, format: Format, change: &Change, verb: Verb<'_>) -> anyhow::Result<()> {
    let (verb, goal) = verb;
    let answer = api.post(&["v1", "moves", &change.id.to_string(), verb], &json!({})).await?;
    if !change.wait {
        return print(format, &answer);
    }
    // A reverse is a move of its own: what is followed is the one in the answer.
    let id = answer.get("id").and_then(Value::as_i64).unwrap_or(change.id);
    let over = |state: &str| {
        goal.contains(&state)
            || state == "failed"
            || state == "aborted"
            || verb == "abort" && state != "running"
    };
    let ended = wait_until(api, id, change.timeout, &over).await?;
    print(format, &ended)?;
    if verb == "abort" && ["switched", "completed"].contains(&text(&ended, "state")) {
        // Asked in the cutover, which ends by itself: this time with the decision.
        let message = format!("move {id} is switched: the wish to abort came too late");
        let hint = format!("bring the tenant back with: tenantry move reverse {id}");
        return Err(Failure::new(Exit::Refused, message).hint(hint).into());
    }
    judge(&ended, goal)
}

fn judge(ended: &Value, goal: &[&str]) -> anyhow::Result<()> {
    let state = text(ended, "state");
    if goal.contains(&state) {
        return Ok(());
    }
    let why = match text(ended, "error") {
        "" => String::new(),
        error => format!(": {error}"),
    };
    Err(Failure::failed(format!("move {} {state}{why}", number(ended, "id"))).into())
}

fn number_of(answer: &Value) -> anyhow::Result<i64> {
    answer.get("id").and_then(Value::as_i64).ok_or_else(|| anyhow::anyhow!("the answer has no move id"))
}

/// Waits until a move is in a state that `over` accepts, with progress.
pub(crate) async fn wait_until(
    api: &Api,
    id: i64,
    timeout: Duration,
    over: &dyn Fn(&str) -> bool,
) -> anyhow::Result<Value> {
    let (segment, what) = (id.to_string(), format!("move {id}"));
    let awaited = Awaited {
        path: &["v1", "moves", &segment],
        what: &what,
        ended: &|answer| over(text(answer, "state")),
        text: &progress,
        timeout,
        poll: wait::POLL,
    };
    wait::until(api, &awaited).await
}

/// One line about where a move stands.
fn progress(answer: &Value) -> String {
    let mut line = format!("{} to {}: {}", text(answer, "tenant"), text(answer, "to"), text(answer, "state"));
    if text(answer, "state") == "running" {
        line = format!("{} to {}: {}", text(answer, "tenant"), text(answer, "to"), text(answer, "step"));
        let (rows, total) = (number(answer, "rows_copied"), number(answer, "rows_total"));
        if rows > 0 {
            let of = if total > 0 { format!(" of {total}") } else { String::new() };
            line.push_str(&format!(", {rows}{of} rows, {}", size(number(answer, "bytes_copied"))));
        }
        if number(answer, "bytes_per_second") > 0 {
            line.push_str(&format!(", {}/s", size(number(answer, "bytes_per_second"))));
        }
        if let Some(lag) = answer.get("lag_bytes").and_then(Value::as_u64) {
            line.push_str(&format!(", lag {}", size(lag)));
        }
        if let Some(what) = answer.get("waiting_for").and_then(Value::as_str) {
            line.push_str(&format!(", waits for {what}"));
        }
    } else if let Some(hold) = answer.get("hold_ms").and_then(Value::as_f64) {
        line.push_str(&format!(", held new transactions for {hold} ms"));
    }
    line
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1000.0, 0);
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn print(format: Format, answer: &Value) -> anyhow::Result<()> {
    let steps = answer.get("steps").filter(|steps| steps.as_array().is_some_and(|steps| !steps.is_empty()));
    let (Format::Table, Some(steps)) = (format, steps) else { return Ok(output::object(format, answer)?) };
    let mut summary = answer.clone();
    if let Some(summary) = summary.as_object_mut() {
        summary.remove("steps");
    }
    output::object(format, &summary)?;
    output::line("")?;
    let columns = [("STEP", "step"), ("STARTED", "started_at"), ("ENDED", "ended_at"), ("RESULT", "result")];
    Ok(output::list(format, steps, &columns)?)
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
            output::list(format, findings, &[("LEVEL", "level"), ("WHAT", "what"), ("REMEDY", "remedy")])?;
        }
        if let Some(bytes) = answer.get("bytes").and_then(Value::as_u64) {
            output::line(&format!("to copy: {}", size(bytes)))?;
        }
    }
    let errors = findings.as_array().into_iter().flatten().filter(|f| text(f, "level") == "error").count();
    if errors == 0 {
        return Ok(());
    }
    let noun = if errors == 1 { "finding is" } else { "findings are" };
    Err(Failure::new(Exit::Refused, format!("{errors} {noun} in the way of this move")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_phase_rows_bytes_rate_and_lag() {
        let answer = json!({
            "tenant": "acme", "to": "pg-3", "state": "running", "step": "copy", "rows_copied": 10, "rows_total": 40,
            "bytes_copied": 1_500_000, "bytes_per_second": 999, "lag_bytes": 0,
        });
        assert_eq!(progress(&answer), "acme to pg-3: copy, 10 of 40 rows, 1.5 MB, 999 B/s, lag 0 B");
        let switched = json!({ "tenant": "acme", "to": "pg-3", "state": "switched", "hold_ms": 41 });
        assert_eq!(progress(&switched), "acme to pg-3: switched, held new transactions for 41 ms");
    }

    #[test]
    fn sizes_are_rounded_to_the_unit_they_fit() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(999_960), "1.0 MB");
        assert_eq!(size(12_345_678_901), "12.3 GB");
    }

    #[test]
    fn only_the_goal_is_a_success() {
        assert!(judge(&json!({ "id": 1, "state": "switched" }), &["switched"]).is_ok());
        let error =
            judge(&json!({ "id": 1, "state": "failed", "error": "disk" }), &["switched"]).unwrap_err();
        assert_eq!(error.to_string(), "move 1 failed: disk");
    }
}
