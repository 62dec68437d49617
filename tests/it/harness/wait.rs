//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Only guards against hanging; no test is slow enough to come near it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// The pause grows with the wait, up to this: who asks all the time keeps the machine from what is waited for.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(begun.elapsed() < DEADLINE, "waited in vain: {what}");
        tokio::time::sleep(pause(begun)).await;
    }
}

/// Asks until there is an answer, in a thread that may block.
pub(super) fn until_blocking<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if begun.elapsed() > DEADLINE {
            return Err(format!("waited in vain: {what}"));
        }
        std::thread::sleep(pause(begun));
    }
}

fn pause(begun: Instant) -> Duration {
    (begun.elapsed() / 20).clamp(PAUSE, PAUSE_MAX)
}
