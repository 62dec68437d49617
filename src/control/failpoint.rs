//! Points at which a test lets the control plane die, as by `kill -9`: one at the beginning of every step, and one
//! behind every act of a cutover.
//!
//! Only with the feature `failpoints`, which release builds do not have. `TENANTRY_FAILPOINT_FILE` names a file that
//! holds a point's name; when that point is reached, the file is removed (so that it happens once) and the process
//! aborts.
//!
//! `stand POINT` instead makes it stand still there, right before a write that a registry is to guard, until the file says
//! something else. `TENANTRY_FAILPOINT_FILE.reached` tells that it does; as long as that is there, this instance neither
//! renews its lease nor looks whether it still leads: what one does that hung, in the moment in which it wakes up.
//!
//! Lines `pause POINT TABLE BLOCK` make the work that comes to that block of a table stand there, and nothing else;
//! `TENANTRY_FAILPOINT_FILE.paused` tells which do.

/// Dies here if a test asked for it.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(point: &str) {
    let Ok(file) = std::env::var("TENANTRY_FAILPOINT_FILE") else { return };
    let wanted = std::fs::read_to_string(&file).unwrap_or_default();
    if wanted.trim() == point && std::fs::remove_file(&file).is_ok() {
        tracing::warn!(point, "failpoint reached: aborting");
        std::process::abort();
    }
}

/// Nothing, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn reach(_point: &str) {}

/// The file by which an instance tells that it stands.
#[cfg(feature = "failpoints")]
fn reached() -> Option<String> {
    std::env::var("TENANTRY_FAILPOINT_FILE").ok().map(|file| format!("{file}.reached"))
}

/// Whether a test wants a leader that does not look at its lease.
#[cfg(feature = "failpoints")]
pub(crate) fn sleepwalks() -> bool {
    reached().is_some_and(|file| std::path::Path::new(&file).exists())
}

/// No, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn sleepwalks() -> bool {
    false
}

/// Stands here for as long as a test wants it.
#[cfg(feature = "failpoints")]
pub(crate) async fn stand(point: &str) {
    let (Ok(file), Some(reached)) = (std::env::var("TENANTRY_FAILPOINT_FILE"), reached()) else { return };
    let wanted = format!("stand {point}");
    while std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == wanted) {
        // The test waits for it, and fails without it.
        drop(std::fs::write(&reached, point));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Nothing, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::unused_async, reason = "it waits in a build with failpoints")]
pub(crate) async fn stand(_point: &str) {}

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
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Nothing, in a build without failpoints.
#[cfg(not(feature = "failpoints"))]
#[allow(clippy::unused_async, reason = "it waits in a build with failpoints")]
pub(crate) async fn pause(_point: &str, _table: &str, _block: i64) {}
