//! Logs of the long-running roles: on stderr, one line an event, for people or as JSON.
//!
//! Whoever starts the process decides where stderr goes (a journal, a container's log, a file); there is no rotation,
//! no file and no exporter here. Metrics are the packages' own and served over HTTP.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::cli::failure::Failure;

/// What a log line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Begins to log events that pass the filter, such as `info` or `info,router=debug`.
pub(crate) fn start(filter: &str, format: LogFormat) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::usage(format!("--log {filter:?} is not allowed: {error}"))
            .hint("write error, warn, info, debug or trace, or a list such as info,router=debug")
    })?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| Failure::failed(format!("logging can't be started: {error}")))
}
