use super::*;

const MOST: u64 = 100 << 20;

/// A server with one neighbour, whose transactions take longer the faster it is copied.
struct Server {
    governor: Governor,
    per_tick: u64,
    /// The 99th percentile without a copy, in microseconds.
    base: f64,
    /// By how much it grows with each megabyte a second.
    harm: f64,
    noise: u64,
}

impl Server {
    fn new(per_tick: u64, harm: f64) -> Self {
        Self { governor: Governor::new(MOST), per_tick, base: 10_000.0, harm, noise: 1 }
    }

    /// Transactions of a tick in which so much was copied: 97 % are short, the others as long as the copy makes them.
    fn latency(&mut self, copied: u64) -> Latency {
        let slow = self.base * (1.0 + self.harm * (copied >> 20) as f64);
        let mut latency = Latency::default();
        for n in 0..self.per_tick {
            self.noise = self.noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n | 1);
            let share = (self.noise >> 40) as f64 / (1_u64 << 24) as f64;
            let micros = if share < 0.97 { slow * share / 2.0 } else { slow * (0.9 + (share - 0.97) * 5.0) };
            latency.add(catalog::latency_bucket(micros as u64), 1);
        }
        latency
    }

    /// Lets it copy for so many ticks, as fast as it may and the copy can; returns how much that was in each.
    fn copy(&mut self, ticks: usize, fastest: u64) -> Vec<u64> {
        (0..ticks)
            .map(|_| {
                let copied = self.governor.rate().min(fastest);
                let latency = Some(self.latency(copied));
                self.governor.tick(Seen { latency, copied, ..Seen::default() });
                copied
            })
            .collect()
    }

    fn wait(&mut self, ticks: usize) {
        for _ in 0..ticks {
            let latency = Some(self.latency(0));
            self.governor.tick(Seen { latency, ..Seen::default() });
        }
    }
}

fn mean(of: &[u64]) -> u64 {
    of.iter().sum::<u64>() / of.len() as u64
}

#[test]
fn what_can_not_stand_still_keeps_nothing_else_from_being_copied() {
    let mut server = Server::new(200, 0.0);
    server.wait(5);
    for _ in 0..3 * MEASURED_FOR {
        let copied = server.governor.rate();
        assert!(copied >= BYTES_PER_SECOND_MIN, "it is copied at {copied} a second");
        let latency = Some(server.latency(copied));
        server.governor.tick(Seen { latency, copied, at_work: true, ..Seen::default() });
    }
    server.copy(1, MOST);
    assert_eq!(server.governor.rate(), 0, "it is measured as soon as that is done");
}

#[test]
fn without_neighbours_it_is_copied_at_full_speed() {
    let mut server = Server::new(0, 0.0);
    assert!(server.governor.rate() < MOST, "nobody knows yet whether somebody is there");
    server.copy(2, MOST);
    assert_eq!(server.governor.rate(), MOST);
    assert!(!server.governor.has_neighbours());
}

#[test]
fn routers_that_are_silent_stop_no_copy() {
    let mut server = Server::new(200, 0.0);
    server.copy(1, MOST);
    for _ in 0..UNKNOWN_MAX {
        server.governor.tick(Seen { copied: 1, ..Seen::default() });
    }
    assert_eq!(server.governor.rate(), MOST);
}

#[test]
fn neighbours_are_measured_before_and_the_rate_finds_what_they_bear() {
    // 15 % more at 15 MB a second.
    let mut server = Server::new(300, 0.01);
    server.wait(6);
    assert!(server.governor.has_neighbours());
    server.copy(30, MOST);
    let rates = server.copy(200, MOST);
    let rate = mean(&rates) >> 20;
    assert!((5..=20).contains(&rate), "{rate} MB/s");
}

#[test]
fn neighbours_that_were_not_measured_before_are_measured_in_a_pause() {
    let mut server = Server::new(300, 0.01);
    let rates = server.copy(12, MOST);
    assert!(rates.contains(&0), "it stands still for a moment: {rates:?}");
    assert!(server.governor.has_neighbours() && server.governor.rate() > 0, "{rates:?}");
    assert!(rates.iter().filter(|rate| **rate == 0).count() <= 5, "{rates:?}");
}

#[test]
fn neighbours_that_bear_it_do_not_slow_it_down() {
    let mut server = Server::new(300, 0.0);
    server.wait(6);
    server.copy(100, MOST);
    let rates = server.copy(200, MOST);
    assert!(mean(&rates) > MOST / 2, "chance alone costs less than half: {}", mean(&rates) >> 20);
}

#[test]
fn load_that_comes_by_itself_is_not_taken_for_the_copys() {
    let mut server = Server::new(300, 0.0);
    server.wait(6);
    server.copy(20, MOST);
    server.base *= 3.0;
    server.copy(30, MOST);
    let rates = server.copy(150, MOST);
    assert!(mean(&rates) > MOST / 4, "it was measured anew: {}", mean(&rates) >> 20);
}

#[test]
fn no_more_than_the_slowest_rate_is_taken_from_a_copy() {
    let mut server = Server::new(300, 10.0);
    server.wait(6);
    let rates = server.copy(100, MOST);
    assert!(rates[50..].iter().all(|rate| [0, BYTES_PER_SECOND_MIN].contains(rate)), "{rates:?}");
    assert!(rates[50..].iter().filter(|rate| **rate == 0).count() < 30, "it does not stand still: {rates:?}");
    assert!(server.governor.why().is_some());
}

#[test]
fn a_rate_that_is_not_made_use_of_is_not_raised() {
    let mut server = Server::new(300, 0.01);
    server.wait(6);
    let first = server.governor.rate();
    server.copy(20, 5 << 20);
    assert_eq!(server.governor.rate(), first);
}

#[test]
fn standbys_that_fall_behind_slow_it_down() {
    let mut governor = Governor::new(MOST);
    let tick = |governor: &mut Governor, lag: u64| {
        let copied = governor.rate();
        let lag = Some(Duration::from_secs(lag));
        governor.tick(Seen { latency: Some(Latency::default()), copied, lag, ..Seen::default() });
    };
    // One that is kept behind on purpose.
    for _ in 0..4 {
        let lag = Some(Duration::from_secs(60));
        governor.tick(Seen { latency: Some(Latency::default()), lag, ..Seen::default() });
    }
    tick(&mut governor, 62);
    assert_eq!(governor.rate(), MOST);
    tick(&mut governor, 70);
    assert_eq!(governor.rate(), MOST / 2);
    assert!(governor.why().unwrap().contains("standby"));
}
