//! How many tenants of a server may be migrated at once, by what is measured there: fewer when commits take longer or
//! more sessions are busy than before the run came, none when that does not help, and more again when it does.

/// A look at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Time of a small transaction that has to reach the disk, in microseconds.
    pub(crate) commit_us: u64,
    /// Sessions that run a statement or wait for a lock, but for the control plane's own.
    pub(crate) active: u64,
}

/// Commits may take this many times longer than before the run came.
const COMMIT_TIMES_MAX: u64 = 3;
/// Commits that take less than this are good whatever was before.
const COMMIT_US_GOOD: u64 = 25_000;
/// Busy sessions may be this many times as many as before, and a few more.
const ACTIVE_TIMES_MAX: u64 = 2;
const ACTIVE_MORE: u64 = 4;

/// The first looks, which say what the server is like: the run has hardly begun by then.
const LOOKS_BEFORE: u32 = 3;

/// The law: halves on trouble, adds one when all is well.
#[derive(Debug)]
pub(crate) struct Throttle {
    most: usize,
    slots: usize,
    /// What the server is like without the run.
    before: Option<Sample>,
    last: Option<Sample>,
    looks: u32,
    why: Option<String>,
}

impl Throttle {
    /// Begins with one tenant, and goes up to `most`.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, slots: 0, before: None, last: None, looks: 0, why: None }
    }

    /// Tenants at once.
    pub(crate) fn slots(&self) -> usize {
        self.slots
    }

    /// Why there are fewer than might be.
    pub(crate) fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// Takes a look at the server into account; `None`: it does not answer.
    pub(crate) fn observe(&mut self, sample: Option<Sample>) {
        let Some(seen) = sample else {
            self.slots = 0;
            self.why = Some("the server does not answer".to_owned());
            return;
        };
        // One slow commit is nothing: what counts is what was seen twice in a row.
        let last = self.last.replace(seen).unwrap_or(seen);
        let now =
            Sample { commit_us: seen.commit_us.min(last.commit_us), active: seen.active.min(last.active) };
        let mut before = self.before.unwrap_or(now);
        if self.looks < LOOKS_BEFORE {
            self.looks += 1;
            before.commit_us = before.commit_us.max(now.commit_us);
            before.active = before.active.max(now.active);
        }
        self.before = Some(before);
        let commit_us_max = (before.commit_us * COMMIT_TIMES_MAX).max(COMMIT_US_GOOD);
        let active_max = before.active * ACTIVE_TIMES_MAX + ACTIVE_MORE;
        let trouble = if now.commit_us > commit_us_max {
            let ms = |us: u64| us as f64 / 1000.0;
            Some(format!("a commit takes {:.1} ms, {:.1} ms before", ms(now.commit_us), ms(before.commit_us)))
        } else if now.active > active_max {
            Some(format!("{} sessions are busy, {} before", now.active, before.active))
        } else {
            None
        };
        if trouble.is_some() && self.slots == 0 {
            // Nothing of the run is there: this is the application's own load, and slowly becomes what is usual.
            let towards = |from: u64, to: u64| from + to.saturating_sub(from).div_ceil(8);
            self.before = Some(Sample {
                commit_us: towards(before.commit_us, now.commit_us),
                active: towards(before.active, now.active),
            });
        }
        self.slots = if trouble.is_some() { self.slots / 2 } else { (self.slots + 1).min(self.most) };
        if trouble.is_some() || self.slots == self.most {
            self.why = trouble;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(throttle: &mut Throttle, commit_us: u64, active: u64) -> usize {
        throttle.observe(Some(Sample { commit_us, active }));
        throttle.slots()
    }

    #[test]
    fn it_starts_slowly_and_gives_way_to_slow_commits() {
        let mut throttle = Throttle::new(4);
        assert_eq!(throttle.slots(), 0, "nothing before the first look");
        let rising: Vec<_> = (0..5).map(|_| seen(&mut throttle, 20_000, 2)).collect();
        assert_eq!(rising, [1, 2, 3, 4, 4]);
        assert_eq!(throttle.why(), None);
        assert_eq!(seen(&mut throttle, 60_000, 2), 4, "three times as long is borne");
        let falling: Vec<_> = (0..4).map(|_| seen(&mut throttle, 90_000, 2)).collect();
        assert_eq!(falling, [4, 2, 1, 0], "once is nothing");
        assert!(throttle.why().unwrap().contains("90.0 ms, 20.0 ms before"), "{:?}", throttle.why());
        assert_eq!(seen(&mut throttle, 20_000, 2), 1);
        assert!(throttle.why().is_some(), "until it is as fast as it may be, it says why it is not");
    }

    #[test]
    fn it_gives_way_to_queues_of_sessions() {
        let mut throttle = Throttle::new(1);
        for _ in 0..3 {
            assert_eq!(seen(&mut throttle, 1_000, 3), 1);
        }
        let falling: Vec<_> = [10, 10, 11, 11].map(|active| seen(&mut throttle, 1_000, active)).into();
        assert_eq!(falling, [1, 1, 1, 0]);
        assert!(throttle.why().unwrap().contains("11 sessions"));
    }

    #[test]
    fn a_server_that_does_not_answer_has_its_rest_at_once() {
        let mut throttle = Throttle::new(8);
        for _ in 0..8 {
            seen(&mut throttle, 1_000, 0);
        }
        throttle.observe(None);
        assert_eq!((throttle.slots(), throttle.why()), (0, Some("the server does not answer")));
        assert_eq!(seen(&mut throttle, 1_000, 0), 1);
    }

    #[test]
    fn load_of_the_application_that_stays_is_got_used_to() {
        let mut throttle = Throttle::new(1);
        for _ in 0..3 {
            seen(&mut throttle, 20_000, 1);
        }
        seen(&mut throttle, 200_000, 50);
        let pause = (0..100).take_while(|_| seen(&mut throttle, 200_000, 50) == 0).count();
        assert!((5..60).contains(&pause), "paused for {pause} looks");
    }
}
