//! `tenantry man`: a manual page for each command.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, CommandFactory as _};

use crate::cli::Cli;

/// Write the manual pages, one for each command, into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// Where to; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(crate) fn run(args: &ManArgs) -> anyhow::Result<()> {
    let dir = &args.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("{} can't be made", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("manual pages can't be written to {}", dir.display()))
}
