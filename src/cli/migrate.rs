//! `tenantry migrate`: schema changes over the fleet, in waves.
//!
//! The files are read and checked here, all of them, before anything is sent: a fleet must not learn of a bad name
//! half-way. The control plane keeps the SQL it was given, so a run goes on without this command or its directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shard_map::Selector;

use crate::cli::api::{Api, Connection};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};
use crate::cli::values::{self, Waves};
use crate::cli::wait::{self, Awaited, number, text};

/// Largest migration file.
const FILE_BYTES_MAX: u64 = 16 << 20;

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
    /// What a run would do, tenant by tenant; changes nothing
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
    #[command(after_help = "Example:\n  tenantry migrate status -o json")]
    Status {
        /// The run
        run: Option<i64>,
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
}

pub(crate) async fn run(args: MigrateArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        MigrateCommand::Plan(what) => {
            let plan = api.post(&["v1", "migrations", "plan"], &body(&what)?).await?;
            Ok(print_plan(format, &plan)?)
        }
        MigrateCommand::Run { what, no_wait, timeout } => {
            let run = api.post(&["v1", "migrations"], &body(&what)?).await?;
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
        MigrateCommand::Status { run } => {
            let run = match run {
                Some(run) => run,
                None => latest(&api).await?,
            };
            let run = api.get(&["v1", "migrations", &run.to_string()]).await?;
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
            Ok(output::list(format, &api.get(&["v1", "migrations"]).await?, &columns)?)
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
    let shown = |run: &Value| {
        let (done, total) = (number(run, "done"), number(run, "total"));
        format!("migration {}: {done} of {total} done, {} failed", text(run, "state"), number(run, "failed"))
    };
    let (id, what) = (run.to_string(), format!("migration run {run}"));
    let path = ["v1", "migrations", id.as_str()];
    wait::until(api, &Awaited { path: &path, what: &what, ended: &ended, text: &shown, timeout }).await
}

fn print_run(format: Format, run: &Value) -> std::io::Result<()> {
    let failures = run.get("failures").filter(|list| list.as_array().is_some_and(|list| !list.is_empty()));
    let (Format::Table, Some(failures)) = (format, failures) else { return output::object(format, run) };
    let mut summary = run.clone();
    if let Some(summary) = summary.as_object_mut() {
        summary.remove("failures");
    }
    output::object(format, &summary)?;
    output::line("")?;
    output::list(format, failures, &[("TENANT", "tenant"), ("ERROR", "error")])
}

fn print_plan(format: Format, plan: &Value) -> std::io::Result<()> {
    if format == Format::Json {
        return output::json(plan);
    }
    let tenants = plan.get("tenants").unwrap_or(&Value::Null);
    let columns =
        [("TENANT", "tenant"), ("SERVER", "server"), ("SCHEMA", "schema_version"), ("PENDING", "pending")];
    output::list(format, tenants, &columns)
}

fn body(what: &What) -> anyhow::Result<Value> {
    let files: Vec<Value> =
        read_dir(&what.dir)?.into_iter().map(|(name, sql)| json!({ "name": name, "sql": sql })).collect();
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
    })
}

/// Reads the migrations of a directory, by version. Files that are not `.sql` (a README) are none of ours.
fn read_dir(dir: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let unreadable =
        |path: &Path, why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", path.display()));
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|error| unreadable(dir, &error))? {
        let path = entry.map_err(|error| unreadable(dir, &error))?.path();
        if path.extension().is_none_or(|extension| extension != "sql") {
            continue;
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let version = version_of(&name).ok_or_else(|| {
            unreadable(
                &path,
                &"is not a migration's name: write V<number>__<name>.sql, such as V3__add_index.sql",
            )
        })?;
        let size = path.metadata().map_err(|error| unreadable(&path, &error))?.len();
        if size > FILE_BYTES_MAX {
            return Err(unreadable(&path, &"is over 16 MiB: load data apart from schema changes").into());
        }
        let bytes = std::fs::read(&path).map_err(|error| unreadable(&path, &error))?;
        let sql = String::from_utf8(bytes).map_err(|_| unreadable(&path, &"is not UTF-8"))?;
        if sql.contains('\0') {
            return Err(unreadable(&path, &"has a zero byte, which Postgres does not allow in SQL").into());
        }
        if let Some((other, _)) = files.insert(version, (name.clone(), sql)) {
            return Err(unreadable(&path, &format!("has the same version as {other}")).into());
        }
    }
    if files.is_empty() {
        return Err(unreadable(dir, &"has no files V<number>__<name>.sql").into());
    }
    Ok(files.into_values().collect())
}

/// The version in `V<number>__<name>.sql`.
fn version_of(name: &str) -> Option<u32> {
    let (number, rest) = name.strip_prefix('V')?.strip_suffix(".sql")?.split_once("__")?;
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let named = !rest.is_empty() && rest.chars().all(|c| c.is_alphanumeric() || "_-. ".contains(c));
    number.parse().ok().filter(|version| digits && named && *version > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_the_version() {
        assert_eq!(version_of("V12__add_index.sql"), Some(12));
        assert_eq!(version_of("V007__x.sql"), Some(7));
        for name in ["V__x.sql", "V1_x.sql", "V1__.sql", "v1__x.sql", "V0__x.sql", "V-1__x.sql", "1__x.sql"] {
            assert_eq!(version_of(name), None, "{name}");
        }
    }

    #[test]
    fn the_repositorys_own_migrations_are_read_in_order() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations/tenant");
        let names: Vec<_> = read_dir(&dir).unwrap().into_iter().map(|(name, _)| name).collect();
        let versions: Vec<_> = names.iter().map(|name| version_of(name).unwrap()).collect();
        assert!(versions.is_sorted() && versions[0] == 1, "{names:?}");
    }

    #[test]
    fn a_directory_that_cannot_be_used_says_which_file_and_why() {
        let dir = std::env::temp_dir().join(format!("tenantry-migrate-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let error = || {
            let error = read_dir(&dir).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Usage);
            error.to_string()
        };
        assert!(error().contains("has no files"));
        std::fs::write(dir.join("V1__a.sql"), "select 1").unwrap();
        std::fs::write(dir.join("README.md"), "notes").unwrap();
        assert_eq!(read_dir(&dir).unwrap().len(), 1);
        std::fs::write(dir.join("V01__b.sql"), "select 1").unwrap();
        assert!(error().contains("same version"));
        std::fs::remove_file(dir.join("V01__b.sql")).unwrap();
        std::fs::write(dir.join("V2__latin.sql"), b"select '\xe9'").unwrap();
        assert!(error().contains("V2__latin.sql: is not UTF-8"));
        std::fs::write(dir.join("add.sql"), "select 1").unwrap();
        std::fs::remove_file(dir.join("V2__latin.sql")).unwrap();
        assert!(error().contains("add.sql: is not a migration's name"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
