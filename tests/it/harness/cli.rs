//! The program under test, as operators call it.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_tenantry");

/// What a call gave.
#[derive(Debug)]
pub(crate) struct Output {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Asserts an exit status.
    #[track_caller]
    pub(crate) fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, status, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The JSON on stdout of a call that went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Value {
        self.exits(0).json()
    }

    /// The JSON on stdout: one value and nothing else.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}{}", self.stdout, self.stderr))
    }

    /// Asserts an exit status, and gives the one line that says why.
    #[track_caller]
    pub(crate) fn error(self, status: i32) -> String {
        let output = self.exits(status);
        let errors: Vec<&str> = output.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(errors.len(), 1, "one line says what is wrong: {}", output.stderr);
        errors[0].to_owned()
    }

    /// The line that says what to do.
    #[track_caller]
    pub(crate) fn hint(&self) -> String {
        let hint = self.stderr.lines().find(|line| line.starts_with("hint: "));
        hint.unwrap_or_else(|| panic!("no hint: {}", self.stderr)).to_owned()
    }
}

/// Calls the program, away from the caller's own settings.
pub(crate) fn command(program: impl AsRef<Path>, variables: &[(String, String)]) -> Command {
    let mut command = Command::new(program.as_ref());
    for (name, _) in std::env::vars_os() {
        let ours = |name: &str| name.starts_with("TENANTRY_") && name != "TENANTRY_PG_BIN";
        if name.to_str().is_some_and(|name| ours(name) || name.starts_with("PG")) {
            command.env_remove(&name);
        }
    }
    command.envs(variables.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a command to its end.
pub(crate) async fn finish(command: &mut Command, input: Option<&str>) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        stdin.write_all(input.as_bytes()).await.unwrap();
    }
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    // A signal is no exit status.
    let status = output.status.code().unwrap_or(-1);
    Output { status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The program on its own, without a fleet.
pub(crate) async fn tenantry<A: AsRef<OsStr>>(args: &[A], variables: &[(&str, &str)]) -> Output {
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    finish(command(PROGRAM, &variables).args(args), None).await
}
