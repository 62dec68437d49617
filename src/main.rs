//! tenantry: one binary for both halves and for those who drive them.
//!
//! Parse, run, and turn whatever went wrong into one line and an exit status. Nothing else happens here.

mod cli;
mod config;
#[cfg(test)]
mod metrics_reference;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let outcome = match cli::Cli::try_parse() {
        Ok(cli) => cli::run(cli),
        Err(error) => match cli::usage::failure(&error) {
            Some(failure) => Err(failure.into()),
            // Help that was asked for.
            None => error.exit(),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (status, text) = cli::failure::describe(&error);
            eprintln!("{text}");
            ExitCode::from(status)
        }
    }
}
