//! How fast one server may be copied from and to: decided once a tick from how long the transactions of the tenants take that
//! are not being copied. Figures in, a rate out; no clock and no I/O.
//!
//! The 99th percentile is held against what it is without a copy, which is measured before the copy begins, and again and
//! again in short pauses: load that comes and goes by itself is not the copy's doing. Too slow: half as fast. Else faster, by
//! small steps up to where it was too slow the last time, and from there on by half again. Where nobody is, there is nothing
//! to be careful of.

use std::time::Duration;

use catalog::Latency;

/// Slowest rate: a copy that stands still would keep the source's log for ever.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 1 << 20;
/// The rate at which a copy begins at a server of which nothing is known yet: this part of the most.
const FIRST_PART: u64 = 4;
/// How much longer the 99th percentile may be than without the copy. It is to stay below 1.2, and swings around this.
const RATIO_MAX: f64 = 1.15;
/// The share of transactions that is looked at.
const SHARE: f64 = 0.99;
/// From so many transactions on it is decided at once; else after [`WINDOW`] by those that there are.
const ENOUGH: u64 = 50;
/// With fewer in a whole window, a server counts as idle.
const FEW: u64 = 10;
/// Ticks for which transactions are gathered at most.
const WINDOW: u32 = 5;
/// Ticks without any transaction after which a server counts as idle.
const IDLE: u32 = 2;
/// Ticks until a change of the rate shows: reports are a second old, and so is what is read of them.
const SETTLE: u32 = 2;
/// Ticks without a report after which it is copied as if there were nobody.
const UNKNOWN_MAX: u32 = 6;
/// Ticks after which is looked again how it is without the copy.
const MEASURED_FOR: u32 = 60;
/// The same, when even the slowest rate seems to be too fast: most likely it is not the copy.
const DOUBTED_AFTER: u32 = 10;
/// How much further a standby may fall behind than it was without the copy.
const REPLICA_LAG_MAX: Duration = Duration::from_secs(5);

/// What was seen since the last tick, which is about a second.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Times of other tenants' transactions; none when no router has reported.
    pub(super) latency: Option<Latency>,
    /// Bytes that were copied.
    pub(super) copied: u64,
    /// Whether a copy does other work on the server.
    pub(super) at_work: bool,
    /// How far its standbys are behind, the last of them.
    pub(super) lag: Option<Duration>,
}

/// Decides on one server's rate.
#[derive(Debug)]
pub(super) struct Governor {
    most: u64,
    rate: u64,
    /// The rate that was too fast the last time.
    ceiling: Option<u64>,
    /// How it is without a copy; older measurements count less.
    before: Latency,
    /// Ticks since that was measured.
    measured_ago: u32,
    /// Whether the copy stands still for it to be measured.
    measuring: bool,
    /// What came while nothing was copied, and in how many ticks.
    quiet: (Latency, u32),
    /// What came at the present rate, in how many ticks, with how many bytes.
    recent: (Latency, u32, u64),
    /// Ticks since anything was copied.
    still: u32,
    /// Ticks whose transactions are not all of the present rate.
    skip: u32,
    /// Ticks without a report.
    unknown: u32,
    lag_before: Duration,
    /// Whether a copy does work on the server that can't stand still.
    at_work: bool,
    why: Option<String>,
}

impl Governor {
    pub(super) fn new(most: u64) -> Self {
        Self {
            most,
            rate: (most / FIRST_PART).max(1),
            ceiling: None,
            before: Latency::default(),
            measured_ago: 0,
            measuring: false,
            quiet: (Latency::default(), 0),
            recent: (Latency::default(), 0, 0),
            still: SETTLE,
            skip: 0,
            unknown: 0,
            lag_before: Duration::ZERO,
            at_work: false,
            why: None,
        }
    }

    /// Bytes a second; 0 while it is measured how it is without.
    pub(super) fn rate(&self) -> u64 {
        if self.measuring { 0 } else { self.rate }
    }

    /// Why it is not the most, in words.
    pub(super) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Whether other tenants are at work there.
    pub(super) fn has_neighbours(&self) -> bool {
        self.before.count() >= FEW
    }

    /// A tick has passed.
    pub(super) fn tick(&mut self, seen: Seen) {
        self.measured_ago += 1;
        self.at_work = seen.at_work;
        if self.at_work && self.measuring {
            // What can't stand still would keep all else from being copied.
            self.measuring = false;
            self.why = None;
        }
        self.still = if seen.copied > 0 || seen.at_work { 0 } else { self.still + 1 };
        let lag = seen.lag.unwrap_or_default();
        if self.still >= SETTLE {
            self.lag_before = lag;
        } else if lag > self.lag_before + REPLICA_LAG_MAX && self.skip == 0 {
            self.recent.2 += seen.copied;
            self.recent.1 += 1;
            return self.slow_down(format!("a standby is {} s behind", lag.as_secs()));
        }
        let Some(latency) = seen.latency else { return self.without_report() };
        self.unknown = 0;
        if self.still >= SETTLE {
            return self.look_at_quiet(&latency);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.recent.0 += &latency;
        self.recent.1 += 1;
        self.recent.2 += seen.copied;
        self.decide();
    }

    /// Routers that can't be heard say nothing of anybody.
    fn without_report(&mut self) {
        self.unknown += 1;
        if self.unknown >= UNKNOWN_MAX {
            self.before = Latency::default();
            self.be_free();
        }
    }

    /// Nothing was copied for a while: so it is without.
    fn look_at_quiet(&mut self, latency: &Latency) {
        self.quiet.0 += latency;
        self.quiet.1 += 1;
        let (count, ticks) = (self.quiet.0.count(), self.quiet.1);
        let is_idle = count == 0 && ticks >= IDLE || count < FEW && ticks >= WINDOW;
        if !is_idle && (count < ENOUGH || ticks < IDLE) && ticks < WINDOW {
            return;
        }
        let quiet = std::mem::take(&mut self.quiet).0;
        self.measured_ago = 0;
        self.recent = Default::default();
        if is_idle {
            self.before = Latency::default();
            return self.be_free();
        }
        self.before.fade();
        self.before += &quiet;
        if self.measuring {
            self.measuring = false;
            self.why = None;
        }
    }

    fn decide(&mut self) {
        let (count, ticks) = (self.recent.0.count(), self.recent.1);
        if count == 0 && ticks >= IDLE || count < FEW && ticks >= WINDOW {
            return self.be_free();
        }
        if count < ENOUGH && ticks < WINDOW {
            return;
        }
        // What was measured may be too old; or somebody has just come.
        let is_recent = self.measured_ago < MEASURED_FOR || self.at_work;
        let Some(before) = self.before.quantile(SHARE).filter(|_| is_recent) else {
            return self.measure();
        };
        // Of few transactions one alone is the 99th percentile: it counts as higher when it is so beyond chance.
        let share = SHARE - (SHARE * (1.0 - SHARE) / count as f64).sqrt();
        let now = self.recent.0.quantile(share).unwrap_or_default();
        if now <= before * RATIO_MAX {
            return self.speed_up();
        }
        if self.rate <= BYTES_PER_SECOND_MIN && self.measured_ago >= DOUBTED_AFTER && !self.at_work {
            return self.measure();
        }
        let (now, before) = (now / 1e3, before / 1e3);
        self.slow_down(format!(
            "other tenants' transactions take {now:.1} ms (99th percentile), {before:.1} ms without the copy"
        ));
    }

    /// Bytes a second that were copied of late.
    fn used(&self) -> u64 {
        self.recent.2 / u64::from(self.recent.1.max(1))
    }

    fn slow_down(&mut self, why: String) {
        // What is allowed and not made use of does not slow anybody down.
        let used = self.rate.min(self.used().max(BYTES_PER_SECOND_MIN));
        self.ceiling = Some(used);
        self.rate = (used / 2).max(BYTES_PER_SECOND_MIN).min(self.most);
        self.skip = SETTLE;
        self.why = Some(why);
        self.recent = Default::default();
    }

    fn speed_up(&mut self) {
        let used = self.used();
        self.recent = Default::default();
        if used < self.rate / 2 {
            // Something else holds it: nothing is known of a higher rate.
            return;
        }
        let step = match self.ceiling {
            Some(ceiling) if self.rate < ceiling => (ceiling / 16).max(BYTES_PER_SECOND_MIN / 4),
            _ => self.rate / 2,
        };
        self.rate = (self.rate + step).min(self.most);
        if self.rate == self.most {
            self.ceiling = None;
            self.why = None;
        }
    }

    /// Nobody is there who could be slowed down.
    fn be_free(&mut self) {
        self.measuring = false;
        self.skip = 0;
        self.ceiling = None;
        self.why = None;
        self.rate = self.most;
        self.recent = Default::default();
        self.quiet = Default::default();
    }

    fn measure(&mut self) {
        self.quiet = Default::default();
        self.recent = Default::default();
        if self.at_work {
            // It can't be measured now: things stay as they are until it can.
            return;
        }
        self.measuring = true;
        self.why =
            Some("it is measured how long other tenants' transactions take without the copy".to_owned());
    }
}

#[cfg(test)]
mod tests;
