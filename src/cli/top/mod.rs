//! `tenantry top`: who keeps the fleet busy, live.
//!
//! Routers say once a second what they have to do; this asks the control plane for the sum of it. On a terminal it stays, and
//! draws anew; otherwise it says it once.

mod table;
mod terminal;

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use crate::cli::api::{Api, Connection};
use crate::cli::output::{self, Format};
use crate::cli::values;
use terminal::{Screen, Wish};

/// Routers report no more often.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
/// How long an answer is waited for before that is said.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// More tenants than a screen has lines for.
const TENANTS_MAX: u16 = 1_000;

/// The busiest tenants, those that wait, and the servers' load: live on a terminal, else once
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: b, w, t, c sort by busy, waiting, transactions or clients; q ends it\n\nExamples:\n  tenantry top\n  \
                  tenantry top --once --number 5 -o json"
)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    connection: Connection,
    /// How often to look
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// By what tenants are sorted
    #[arg(long, value_enum, default_value_t = Order::Busy)]
    sort: Order,
    /// How many tenants
    #[arg(short = 'n', long = "number", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=i64::from(TENANTS_MAX)))]
    number: u16,
    /// Say it once, also on a terminal
    #[arg(long)]
    once: bool,
}

/// By what tenants are sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Time in transactions
    Busy,
    /// Clients that wait for a connection
    Waiting,
    /// Transactions a second
    Transactions,
    /// Clients
    Clients,
}

impl Order {
    /// The key of what it looks at.
    fn key(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Waiting => "waiting",
            Self::Transactions => "transactions_per_second",
            Self::Clients => "clients",
        }
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = values::duration(text)?;
    if interval < INTERVAL_MIN { Err("use 1s or more".to_owned()) } else { Ok(interval) }
}

pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let live = !args.once && args.connection.output == Format::Table && std::io::stdout().is_terminal();
    if live {
        return watch(&api, &args).await;
    }
    let seen = look(&api, args.number, args.sort).await?;
    match args.connection.output {
        Format::Json => Ok(output::json(&seen)?),
        Format::Table => Ok(output::line(&table::text(&seen))?),
    }
}

async fn look(api: &Api, number: u16, order: Order) -> anyhow::Result<Value> {
    let top = TENANTS_MAX.to_string();
    let mut seen = api.get_where(&["v1", "load"], &[("top", &top)]).await?;
    if let Some(tenants) = seen["tenants"].as_array_mut() {
        let figure = |tenant: &Value| tenant[order.key()].as_f64().unwrap_or(0.0);
        // They come by how busy they are, and stay so where this is alike.
        tenants.sort_by(|a, b| figure(b).total_cmp(&figure(a)));
        tenants.truncate(usize::from(number));
    }
    Ok(seen)
}

async fn watch(api: &Api, args: &TopArgs) -> anyhow::Result<()> {
    let mut screen = Screen::open()?;
    let mut order = args.sort;
    let mut shown = String::new();
    let mut looks = tokio::time::interval(args.interval);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = async {
            looks.tick().await;
            tokio::time::timeout(LOOK_TIMEOUT, look(api, args.number, order)).await
        };
        // Keys are heard while an answer is waited for.
        let seen = tokio::select! {
            seen = next => seen,
            wish = screen.wish() => match wish {
                Wish::End => return Ok(()),
                Wish::Sort(wished) => {
                    order = wished;
                    looks.reset_immediately();
                    continue;
                }
            },
        };
        let headline = match seen {
            Ok(Ok(seen)) => {
                shown = table::text(&seen);
                format!("sorted by {}; b w t c sort, q ends it", order.key())
            }
            // What was seen last stays in sight: a control plane that changes its leader is back in seconds.
            Ok(Err(error)) => format!("no answer: {error:#}"),
            Err(_) => format!("no answer within look_timeout ({LOOK_TIMEOUT:?})"),
        };
        screen.draw(&headline, &shown)?;
    }
}
