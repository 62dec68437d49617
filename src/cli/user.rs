//! `tenantry user`: logins at the router. Never a tenant's own customers.

use std::io::Read as _;

use clap::{Args, Subcommand};
use serde_json::json;
use shard_map::{Access, PoolMode, Selector};

use crate::cli::api::{Api, Connection};
use crate::cli::confirm::confirm;
use crate::cli::failure::Failure;
use crate::cli::{output, values};

/// Longest password that is read.
const PASSWORD_LENGTH_MAX: u64 = 1024;

/// Logins at the router
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry user create web --tenants plan=gold --access app")]
pub(crate) struct UserArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// Make a user; a password that is not given is generated and shown once
    #[command(
        after_help = "Example:\n  tenantry user create web --tenants plan=gold --password-stdin < web.password"
    )]
    Create(Create),
    /// All users
    #[command(after_help = "Example:\n  tenantry user list")]
    List,
    /// Give a user another password; one that is not given is generated and shown once
    #[command(after_help = "Example:\n  tenantry user passwd web")]
    Passwd {
        /// The user
        #[arg(value_parser = values::user_name)]
        name: String,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Remove a user; its sessions end
    #[command(after_help = "Example:\n  tenantry user drop web --yes")]
    Drop {
        /// The user
        #[arg(value_parser = values::user_name)]
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// Login name
    #[arg(value_parser = values::user_name)]
    name: String,
    /// Which tenants it may reach: * for all, id=ID for one, or labels that must all hold
    #[arg(long, value_name = "SELECTOR", default_value = "*")]
    tenants: Selector,
    /// What it may do there: owner (changes the schema), app (reads and writes) or readonly
    #[arg(long, default_value = "app")]
    access: Access,
    /// How long it keeps a server connection: for a transaction, or for the session
    #[arg(long, value_name = "MODE", default_value = "transaction")]
    pool_mode: PoolMode,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

pub(crate) async fn run(args: UserArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        UserCommand::Create(create) => {
            let mut body = json!({
                "name": create.name,
                "tenants": create.tenants.to_string(),
                "access": create.access.as_str(),
                "pool_mode": create.pool_mode.as_str(),
            });
            if create.password_stdin {
                body["password"] = read_password()?.into();
            }
            output::object(format, &api.post(&["v1", "users"], &body).await?)?;
        }
        UserCommand::List => {
            let columns =
                [("NAME", "name"), ("TENANTS", "tenants"), ("ACCESS", "access"), ("POOL MODE", "pool_mode")];
            output::list(format, &api.list(&["v1", "users"], &[]).await?, &columns)?;
        }
        UserCommand::Passwd { name, password_stdin } => {
            let mut body = json!({});
            if password_stdin {
                body["password"] = read_password()?.into();
            }
            let mut answer = api.put(&["v1", "users", &name, "password"], &body).await?;
            if answer.is_null() {
                answer = json!({ "name": name });
            }
            output::object(format, &answer)?;
        }
        UserCommand::Drop { name, yes } => {
            confirm(yes, &format!("dropping user {name}"))?;
            api.delete(&["v1", "users", &name], &[]).await?;
            output::object(format, &json!({ "name": name, "state": "gone" }))?;
        }
    }
    Ok(())
}

/// Reads a password from standard input, less the end of its line.
fn read_password() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(PASSWORD_LENGTH_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("--password-stdin: {error}")))?;
    let password = text.strip_suffix('\n').unwrap_or(&text);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() || password.contains(['\n', '\0']) || text.len() as u64 > PASSWORD_LENGTH_MAX {
        return Err(Failure::usage("--password-stdin: a password is one line of 1 to 1024 bytes").into());
    }
    Ok(password.to_owned())
}
