//! What stands in the way of a move, all at once, each with its remedy; and what it will take. Before anything is touched.

mod estimate;
mod people;
mod probes;
mod room;
mod servers;
mod versions;

use serde::Serialize;
use shard_map::{Server, TenantId};

use super::held;
use crate::context::Context;
use crate::error::{Error, Result};
use crate::server::tables;
use crate::server::{Connection, database};
use estimate::{Estimate, Log};

/// Whether a finding forbids the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// The move is refused.
    Error,
    /// The move goes on, and the operator should know.
    Warning,
}

/// Findings that an operator may take upon himself: nothing is lost by them that a move could have kept.
const ACCEPTABLE: [&str; 5] =
    ["capacity", "foreign_servers", "log_positions", "tablespaces", held::UNLOGGED_ROWS];

/// Something that was found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What it is for programs, and for `--accept`.
    pub(crate) code: &'static str,
    pub(crate) what: String,
    pub(crate) remedy: String,
}

/// All that was found, and how much there is to do.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Preflight {
    pub(crate) findings: Vec<Finding>,
    pub(crate) tables: usize,
    pub(crate) rows_estimate: i64,
    /// To copy: tables, without their indexes.
    pub(crate) bytes: i64,
    /// What it takes on the target's disk: all of the database, its indexes too.
    pub(crate) database_bytes: i64,
    pub(crate) estimate: Estimate,
}

impl Preflight {
    pub(crate) fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.level == Level::Error)
    }

    /// Takes findings as warnings that an operator accepts, by their codes.
    ///
    /// # Errors
    /// [`Error::Usage`] for a code that is none, or that stands for what can't be accepted.
    pub(crate) fn accept(&mut self, codes: &[String]) -> Result<()> {
        if let Some(other) = codes.iter().find(|code| !ACCEPTABLE.contains(&code.as_str())) {
            let known = ACCEPTABLE.join(", ");
            return Err(Error::Usage(format!("accept: {other:?} can't be accepted, only {known}")));
        }
        for finding in &mut self.findings {
            if codes.iter().any(|code| code == finding.code) {
                finding.level = Level::Warning;
            }
        }
        Ok(())
    }

    fn add(&mut self, level: Level, code: &'static str, what: impl Into<String>, remedy: impl Into<String>) {
        let mut remedy = remedy.into();
        if level == Level::Error && ACCEPTABLE.contains(&code) {
            remedy.push_str(&format!("; or start the move with --accept {code}"));
        }
        self.findings.push(Finding { level, code, what: what.into(), remedy });
    }
}

/// Both sides of a move that is looked at.
struct Sides<'a> {
    source: &'a Server,
    target: &'a Server,
    /// To the tenant's database.
    on_source: Connection,
    /// To the target's registry.
    on_target: Connection,
}

impl Sides<'_> {
    fn each(&self) -> [(&Server, &Connection); 2] {
        [(self.source, &self.on_source), (self.target, &self.on_target)]
    }
}

/// Looks at both sides. A dry run takes a second for the rate at which the source writes its log.
pub(crate) async fn run(
    context: &Context,
    id: &TenantId,
    (source, target): (&Server, &Server),
    is_dry: bool,
) -> Result<Preflight> {
    let sides = Sides {
        source,
        target,
        on_source: context.connector.database(source, id.live_database()).await?,
        on_target: context.connector.registry(target).await?,
    };
    let log = Log::watch(&sides.on_source).await?;
    let tables = tables::list(&sides.on_source).await?;
    let mut found = Preflight {
        findings: Vec::new(),
        tables: tables.len(),
        rows_estimate: tables.iter().map(|table| table.rows_estimate).sum(),
        bytes: tables.iter().map(|table| table.bytes).sum(),
        database_bytes: sides
            .on_source
            .value("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())", &[])
            .await?,
        estimate: Estimate::default(),
    };
    servers::look(&mut found, context, &sides).await?;
    versions::look(&mut found, context, &sides).await?;
    probes::ask(&mut found, &sides.on_source).await?;
    servers::roles(&mut found, &sides, id).await?;
    servers::extensions(&mut found, &sides).await?;
    names(&mut found, &sides, id).await?;
    people::look(&mut found, context, &sides, id).await?;
    let log_rate = log.bytes_per_second(&sides.on_source, is_dry).await?;
    found.estimate = estimate::make(context, found.bytes, log_rate).await?;
    room::look(&mut found, context, &sides).await?;
    Ok(found)
}

/// What the target must not have yet.
async fn names(found: &mut Preflight, sides: &Sides<'_>, id: &TenantId) -> Result<()> {
    let whose = "find out whose it is; a tenant's database may exist on one server only";
    for (name, remedy) in [
        (id.live_database().to_owned(), whose),
        (id.arriving_database(), "find the move that it belongs to, or drop it"),
    ] {
        if database::exists(&sides.on_target, &name).await? {
            let what = format!("server {} has a database {name} already", sides.target.name);
            found.add(Level::Error, "name_taken", what, remedy);
        }
    }
    Ok(())
}
