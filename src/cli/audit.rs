//! `tenantry audit`: who changed what.

use std::time::Duration;

use clap::Args;

use crate::cli::api::{Api, Connection};
use crate::cli::{output, values};

/// Who changed what, or was refused to; the newest first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  tenantry audit --about acme --since 24h\n  tenantry audit --who ann -n 20"
)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    connection: Connection,
    /// Of this token
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
    /// About this tenant, server or whatever has this name
    #[arg(long, value_name = "NAME")]
    about: Option<String>,
    /// Not longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    since: Option<Duration>,
    /// How many
    #[arg(short = 'n', long = "number", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    number: u32,
}

pub(crate) async fn run(args: AuditArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let since = args.since.map(|since| since.as_secs().to_string());
    let number = args.number.to_string();
    let query = [("who", args.who), ("about", args.about), ("since_s", since), ("limit", Some(number))];
    let query: Vec<(&str, &str)> =
        query.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?))).collect();
    let columns = [
        ("AT", "at"),
        ("WHO", "who"),
        ("ROLE", "role"),
        ("ADDRESS", "address"),
        ("METHOD", "method"),
        ("PATH", "path"),
        ("ABOUT", "about"),
        ("STATUS", "status"),
        ("OPERATION", "operation"),
    ];
    Ok(output::list(args.connection.output, &api.get_where(&["v1", "audit"], &query).await?, &columns)?)
}
