//! `tenantry move`: a tenant's database to another server, while its clients keep working.

mod receipt;
pub(crate) mod show;
mod start;
mod words;

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cli::api::{Api, Connection, LONG_PAGE};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Format;
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
    Start(start::Start),
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
    /// Keep a move from copying, building and cutting over, until it is resumed; it goes on following
    #[command(after_help = "Example:\n  tenantry move pause 12")]
    Pause {
        /// The move
        id: i64,
    },
    /// Let a paused move go on
    #[command(after_help = "Example:\n  tenantry move resume 12")]
    Resume {
        /// The move
        id: i64,
    },
    /// Turn a move round within its window: back to the old server without a copy, with all that was written since
    #[command(after_help = "Example:\n  tenantry move reverse 12 --wait")]
    Reverse(Change),
    /// Drop the sealed copy at the old server now
    #[command(after_help = "Example:\n  tenantry move complete 12 --wait")]
    Complete(Change),
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
        MoveCommand::Start(start) => start::run(&api, format, &start).await,
        MoveCommand::List => show::list(format, &api.list(&["v1", "moves"], LONG_PAGE).await?),
        MoveCommand::Show { id } => show::print(format, &api.get(&["v1", "moves", &id.to_string()]).await?),
        MoveCommand::Abort(change) => run_change(&api, format, &change, ("abort", &["aborted"])).await,
        MoveCommand::Pause { id } => {
            let body = json!({ "by": std::env::var("USER").ok() });
            show::print(format, &api.post(&["v1", "moves", &id.to_string(), "pause"], &body).await?)
        }
        MoveCommand::Resume { id } => {
            show::print(format, &api.post(&["v1", "moves", &id.to_string(), "resume"], &json!({})).await?)
        }
        MoveCommand::Reverse(change) => {
            run_change(&api, format, &change, ("reverse", &["switched", "completed"])).await
        }
        MoveCommand::Complete(change) => {
            run_change(&api, format, &change, ("complete", &["completed"])).await
        }
    }
}

/// What is asked of a move, and the states in which it has been done.
type Verb<'a> = (&'a str, &'a [&'a str]);

async fn run_change(api: &Api, format: Format, change: &Change, verb: Verb<'_>) -> anyhow::Result<()> {
    let (verb, goal) = verb;
    let answer = api.post(&["v1", "moves", &change.id.to_string(), verb], &json!({})).await?;
    if !change.wait {
        return show::print(format, &answer);
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
    show::print(format, &ended)?;
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
        text: &show::progress,
        timeout,
        poll: wait::POLL,
    };
    wait::until(api, &awaited).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_goal_is_a_success() {
        assert!(judge(&json!({ "id": 1, "state": "switched" }), &["switched"]).is_ok());
        let error =
            judge(&json!({ "id": 1, "state": "failed", "error": "disk" }), &["switched"]).unwrap_err();
        assert_eq!(error.to_string(), "move 1 failed: disk");
    }
}
