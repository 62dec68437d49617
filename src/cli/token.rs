//! `tenantry token`: who may use the API, and as what.

use std::time::Duration;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use control::Role;
use serde_json::json;

use crate::cli::api::{Api, Connection};
use crate::cli::confirm::confirm;
use crate::cli::{output, values};

/// Tokens of the API, each with a role
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry token create ann --role operator --expires 90d")]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token; it is shown once
    #[command(after_help = "Example:\n  tenantry token create ann --role operator --expires 90d")]
    Create {
        /// Whose it is: a person, or a program
        name: String,
        /// What it is good for
        #[arg(long, value_parser = roles())]
        role: Role,
        /// For how long; without, until it is revoked
        #[arg(long, value_name = "DURATION", value_parser = values::duration)]
        expires: Option<Duration>,
    },
    /// All tokens but the configuration's
    #[command(after_help = "Example:\n  tenantry token list")]
    List,
    /// Take a token back: within 5 s it is good for nothing any more, while the catalog answers
    #[command(after_help = "Example:\n  tenantry token revoke ann --yes")]
    Revoke {
        /// Whose it is
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Whose token the one at hand is
    #[command(after_help = "Example:\n  tenantry token whoami -o json")]
    Whoami,
}

/// Roles with what they mean, as `--help` tells them.
fn roles() -> impl TypedValueParser<Value = Role> {
    let words = Role::ALL.map(|role| PossibleValue::new(role.as_str()).help(role.meaning()));
    PossibleValuesParser::new(words).try_map(|word| word.parse::<Role>())
}

pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    let api = Api::new(&args.connection)?;
    let format = args.connection.output;
    match args.command {
        TokenCommand::Create { name, role, expires } => {
            let expires = expires.map(|expires| expires.as_secs());
            let body = json!({ "name": name, "role": role.as_str(), "expires_in_s": expires });
            output::object(format, &api.post(&["v1", "tokens"], &body).await?)?;
        }
        TokenCommand::List => {
            let columns = [
                ("NAME", "name"),
                ("ROLE", "role"),
                ("CREATED", "created_at"),
                ("BY", "created_by"),
                ("EXPIRES", "expires_at"),
                ("LAST USED", "last_used_at"),
            ];
            output::list(format, &api.list(&["v1", "tokens"], &[]).await?, &columns)?;
        }
        TokenCommand::Revoke { name, yes } => {
            confirm(yes, &format!("revoking token {name}"))?;
            output::object(format, &api.delete(&["v1", "tokens", &name], &[]).await?)?;
        }
        TokenCommand::Whoami => output::object(format, &api.get(&["v1", "whoami"]).await?)?,
    }
    Ok(())
}
