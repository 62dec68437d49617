//! Waiting for durable work, with progress on stderr: one updating line on a terminal, plain lines elsewhere.
//!
//! Whoever waits only looks: the work goes on in the control plane when the command is stopped, and the messages say so.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::api::Api;
use crate::cli::failure::{Exit, Failure};

/// How often progress is asked for, where that costs little.
pub(crate) const POLL: Duration = Duration::from_millis(200);
/// At most this often a plain line is printed.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the control plane may be away (restarting, or another instance taking over) before waiting is given up.
const AWAY_MAX: Duration = Duration::from_secs(30);

/// Progress on stderr.
pub(crate) struct Progress {
    terminal: bool,
    shown: String,
    shown_at: Option<Instant>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), shown: String::new(), shown_at: None }
    }

    /// Shows where things stand, when that changed.
    pub(crate) fn show(&mut self, text: &str) {
        if text.is_empty() || text == self.shown {
            return;
        }
        if self.terminal {
            // Back to the start of the line, and clear what a longer text left.
            self.print(&format!("\r{text}\x1b[K"));
        } else if self.shown_at.is_none_or(|at| at.elapsed() >= LINE_INTERVAL) {
            self.print(&format!("{text}\n"));
        } else {
            return;
        }
        text.clone_into(&mut self.shown);
        self.shown_at = Some(Instant::now());
    }

    /// Ends the updating line with a last text.
    pub(crate) fn finish(mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if self.terminal {
            self.print(&format!("\r{text}\x1b[K\n"));
        } else if text != self.shown {
            self.print(&format!("{text}\n"));
        }
    }

    fn print(&mut self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        // Progress that nobody can read is no reason to fail.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

/// What is waited for.
pub(crate) struct Awaited<'a> {
    /// The resource to ask.
    pub(crate) path: &'a [&'a str],
    /// What it is, for messages.
    pub(crate) what: &'a str,
    /// Whether this answer is the end.
    pub(crate) ended: &'a dyn Fn(&Value) -> bool,
    /// How an answer is shown; empty for not at all.
    pub(crate) text: &'a dyn Fn(&Value) -> String,
    /// How long to wait.
    pub(crate) timeout: Duration,
    /// How often to ask.
    pub(crate) poll: Duration,
}

/// Waits for the end, and returns the last answer.
///
/// A control plane that can't be reached is asked again for a while: it may be restarting.
pub(crate) async fn until(api: &Api, awaited: &Awaited<'_>) -> anyhow::Result<Value> {
    let begun = Instant::now();
    let mut answered = Instant::now();
    let mut progress = Progress::new();
    loop {
        match api.get(awaited.path).await {
            Ok(value) => {
                answered = Instant::now();
                if (awaited.ended)(&value) {
                    progress.finish(&(awaited.text)(&value));
                    return Ok(value);
                }
                progress.show(&(awaited.text)(&value));
            }
            Err(error) => {
                let unreachable =
                    error.downcast_ref::<Failure>().is_some_and(|f| f.exit == Exit::Unreachable);
                if !unreachable || answered.elapsed() > AWAY_MAX {
                    return Err(error);
                }
            }
        }
        if begun.elapsed() > awaited.timeout {
            return Err(Failure::failed(format!(
                "{} has not ended within {:?} (--timeout)",
                awaited.what, awaited.timeout
            ))
            .hint("it goes on by itself; only the waiting was given up")
            .into());
        }
        tokio::time::sleep(awaited.poll).await;
    }
}

/// The number of the operation in an answer.
pub(crate) fn operation_number(answer: &Value) -> anyhow::Result<i64> {
    let operation = answer.get("operation").unwrap_or(&Value::Null);
    operation.as_i64().or_else(|| operation.get("id").and_then(Value::as_i64)).ok_or_else(|| {
        Failure::failed("the control plane's answer names no operation")
            .hint("does --api point at a tenantry control plane of this version?")
            .into()
    })
}

/// Waits for an operation; fails when it failed.
pub(crate) async fn operation(api: &Api, number: i64, timeout: Duration) -> anyhow::Result<Value> {
    let id = number.to_string();
    let ended = |answer: &Value| text(answer, "state") != "running";
    let shown = |answer: &Value| {
        let (kind, tenant) = (text(answer, "kind"), text(answer, "tenant"));
        match text(answer, "step") {
            "" => format!("{kind} {tenant}: {}", text(answer, "state")),
            step => format!("{kind} {tenant}: {}, {step}", text(answer, "state")),
        }
    };
    let what = format!("operation {number}");
    let awaited = Awaited {
        path: &["v1", "operations", &id],
        what: &what,
        ended: &ended,
        text: &shown,
        timeout,
        poll: POLL,
    };
    let answer = until(api, &awaited).await?;
    if text(&answer, "state") == "done" {
        return Ok(answer);
    }
    let why = match text(&answer, "error") {
        "" => "no reason was given",
        error => error,
    };
    Err(Failure::failed(format!("{} of {} failed: {why}", text(&answer, "kind"), text(&answer, "tenant")))
        .into())
}

/// A text of an object; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// A number of an object; 0 when there is none.
pub(crate) fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}
