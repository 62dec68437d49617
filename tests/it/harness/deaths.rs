//! Deaths of the control plane, one after the other: each at a point that it comes to. All are asked for beforehand, as the next
//! one is under way as soon as the last one is over.

use std::path::PathBuf;

use super::Fleet;
use super::wait::until;

/// Deaths that were asked for.
pub(crate) struct Deaths {
    file: PathBuf,
    points: Vec<String>,
}

impl Fleet {
    /// Lets the control plane die at each of these points, in their order.
    pub(crate) fn die_at(&self, points: &[&str]) -> Deaths {
        let file = self.path().join("failpoint");
        std::fs::write(&file, points.join("\n")).unwrap();
        Deaths { file, points: points.iter().map(|&point| point.to_owned()).collect() }
    }
}

impl Deaths {
    /// Waits for one of them, by its index.
    pub(crate) async fn has_died(&self, index: usize) {
        let left = self.points.len() - index - 1;
        until(&format!("{} to be reached", self.points[index]), async || {
            let asked = std::fs::read_to_string(&self.file).unwrap_or_default();
            (asked.lines().count() <= left).then_some(())
        })
        .await;
    }
}
