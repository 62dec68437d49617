//! Points at which a test lets the control plane die, as by `kill -9`: one at the beginning of every step, and one
//! behind every act of a cutover.
//!
//! Only with the feature `failpoints`, which release builds do not have. `TENANTRY_FAILPOINT_FILE` names a file that
//! holds a point's name; when that point is reached, the file is removed (so that it happens once) and the process
//! aborts.

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
