//! tenantry: one binary for both halves and for those who drive them.
//!
//! Parse, run, and turn whatever went wrong into one line and an exit status. Nothing else happens here.

mod cli;
mod config;
mod telemetry;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // clap prints usage errors itself, and exits with 2.
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (status, text) = cli::failure::describe(&error);
            eprintln!("{text}");
            ExitCode::from(status)
        }
    }
}
