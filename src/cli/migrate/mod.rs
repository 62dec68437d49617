//! `tenantry migrate`: schema changes over the fleet, in waves.
//!
//! The control plane keeps the SQL it was given, so a run goes on without this command or its directory.

mod files;
mod show;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shard_map::Selector;

use crate::cli::api::{Api, Connection, LONG_PAGE};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};
use crate::cli::values::{self, Waves};
use crate::cli::wait::{self, Awaited, number, text};
use show::{print_plan, print_run};

/// How long the look at all tenants may take that comes before a run.
const EXAMINE_TIMEOUT: Duration = Duration::from_secs(1800);

/// How long a run is followed.
const WATCH_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Schema changes over the fleet, in waves
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry migrate run --dir migrations --canary 2 --waves 1%,10%,100%")]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// What a run would do, tenant by tenant, what differs, and how long it would take; changes nothing; exits 4 if a run
    /// would be refused
    #[command(after_help = "Example:\n  tenantry migrate plan --dir migrations --selector plan=gold")]
    Plan(What),
    /// Bring tenants to the newest version: canaries first, then wave by wave; exits 1 if any failed
    #[command(
        after_help = "Example:\n  tenantry migrate run --dir migrations --canary 2 --waves 1%,10%,100%"
    )]
    Run {
        #[command(flatten)]
        what: What,
        /// Return at once, without waiting for the end
        #[arg(long)]
        no_wait: bool,
        /// How long to wait
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::duration)]
        timeout: Duration,
    },
    /// Where a run stands; the latest one if none is named
    #[command(after_help = "Example:\n  tenantry migrate status --watch")]
    Status {
        /// The run
        run: Option<i64>,
        /// Follow it to its end
        #[arg(long)]
        watch: bool,
    },
    /// All runs
    #[command(after_help = "Example:\n  tenantry migrate list")]
    List,
    /// Go on with a run that stopped, and try again what failed
    #[command(after_help = "Example:\n  tenantry migrate resume 7")]
    Resume {
        /// The run
        run: i64,
        /// Return at once, without waiting for the end
        #[arg(long)]
        no_wait: bool,
        /// How long to wait
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = values::duration)]
        timeout: Duration,
    },
    /// Start no further tenant; those that are under way end
    #[command(after_help = "Example:\n  tenantry migrate abort 7")]
    Abort {
        /// The run
        run: i64,
    },
}

#[derive(Debug, Args)]
struct What {
    /// Directory of the files `V<number>__<name>.sql`
    #[arg(long)]
    dir: PathBuf,
    /// Only tenants with these labels: key=value, several joined by commas
    #[arg(long, value_name = "KEY=VALUE", default_value = "*")]
    selector: Selector,
    /// Tenants that go first; if one fails, the run stops
    #[arg(long, value_name = "N", default_value_t = 1)]
    canary: u32,
    /// Shares of the fleet, growing to all of it
    #[arg(long, default_value = "1%,10%,100%", value_parser = values::waves)]
    waves: Waves,
    /// Tenants at once on one server
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    per_server: u32,
    /// Failures after which the run stops
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_failures: u32,
    /// How long a statement waits for a lock before it gives way and is tried again
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = values::duration)]
    lock_timeout: Duration,
    /// How long one statement may take
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = values::duration)]
    statement_timeout: Duration,
}

pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        MigrateCommand::Plan(what) => {
            let plan = api.post_within(&["v1", "migrations", "plan"], &body(&what)?, EXAMINE_TIMEOUT).await?;
            print_plan(format, &plan)?;
            match plan["refused"].as_str() {
                Some(why) => {
                    Err(Failure::new(Exit::Refused, format!("a run would be refused: {why}")).into())
                }
                None => Ok(()),
            }
        }
        MigrateCommand::Run { what, no_wait, timeout } => {
            let run = api.post_within(&["v1", "migrations"], &body(&what)?, EXAMINE_TIMEOUT).await?;
            if no_wait {
                return Ok(output::object(format, &run)?);
            }
            finish(&api, format, number_of(&run)?, timeout).await
        }
        MigrateCommand::Resume { run, no_wait, timeout } => {
            let answer = api.post(&["v1", "migrations", &run.to_string(), "resume"], &json!({})).await?;
            if no_wait {
                return Ok(output::object(format, &answer)?);
            }
            finish(&api, format, run, timeout).await
        }
        MigrateCommand::Abort { run } => {
            let answer = api.post(&["v1", "migrations", &run.to_string(), "abort"], &json!({})).await?;
            Ok(output::object(format, &answer)?)
        }
        MigrateCommand::Status { run, watch } => {
            let run = match run {
                Some(run) => run,
                None => latest(&api).await?,
            };
            let run = match watch {
                true => wait_for_run(&api, run, WATCH_MAX).await?,
                false => api.get(&["v1", "migrations", &run.to_string()]).await?,
            };
            Ok(print_run(format, &run)?)
        }
        MigrateCommand::List => {
            let columns = [
                ("RUN", "id"),
                ("STATE", "state"),
                ("VERSION", "version"),
                ("TOTAL", "total"),
                ("DONE", "done"),
                ("FAILED", "failed"),
                ("PENDING", "pending"),
            ];
            Ok(output::list(format, &api.list(&["v1", "migrations"], LONG_PAGE).await?, &columns)?)
        }
    }
}

async fn latest(api: &Api) -> anyhow::Result<i64> {
    let runs = api.get(&["v1", "migrations"]).await?;
    let ids = runs.as_array().into_iter().flatten().filter_map(|run| run.get("id").and_then(Value::as_i64));
    ids.max().ok_or_else(|| {
        Failure::new(Exit::NotFound, "no migration was ever run")
            .hint("start one with: tenantry migrate run --dir DIR")
            .into()
    })
}

fn number_of(run: &Value) -> anyhow::Result<i64> {
    run.get("id").and_then(Value::as_i64).ok_or_else(|| anyhow::anyhow!("the answer has no run id"))
}

/// Waits for a run's end and prints it; fails when any tenant failed.
async fn finish(api: &Api, format: Format, run: i64, timeout: Duration) -> anyhow::Result<()> {
    let run = wait_for_run(api, run, timeout).await?;
    print_run(format, &run)?;
    let (id, failed) = (number_of(&run)?, number(&run, "failed"));
    if failed > 0 {
        return Err(Failure::failed(format!(
            "migration run {id}: {failed} of {} tenants failed",
            number(&run, "total")
        ))
        .hint(format!(
            "mend the data, then: tenantry migrate resume {id}; or the files, then: tenantry migrate run"
        ))
        .into());
    }
    match text(&run, "state") {
        "done" => Ok(()),
        state => Err(Failure::failed(format!("migration run {id} ended as {state}")).into()),
    }
}

/// Waits until a run is done, or has stopped.
pub(crate) async fn wait_for_run(api: &Api, run: i64, timeout: Duration) -> anyhow::Result<Value> {
    let ended = |run: &Value| text(run, "state") != "running";
    let (id, what) = (run.to_string(), format!("migration run {run}"));
    let path = ["v1", "migrations", id.as_str()];
    wait::until(
        api,
        &Awaited {
            path: &path,
            what: &what,
            ended: &ended,
            text: &show::progress,
            timeout,
            poll: wait::POLL,
        },
    )
    .await
}

fn body(what: &What) -> anyhow::Result<Value> {
    let files: Vec<Value> = files::read_dir(&what.dir)?
        .into_iter()
        .map(|(name, sql)| json!({ "name": name, "sql": sql }))
        .collect();
    Ok(request(&files, what))
}

fn request(files: &[Value], what: &What) -> Value {
    json!({
        "files": files,
        "selector": what.selector.to_string(),
        "canary": what.canary,
        "waves": what.waves.0,
        "per_server": what.per_server,
        "max_failures": what.max_failures,
        "lock_timeout_ms": values::milliseconds(what.lock_timeout),
        "statement_timeout_ms": values::milliseconds(what.statement_timeout),
    })
}
