//! `tenantry map`: the shard map as a whole, held against the servers, set right, exported and declared.
//!
//! These commands must work when the control plane can't: its catalog may be what is lost. So with `--config`, the
//! control plane's own configuration, they do their work by themselves, on the catalog and the servers; without it they
//! ask the API, as all others do. Either way it is the same code that does it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use control::{ControlConfig, MapTools};
use serde_json::{Value, json};
use shard_map::fleet::Fleet;
use shard_map::recovery::{MapFile, Sources};

use crate::cli::api::{Api, Connection};
use crate::cli::dev::write_private;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};
use crate::config::{Layers, Role};

/// Lines of a plan that a table shows.
const PLAN_LINES_MAX: usize = 100;

/// The shard map: verify, rebuild, export, import, declare
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry map verify")]
pub(crate) struct MapArgs {
    #[command(flatten)]
    connection: Connection,
    /// Work on the catalog and the servers directly, with this configuration of the control plane, which need not run
    #[arg(
        long,
        value_name = "FILE",
        env = "TENANTRY_MAP_CONFIG",
        global = true,
        help_heading = "Connection"
    )]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: MapCommand,
}

#[derive(Debug, Subcommand)]
enum MapCommand {
    /// Name each difference between the catalog, the servers' registries and their databases; exits 1 if there is one
    #[command(after_help = "Example:\n  tenantry map verify -o json")]
    Verify(Files),
    /// Make the catalog anew from the servers' registries; without --apply, only print what that would change
    #[command(
        after_help = "Example:\n  tenantry map rebuild --config /etc/tenantry/control.toml --file fleet.toml --snapshot snapshot --apply"
    )]
    Rebuild {
        #[command(flatten)]
        files: Files,
        /// Carry it out
        #[arg(long)]
        apply: bool,
        /// Take users that are lost from a router's snapshot or an exported map, however old, and nothing else
        #[arg(long, value_name = "FILE")]
        users_from: Option<PathBuf>,
        /// Go on although neither the catalog nor a file has users: nobody can log in until there are some
        #[arg(long)]
        without_users: bool,
    },
    /// Write the map to a file, or to standard output. It holds users' SCRAM verifiers: keep it to yourself
    #[command(after_help = "Example:\n  tenantry map export map-2026-11-21")]
    Export {
        /// The file; its mode is 0600. Without it, or as -, standard output
        file: Option<PathBuf>,
    },
    /// Make the catalog what an exported file says; refused as a whole where the servers' registries do not agree
    #[command(after_help = "Example:\n  tenantry map import map-2026-11-21 --dry-run")]
    Import {
        /// An exported map, or a router's snapshot
        file: PathBuf,
        /// Only print what would change
        #[arg(long)]
        dry_run: bool,
    },
    /// Make servers, placement policies and users what a file declares; what it does not declare stays
    #[command(after_help = "Example:\n  tenantry map apply fleet.toml --dry-run")]
    Apply {
        /// A declared fleet, TOML
        file: PathBuf,
        /// Only print what would change
        #[arg(long)]
        dry_run: bool,
    },
}

/// Files beside catalog and registries.
#[derive(Debug, Args)]
struct Files {
    /// The declared fleet, TOML: names servers that the catalog lost
    #[arg(long, value_name = "FILE", env = "TENANTRY_MAP_FILE")]
    file: Option<PathBuf>,
    /// A router's snapshot or an exported map: has users, labels and limits, which registries do not know
    /// [default: what TENANTRY_MAP_SNAPSHOT names, if it is there]
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
}

impl Files {
    fn read(&self) -> anyhow::Result<Texts> {
        // A router writes its snapshot when it has a map; one that has none yet keeps nobody from recovery.
        let usual =
            || std::env::var_os("TENANTRY_MAP_SNAPSHOT").map(PathBuf::from).filter(|path| path.exists());
        Texts::read(self.file.as_deref(), self.snapshot.clone().or_else(usual).as_deref())
    }
}

/// Who does the work.
enum Worker {
    Here(Box<MapTools>),
    Control(Api),
}

pub(crate) async fn run(args: MapArgs) -> anyhow::Result<()> {
    let worker = match &args.config {
        Some(config) => Worker::Here(Box::new(tools(config)?)),
        None => Worker::Control(Api::new(&args.connection)?),
    };
    let format = args.connection.output;
    match args.command {
        MapCommand::Verify(files) => verify(&worker, &files, format).await,
        MapCommand::Rebuild { files, apply, users_from, without_users } => {
            let mut texts = files.read()?;
            if let Some(path) = users_from {
                (texts.sources.users, texts.users) = Texts::map(&path)?;
            }
            texts.sources.without_users = without_users;
            change(&worker, "rebuild", &texts, (apply, format)).await
        }
        MapCommand::Export { file } => {
            let file = file.filter(|file| file.as_os_str() != "-");
            export(&worker, file.as_deref(), format).await
        }
        MapCommand::Import { file, dry_run } => {
            change(&worker, "import", &Texts::read(None, Some(&file))?, (!dry_run, format)).await
        }
        MapCommand::Apply { file, dry_run } => {
            change(&worker, "apply", &Texts::read(Some(&file), None)?, (!dry_run, format)).await
        }
    }
}

/// Makes a catalog anew that is lost, by the files of the fleet that it was of.
pub(crate) async fn make_anew(config: &Path, declared: &Path, snapshot: &Path) -> anyhow::Result<()> {
    let texts = Texts::read(Some(declared), Some(snapshot).filter(|path| path.exists()))?;
    tools(config)?.rebuild(&texts.sources, true).await.map(drop).map_err(|error| failure(error).into())
}

fn tools(config: &Path) -> anyhow::Result<MapTools> {
    let (config, secrets) = read_config(config)?;
    Ok(MapTools::new(&config, &secrets).map_err(failure)?)
}

/// The control plane's own configuration, for who does its work.
pub(crate) fn read_config(config: &Path) -> anyhow::Result<(ControlConfig, control::Secrets)> {
    let layers = Layers::of_process(Role::Control, Some(config), &[])?;
    let (config, secrets) = layers.read(ControlConfig::validate)?;
    for warning in &secrets.warnings {
        eprintln!("warning: {warning}");
    }
    let catalog_url = secrets.catalog_url.context("the configuration names no catalog")?;
    let master_key = secrets.master_key.context("the configuration names no master key")?;
    let token = secrets.token.context("the configuration names no token")?;
    Ok((config, control::Secrets { catalog_url, master_key, token }))
}

/// Files' contents, checked here: a wrong one is refused before anything is sent or read.
struct Texts {
    declared: Option<String>,
    file: Option<String>,
    users: Option<String>,
    sources: Sources,
}

impl Texts {
    fn read(declared: Option<&Path>, file: Option<&Path>) -> anyhow::Result<Self> {
        let mut texts = Self { declared: None, file: None, users: None, sources: Sources::default() };
        if let Some(path) = declared {
            let read = Self::text(path)?;
            let fleet = Fleet::parse(&read);
            let fleet = fleet.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
            (texts.sources.declared, texts.declared) = (Some(fleet), Some(read));
        }
        if let Some(path) = file {
            (texts.sources.file, texts.file) = Self::map(path)?;
        }
        Ok(texts)
    }

    fn text(path: &Path) -> anyhow::Result<String> {
        let read = std::fs::read_to_string(path);
        read.map_err(|error| Failure::usage(format!("{}: {error}", path.display())).into())
    }

    fn map(path: &Path) -> anyhow::Result<(Option<MapFile>, Option<String>)> {
        let read = Self::text(path)?;
        let map = MapFile::decode(read.as_bytes());
        let map = map.map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
        Ok((Some(map), Some(read)))
    }

    fn wish(&self, dry_run: bool) -> Value {
        json!({
            "declared": self.declared, "file": self.file, "users": self.users, "dry_run": dry_run,
            "without_users": self.sources.without_users,
        })
    }
}

async fn verify(worker: &Worker, files: &Files, format: Format) -> anyhow::Result<()> {
    let texts = files.read()?;
    let findings = match worker {
        Worker::Here(tools) => json!(tools.verify(&texts.sources).await.map_err(failure)?),
        Worker::Control(api) => api.post(&["v1", "map", "verify"], &texts.wish(true)).await?,
    };
    let count = findings.as_array().map_or(0, Vec::len);
    if count == 0 && format == Format::Table {
        return Ok(output::line("no differences")?);
    }
    print_findings(format, &findings)?;
    if count == 0 {
        return Ok(());
    }
    let noun = if count == 1 { "difference" } else { "differences" };
    Err(Failure::failed(format!("{count} {noun} between the catalog and the servers"))
        .hint("what each kind means, and what to do: docs/recovery.md; tenantry map rebuild shows what it would set right")
        .into())
}

fn print_findings(format: Format, findings: &Value) -> std::io::Result<()> {
    let columns = [
        ("KIND", "kind"),
        ("SERVER", "server"),
        ("TENANT", "tenant"),
        ("DATABASE", "database"),
        ("DETAIL", "detail"),
    ];
    output::list(format, findings, &columns)
}

async fn export(worker: &Worker, file: Option<&Path>, format: Format) -> anyhow::Result<()> {
    let text = match worker {
        Worker::Here(tools) => tools.export().await.map_err(failure)?.encode()?,
        Worker::Control(api) => {
            let answer = api.get(&["v1", "map"]).await?;
            answer["file"].as_str().context("the answer has no file")?.to_owned()
        }
    };
    // As it will be read: a file that can't be is no backup.
    let map = MapFile::decode(text.as_bytes()).context("the export is not sound")?;
    let Some(path) = file else { return Ok(output::line(&text)?) };
    write_private(path, &text)?;
    let summary = json!({
        "file": path.display().to_string(), "version": map.version, "servers": map.servers.len(),
        "tenants": map.tenants.len(), "users": map.users.len(),
    });
    Ok(output::object(format, &summary)?)
}

/// Prints the plan; then carries it out, if that is wanted.
async fn change(
    worker: &Worker,
    verb: &str,
    texts: &Texts,
    (write, format): (bool, Format),
) -> anyhow::Result<()> {
    if format == Format::Table {
        let plan = ask(worker, verb, texts, true).await?;
        print_plan(&plan)?;
        if !write {
            return Ok(());
        }
    }
    let outcome = ask(worker, verb, texts, !write).await?;
    if format == Format::Json {
        output::json(&outcome)?;
    } else {
        output::line("done")?;
    }
    let left = outcome["left"].as_array().map_or(0, Vec::len);
    if !write || left == 0 {
        return Ok(());
    }
    let noun = if left == 1 { "difference stays" } else { "differences stay" };
    Err(Failure::failed(format!("{left} {noun}: it is for you to decide"))
        .hint("what each kind means, and what to do: docs/recovery.md")
        .into())
}

async fn ask(worker: &Worker, verb: &str, texts: &Texts, dry_run: bool) -> anyhow::Result<Value> {
    let tools = match worker {
        Worker::Here(tools) => tools,
        Worker::Control(api) => return api.post(&["v1", "map", verb], &texts.wish(dry_run)).await,
    };
    let sources = &texts.sources;
    let outcome = match (verb, &sources.file, &sources.declared) {
        ("import", Some(file), _) => tools.import(file, dry_run).await,
        ("apply", _, Some(fleet)) => tools.apply(fleet, dry_run).await,
        _ => tools.rebuild(sources, !dry_run).await,
    };
    Ok(json!(outcome.map_err(failure)?))
}

fn print_plan(plan: &Value) -> std::io::Result<()> {
    let steps = plan["steps"].as_array().map_or(&[][..], Vec::as_slice);
    if steps.is_empty() {
        output::line("nothing to change")?;
    } else {
        let shown = json!(steps[..steps.len().min(PLAN_LINES_MAX)]);
        let columns = [("DO", "do"), ("WHAT", "what"), ("NAME", "name"), ("DETAIL", "detail")];
        output::list(Format::Table, &shown, &columns)?;
        if steps.len() > PLAN_LINES_MAX {
            output::line(&format!("… and {} more; all of them with -o json", steps.len() - PLAN_LINES_MAX))?;
        }
    }
    for note in plan["notes"].as_array().into_iter().flatten() {
        output::line(&format!("note: {}", note.as_str().unwrap_or_default()))?;
    }
    if plan["left"].as_array().is_some_and(|left| !left.is_empty()) {
        output::line("\nstays as it is:")?;
        print_findings(Format::Table, &plan["left"])?;
    }
    Ok(())
}

/// A failure of work done here, with the status that the API would have given it.
fn failure(error: control::Error) -> Failure {
    use control::Error as E;
    let exit = if error.is_unreachable() {
        Exit::Unreachable
    } else if error.is_refusal() {
        Exit::Refused
    } else if matches!(error, E::Usage(_)) {
        Exit::Usage
    } else {
        Exit::Failed
    };
    let failure = Failure::new(exit, error.to_string());
    match error {
        E::Refused { hint: Some(hint), .. } => failure.hint(hint),
        _ => failure,
    }
}
