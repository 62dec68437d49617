//! `tenantry tenant`: customer accounts, each with a database of its own.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use shard_map::{Selector, ServerName, TenantId};

use crate::cli::api::{Api, Connection};
use crate::cli::confirm::confirm;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};
use crate::cli::server::Class;
use crate::cli::{values, wait};

/// How long an answer may wait for the tenant to serve; then it is asked for now and then.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Tenants that one answer has at most.
const PAGE: &str = "10000";

/// Customer accounts, each with a database of its own
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry tenant create acme --label plan=gold --wait")]
pub(crate) struct TenantArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: TenantCommand,
}

#[derive(Debug, Subcommand)]
enum TenantCommand {
    /// Make a tenant's database on a server that is named, or chosen by class and load
    #[command(
        after_help = "Example:\n  tenantry tenant create acme --class dedicated --label plan=gold --wait"
    )]
    Create(Create),
    /// Tenants, and where they live
    #[command(after_help = "Example:\n  tenantry tenant list --server pg-1 --selector plan=gold -o json")]
    List {
        /// Only those on this server
        #[arg(long)]
        server: Option<ServerName>,
        /// Only those with these labels: key=value, several joined by commas
        #[arg(long, value_name = "KEY=VALUE")]
        selector: Option<Selector>,
        /// Only those with this in their id
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// One tenant, and what is being done with it
    #[command(after_help = "Example:\n  tenantry tenant show acme -o json")]
    Show {
        /// The tenant
        id: TenantId,
    },
    /// Give it quotas of its own, or time to make room
    #[command(after_help = "Example:\n  tenantry tenant set acme --quota connections=50 --quota size=10GB")]
    Set {
        /// The tenant
        id: TenantId,
        /// connections, statement-timeout or size; without a value, its class's counts again
        #[arg(long = "quota", value_name = "KEY=VALUE", value_parser = values::quota)]
        quotas: Vec<(String, Value)>,
        /// Let it write for so long, up to 7d, although it is over its size: to delete what is not needed
        #[arg(long, value_name = "TIME", value_parser = values::writable_for)]
        writable_for: Option<Duration>,
    },
    /// Refuse its clients until it is resumed; its data stays
    #[command(after_help = "Example:\n  tenantry tenant suspend acme")]
    Suspend(Change),
    /// Let its clients in again
    #[command(after_help = "Example:\n  tenantry tenant resume acme")]
    Resume(Change),
    /// Delete it; until its grace time ends, `undelete` brings it back
    #[command(after_help = "Example:\n  tenantry tenant delete acme --yes")]
    Delete {
        #[command(flatten)]
        change: Change,
        /// Drop its database at once: no way back
        #[arg(long)]
        now: bool,
        /// Keep a last dump in the control plane's deleted_dump_dir when it is dropped
        #[arg(long)]
        dump: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Bring a deleted tenant back
    #[command(after_help = "Example:\n  tenantry tenant undelete acme")]
    Undelete(Change),
    /// Copy a tenant, as it is at one moment, into a new one; it goes on serving
    #[command(after_help = "Example:\n  tenantry tenant clone acme acme-staging --server pg-2 --wait")]
    Clone {
        /// The tenant to copy
        source: TenantId,
        #[command(flatten)]
        create: Create,
    },
    /// Give it another id; clients that ask for the old one are refused from then on
    #[command(after_help = "Example:\n  tenantry tenant rename acme acme-inc --wait")]
    Rename {
        /// The tenant
        id: TenantId,
        /// Its new id
        to: TenantId,
        /// Return when it serves under its new id
        #[arg(long)]
        wait: bool,
        /// How long to wait
        #[arg(long, value_name = "TIME", default_value = "5m", value_parser = values::duration)]
        timeout: Duration,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Its id: 1 to 40 of a-z, 0-9, _ and -; the name of its database
    id: TenantId,
    /// Place it on this server
    #[arg(long, conflicts_with = "class")]
    server: Option<ServerName>,
    /// Place it on a server of this class
    #[arg(long, value_enum)]
    class: Option<Class>,
    /// A label; may be given more than once. It goes to a server with the same label, if servers have one of its key
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::tenant_label)]
    labels: Vec<(String, String)>,
    /// A quota of its own: connections=50, statement-timeout=30s or size=10GB; may be given more than once
    #[arg(long = "quota", value_name = "KEY=VALUE", value_parser = values::quota)]
    quotas: Vec<(String, Value)>,
    /// Only say which server it would go to, and why
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Return when its database serves
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = values::duration)]
    timeout: Duration,
}

#[derive(Debug, Args)]
struct Change {
    /// The tenant
    id: TenantId,
    /// Return when it is done, which is also the default
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Return at once, without waiting for the end
    #[arg(long)]
    no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = values::duration)]
    timeout: Duration,
}

impl Change {
    /// How long to wait; not at all, if that was asked for.
    fn waits(&self) -> Option<Duration> {
        (self.wait || !self.no_wait).then_some(self.timeout)
    }
}

pub(crate) async fn run(args: TenantArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        TenantCommand::Create(create) => run_create(&api, format, &["v1", "tenants"], &create).await,
        TenantCommand::Clone { source, create } => {
            run_create(&api, format, &["v1", "tenants", source.as_str(), "clone"], &create).await
        }
        TenantCommand::Rename { id, to, wait, timeout } => {
            let answer = api.post(&["v1", "tenants", id.as_str(), "rename"], &json!({ "to": to })).await?;
            finish(&api, format, (&to, wait.then_some(timeout)), &answer).await
        }
        TenantCommand::List { server, selector, search } => {
            let selector = selector.map(|selector| selector.to_string());
            let mut query = Vec::new();
            query.extend(server.as_ref().map(|server| ("server", server.as_str())));
            query.extend(selector.as_ref().map(|selector| ("selector", selector.as_str())));
            query.extend(search.as_ref().map(|search| ("q", search.as_str())));
            query.push(("limit", PAGE));
            let tenants = api.list(&["v1", "tenants"], &query).await?;
            let columns = [
                ("ID", "id"),
                ("STATE", "state"),
                ("SERVER", "server"),
                ("EPOCH", "epoch"),
                ("SCHEMA", "schema_version"),
                ("LABELS", "labels"),
            ];
            Ok(output::list(format, &tenants, &columns)?)
        }
        TenantCommand::Show { id } => {
            Ok(output::object(format, &api.get(&["v1", "tenants", id.as_str()]).await?)?)
        }
        TenantCommand::Set { id, quotas, writable_for } => {
            let mut body = json!({ "quota": values::object("--quota", quotas)? });
            if let Some(time) = writable_for {
                body["writable_for_ms"] = values::milliseconds(time).into();
            }
            Ok(output::object(format, &api.put(&["v1", "tenants", id.as_str(), "quota"], &body).await?)?)
        }
        TenantCommand::Suspend(change) => {
            let answer = api.post(&["v1", "tenants", change.id.as_str(), "suspend"], &json!({})).await?;
            finish(&api, format, (&change.id, change.waits()), &answer).await
        }
        TenantCommand::Resume(change) => {
            let answer = api.post(&["v1", "tenants", change.id.as_str(), "resume"], &json!({})).await?;
            finish(&api, format, (&change.id, change.waits()), &answer).await
        }
        TenantCommand::Undelete(change) => {
            let answer = api.post(&["v1", "tenants", change.id.as_str(), "undelete"], &json!({})).await?;
            finish(&api, format, (&change.id, change.waits()), &answer).await
        }
        TenantCommand::Delete { change, now, dump, yes } => {
            let what = if now { "dropping the database of" } else { "deleting" };
            confirm(yes, &format!("{what} tenant {}", change.id))?;
            let given = |flag| if flag { "true" } else { "false" };
            let query = [("now", given(now)), ("dump", given(dump))];
            let answer = api.delete(&["v1", "tenants", change.id.as_str()], &query).await?;
            finish(&api, format, (&change.id, change.waits()), &answer).await
        }
    }
}

/// Makes a tenant by way of this resource.
async fn run_create(api: &Api, format: Format, path: &[&str], create: &Create) -> anyhow::Result<()> {
    let mut body = json!({ "id": create.id, "labels": values::labels(&create.labels)? });
    if let Some(server) = &create.server {
        body["server"] = server.as_str().into();
    }
    if let Some(class) = create.class {
        body["class"] = class.as_str().into();
    }
    if !create.quotas.is_empty() {
        body["quota"] = values::object("--quota", create.quotas.iter().cloned())?;
    }
    if create.dry_run {
        body["dry_run"] = true.into();
        return print_placement(format, create, &api.post(path, &body).await?);
    }
    if create.wait {
        body["wait_ms"] = u64::try_from(create.timeout.min(ANSWER_WITHIN).as_millis())?.into();
    }
    let answer = api.post(path, &body).await?;
    // What serves already is shown as it is.
    let waits = create.wait && answer["state"] != "open";
    finish(api, format, (&create.id, waits.then_some(create.timeout)), &answer).await
}

/// Prints where it would go, and what speaks for and against each server.
fn print_placement(format: Format, create: &Create, decision: &Value) -> anyhow::Result<()> {
    if format == Format::Json {
        return Ok(output::json(decision)?);
    }
    let word = |key: &str| decision[key].as_str().unwrap_or_default().to_owned();
    output::line(&format!("{} would go to {}: {}\n", create.id, word("server"), word("why")))?;
    let columns = [("SERVER", "server"), ("FITS", "fits"), ("TENANTS", "tenants"), ("REASON", "reason")];
    Ok(output::list(format, &decision["servers"], &columns)?)
}

/// Waits for the end of what was asked for, up to a time if there is one, and prints how it stands then.
async fn finish(
    api: &Api,
    format: Format,
    (tenant, waits): (&TenantId, Option<Duration>),
    answer: &Value,
) -> anyhow::Result<()> {
    let Some(timeout) = waits else {
        return Ok(output::object(format, answer)?);
    };
    wait::operation(api, wait::operation_number(answer)?, timeout).await?;
    print_tenant(api, format, tenant).await
}

/// Prints the tenant as it is now. One that is no more is said to be gone.
async fn print_tenant(api: &Api, format: Format, id: &TenantId) -> anyhow::Result<()> {
    let tenant = match api.get(&["v1", "tenants", id.as_str()]).await {
        Err(error) if error.downcast_ref::<Failure>().is_some_and(|f| f.exit == Exit::NotFound) => {
            json!({ "id": id, "state": "gone" })
        }
        outcome => outcome?,
    };
    Ok(output::object(format, &tenant)?)
}
