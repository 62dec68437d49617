//! Logs of the long-running roles: on stderr, one line an event, for people or as JSON.
//!
//! Whoever starts the process decides where stderr goes (a journal, a container's log, a file); there is no rotation,
//! no file and no exporter here. What is logged can be changed while the process runs. Metrics are the packages' own and
//! served over HTTP.

use clap::ValueEnum;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, Registry, reload};

use crate::cli::failure::Failure;

/// What is logged unless somebody says otherwise.
pub(crate) const DEFAULT_FILTER: &str = "info";

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// The filter in force, to be replaced.
#[derive(Clone)]
pub(crate) struct Filter(reload::Handle<EnvFilter, Registry>);

impl Filter {
    /// Puts another filter in force.
    pub(crate) fn set(&self, filter: &str) -> Result<(), String> {
        self.0.reload(parse(filter)?).map_err(|error| error.to_string())
    }
}

/// Says what is wrong with a filter, if anything is.
pub(crate) fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    let allowed = "write error, warn, info, debug or trace, or a list such as info,router=debug";
    EnvFilter::try_new(filter).map_err(|error| format!("{filter:?} is not allowed: {error}; {allowed}"))
}

/// Begins to log events that pass the filter, such as `info` or `info,router=debug`.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<Filter, Failure> {
    let filter = parse(filter).map_err(|why| Failure::usage(format!("--log {why}")))?;
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| Failure::failed(format!("logging can't be started: {error}")))?;
    Ok(Filter(handle))
}
