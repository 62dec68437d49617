//! Postgres's own programs, for what only they know: a schema as SQL.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use shard_map::{MasterKey, Server};
use tokio::process::Command;

use crate::error::{Error, Result};
use crate::server::CONTROL_ROLE;

/// How long one run may take; a build of large indexes takes hours.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(48 * 3600);
/// How much of a program's complaint is kept.
const COMPLAINT_LINES: usize = 3;

/// Where Debian puts each major version.
const DEBIAN_ROOT: &str = "/usr/lib/postgresql";

/// Runs Postgres programs against a server, as the control plane's role.
pub(crate) struct Programs<'a> {
    pub(crate) bin: Option<&'a Path>,
    pub(crate) key: &'a MasterKey,
}

impl Programs<'_> {
    /// Runs one to its end. Killed when dropped.
    pub(crate) async fn run(
        &self,
        program: &str,
        server: &Server,
        database: &str,
        args: &[&str],
    ) -> Result<String> {
        let path = self.find(program);
        let mut command = Command::new(&path);
        command
            .args(["--host", &server.host, "--port", &server.port.to_string(), "--username", CONTROL_ROLE])
            .args(["--no-password", "--dbname", database])
            .args(args)
            .env("PGPASSWORD", self.key.control_password(&server.name))
            .env("PGAPPNAME", "tenantry control")
            .env(
                "PGOPTIONS",
                "-c statement_timeout=0 -c lock_timeout=10s -c idle_in_transaction_session_timeout=0",
            )
            .env("PGCONNECT_TIMEOUT", "5")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        self.finish(&path, command).await
    }

    /// Runs one that needs no server.
    pub(crate) async fn run_local(&self, program: &str, args: &[&str]) -> Result<String> {
        let path = self.find(program);
        let mut command = Command::new(&path);
        command.args(args).stdin(Stdio::null()).kill_on_drop(true);
        self.finish(&path, command).await
    }

    async fn finish(&self, path: &Path, mut command: Command) -> Result<String> {
        let shown = path.display();
        let output = tokio::time::timeout(PROGRAM_TIMEOUT, command.output())
            .await
            .map_err(|_| Error::Timeout(format!("{shown} did not end within program_timeout")))?
            .map_err(|e| {
                Error::Program(format!("{shown}: {e}; set pg_bin to the directory of Postgres's programs"))
            })?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> =
            complaint.lines().take(COMPLAINT_LINES).flat_map(str::split_whitespace).collect();
        Err(Error::Program(format!("{shown}: {}", lines.join(" "))))
    }

    fn find(&self, program: &str) -> PathBuf {
        match self.bin {
            Some(bin) => bin.join(program),
            None => newest_installed().map_or_else(|| PathBuf::from(program), |bin| bin.join(program)),
        }
    }
}

/// The programs of the newest major version that Debian's packages installed; else whatever PATH has.
fn newest_installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN_ROOT).ok()?.filter_map(|entry| {
        let entry = entry.ok()?;
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        let bin = entry.path().join("bin");
        bin.join("pg_dump").exists().then_some((version, bin))
    });
    versions.max_by_key(|(version, _)| *version).map(|(_, bin)| bin)
}
