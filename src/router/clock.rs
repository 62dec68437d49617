//! A worker's clock. It stands still between two looks at it, so that whatever a read from a socket brings about has one
//! time, and the system is asked once.

use std::cell::Cell;
use std::time::Instant;

/// The time when something last came in.
#[derive(Debug)]
pub(crate) struct Clock(Cell<Instant>);

impl Clock {
    pub(crate) fn new() -> Self {
        Self(Cell::new(Instant::now()))
    }

    /// The time of the last look.
    pub(crate) fn now(&self) -> Instant {
        self.0.get()
    }

    /// Looks.
    pub(crate) fn look(&self) -> Instant {
        let now = Instant::now();
        self.0.set(now);
        now
    }
}
