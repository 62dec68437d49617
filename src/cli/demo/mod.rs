//! placeholder
use clap::Args;
use std::path::PathBuf;
/// x
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tenantry demo --tenants 5 -o json")]
pub(crate) struct DemoArgs {
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long)]
    tenants: Option<u32>,
    #[arg(short, long, value_enum, default_value_t = crate::cli::output::Format::Table)]
    output: crate::cli::output::Format,
}
pub(crate) async fn run(_args: DemoArgs) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
