//! Points at which a test lets the control plane die, as by `kill -9`, or stand still: at the beginning of every step, and
//! around the acts of it.
//!
//! Only with the feature `failpoints`, which release builds do not have. `TENANTRY_FAILPOINT_FILE` names a file that says
//! what is to happen:
//!
//! - lines `POINT`: when the first is reached, that line is removed (so that it happens once), with the last the file, and the
//!   process aborts.
//! - `wait POINT`: what comes there stands there until the file says something else, and everything else goes on.
//!   `TENANTRY_FAILPOINT_FILE.waiting` tells that it does.
//! - `stand POINT`: the same for a process that hangs: as long as `TENANTRY_FAILPOINT_FILE.reached` is there, this instance
//!   neither renews its lease nor looks whether it still leads. What one does that hung, in the moment in which it wakes up.
//! - lines `pause POINT TABLE BLOCK`: the work that comes to that block of a table stands there, and nothing else;
//!   `TENANTRY_FAILPOINT_FILE.paused` tells which do.

#[cfg(feature = "failpoints")]
use std::time::Duration;

#[cfg(feature = "failpoints")]
const POLL: Duration = Duration::from_millis(10);
/// How long a message is on its way to a server for sure.
#[cfg(feature = "failpoints")]
const SENT: Duration = Duration::from_millis(50);

/// Dies or stands here if a test asked for it.
#[cfg(feature = "failpoints")]
pub(crate) async fn reach(point: &str) {
    let Ok(file) = std::env::var("TENANTRY_FAILPOINT_FILE") else { return };
    let wish = std::fs::read_to_string(&file).unwrap_or_default();
    let (first, others) = wish.trim().split_once('\n').unwrap_or((wish.trim(), ""));
    if first == point && is_taken_off(&file, others) {
        tracing::warn!(point, "failpoint reached: aborting");
        std::process::abort();
    }
    let told = match wish.trim().split_once(' ') {
        Some(("wait", wanted)) if wanted == point => format!("{file}.waiting"),
        Some(("stand", wanted)) if wanted == point => format!("{file}.reached"),
        _ => return,
    };
    tracing::warn!(point, "failpoint reached: standing");
    while std::fs::read_to_string(&file).is_ok_and(|now| now == wish) {
        // The test waits for it, and fails without it.
        drop(std::fs::write(&told, point));
        tokio::time::sleep(POLL).await;
    }
}

/// Leaves only the other points in the file.
#[cfg(feature = "failpoints")]
fn is_taken_off(file: &str, others: &str) -> bool {
    if others.is_empty() {
        return std::fs::remove_file(file).is_ok();
    }
    let aside = format!("{file}.new");
    std::fs::write(&aside, others).and_then(|()| std::fs::rename(&aside, file)).is_ok()
}

/// Nothing, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::unused_async, reason = "it waits in a build with failpoints")]
pub(crate) async fn reach(_point: &str) {}

/// Asks a server something; the point is where it was sent and its answer is not read.
#[cfg(feature = "failpoints")]
pub(crate) async fn unread<T>(point: &str, asked: impl Future<Output = T>) -> T {
    let file = std::env::var("TENANTRY_FAILPOINT_FILE").unwrap_or_default();
    let wish = std::fs::read_to_string(file).unwrap_or_default();
    if wish.lines().next().and_then(|first| first.split_whitespace().last()) != Some(point) {
        return asked.await;
    }
    let reached = async {
        tokio::time::sleep(SENT).await;
        reach(point).await;
    };
    tokio::join!(asked, reached).0
}

/// Asks it, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
pub(crate) async fn unread<T>(_point: &str, asked: impl Future<Output = T>) -> T {
    asked.await
}

/// Whether a test wants a leader that does not look at its lease.
#[cfg(feature = "failpoints")]
pub(crate) fn sleepwalks() -> bool {
    std::env::var("TENANTRY_FAILPOINT_FILE")
        .is_ok_and(|file| std::path::Path::new(&format!("{file}.reached")).exists())
}

/// No, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn sleepwalks() -> bool {
    false
}

/// Pauses here, at one block of one table, for as long as a test wants it.
#[cfg(feature = "failpoints")]
pub(crate) async fn pause(point: &str, table: &str, block: i64) {
    let Ok(file) = std::env::var("TENANTRY_FAILPOINT_FILE") else { return };
    let (here, told) = (format!("pause {point} {table} {block}"), format!("{file}.paused"));
    let is_in = |file: &str| std::fs::read_to_string(file).is_ok_and(|text| text.lines().any(|l| l == here));
    while is_in(&file) {
        // The test waits for it, and fails without it.
        if !is_in(&told) {
            let text = std::fs::read_to_string(&told).unwrap_or_default();
            drop(std::fs::write(&told, format!("{text}{here}\n")));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Nothing, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::unused_async, reason = "it waits in a build with failpoints")]
pub(crate) async fn pause(_point: &str, _table: &str, _block: i64) {}
