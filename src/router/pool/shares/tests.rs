use super::*;

const LONG: Duration = Duration::from_secs(3600);
const USED: Offer = Offer { had: Duration::ZERO, idle: None, useful: false };
const TURN_OVER: Offer = Offer { had: LONG, ..USED };

fn id(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn idle(time: Duration) -> Offer {
    Offer { idle: Some(time), ..USED }
}

/// A server of so many connections.
fn server(limit: usize) -> Shares<&'static str> {
    Shares::new(limit)
}

impl Shares<&'static str> {
    fn takes(&mut self, tenant: &str, count: usize) {
        for _ in 0..count {
            assert!(self.take(&id(tenant), 1), "{tenant}");
        }
    }

    fn waits(&mut self, tenant: &'static str, count: usize) {
        for _ in 0..count {
            self.wait(&id(tenant), 1, tenant);
        }
    }

    fn offers(&mut self, tenant: &str, offer: Offer) -> Option<&'static str> {
        match self.offer(&id(tenant), offer) {
            Verdict::PassOn(_, waiter) => Some(waiter),
            Verdict::GiveUp => Some("nobody"),
            Verdict::Keep => None,
        }
    }

    fn held(&self, tenant: &str) -> usize {
        self.tenants.get(&id(tenant)).map_or(0, |share| share.held)
    }

    /// All offer what they use, over and over, until nobody gives way any more.
    fn settles(&mut self, tenants: &[&'static str], weights: &[u32]) -> Vec<usize> {
        for _ in 0..1000 {
            let mut changed = false;
            for (tenant, weight) in tenants.iter().zip(weights) {
                let was = self.held(tenant);
                if was > 0 && self.offers(tenant, USED).is_some() {
                    self.wait(&id(tenant), *weight, tenant);
                    changed = true;
                }
            }
            if !changed {
                return tenants.iter().map(|tenant| self.held(tenant)).collect();
            }
        }
        panic!("connections go round without end");
    }
}

#[test]
fn what_is_free_goes_to_whoever_asks_and_then_in_order_of_asking() {
    let mut shares = server(2);
    shares.takes("a", 2);
    assert!(!shares.take(&id("b"), 1) && !shares.is_wanted());
    shares.waits("b", 1);
    shares.waits("c", 1);
    assert!(shares.is_wanted() && shares.grant().is_none());
    shares.put_back(&id("a"));
    assert!(!shares.take(&id("a"), 1), "not past those who wait");
    assert_eq!(shares.grant().unwrap().1, "b");
    shares.put_back(&id("a"));
    assert_eq!(shares.grant().unwrap().1, "c");
    assert!(!shares.is_wanted());
}

#[test]
fn who_has_least_comes_first() {
    let mut shares = server(5);
    shares.takes("a", 4);
    shares.takes("b", 1);
    shares.waits("a", 5);
    shares.waits("b", 5);
    shares.waits("c", 1);
    for expected in ["c", "b", "a"] {
        shares.put_back(&id("a"));
        assert_eq!(shares.grant().unwrap().1, expected);
    }
}

#[test]
fn who_never_pauses_is_left_with_a_fair_part() {
    let mut shares = server(10);
    shares.takes("greedy", 10);
    shares.waits("greedy", 490);
    shares.waits("b", 2);
    shares.waits("c", 50);
    assert_eq!(shares.settles(&["greedy", "b", "c"], &[1, 1, 1]), [4, 2, 4]);
    assert_eq!(shares.out, 10);
}

#[test]
fn weight_counts() {
    let mut shares = server(8);
    for _ in 0..20 {
        shares.wait(&id("a"), 1, "a");
        shares.wait(&id("b"), 3, "b");
    }
    while shares.grant().is_some() {}
    assert_eq!([shares.held("a"), shares.held("b")], [2, 6]);
    assert_eq!(shares.settles(&["a", "b"], &[1, 3]), [2, 6]);
}

#[test]
fn with_more_tenants_than_connections_all_get_their_turn() {
    let names: Vec<&'static str> = (0..500).map(|n| &*Box::leak(format!("t{n}").into_boxed_str())).collect();
    let mut shares = server(47);
    for name in &names {
        shares.waits(name, 1);
    }
    let mut served: Vec<_> = std::iter::from_fn(|| shares.grant()).map(|(_, name)| name).collect();
    assert_eq!(served.len(), 47);
    assert_eq!(shares.offers(served[0], USED), None, "its turn has just begun");
    // Each that was served wants the next one as well.
    for turn in 0..2000 {
        let next = shares.offers(served[turn], TURN_OVER).unwrap();
        shares.waits(served[turn], 1);
        served.push(next);
    }
    for round in served.chunks_exact(500) {
        let mut round = round.to_vec();
        round.sort_unstable();
        round.dedup();
        assert_eq!(round.len(), 500, "nobody twice before all once");
    }
}

#[test]
fn a_minimum_is_had_at_once_and_never_lost_to_others() {
    let mut shares = server(4);
    shares.set(4, 2);
    shares.takes("a", 4);
    shares.waits("b", 10);
    assert_eq!(shares.offers("a", USED), Some("b"));
    assert_eq!(shares.offers("a", USED), Some("b"));
    assert_eq!(shares.offers("a", TURN_OVER), None);
    assert_eq!(shares.offers("a", idle(LONG)), None, "not even what it does not use");
    // More minimums than connections: nobody is left with nothing.
    shares.waits("c", 1);
    assert_eq!(shares.offers("a", TURN_OVER), Some("c"));
}

#[test]
fn what_is_unused_is_had_by_whoever_has_less() {
    let mut shares = server(3);
    shares.takes("a", 1);
    shares.takes("b", 2);
    shares.waits("c", 1);
    assert_eq!(shares.offers("a", idle(Duration::ZERO)), None, "between two transactions");
    assert_eq!(shares.offers("a", idle(IDLE_GRACE)), Some("c"));
    // Who has more already waits longer for it.
    shares.waits("b", 1);
    assert_eq!(shares.offers("c", idle(IDLE_GRACE)), None);
    assert_eq!(shares.offers("c", idle(IDLE_KEEP)), Some("b"));
}

#[test]
fn a_tenants_own_other_role_gets_its_turn() {
    let mut shares = server(1);
    shares.takes("a", 1);
    shares.waits("a", 1);
    assert_eq!(shares.offers("a", USED), None);
    assert_eq!(shares.offers("a", Offer { useful: true, ..TURN_OVER }), None, "its waiter gets this one");
    assert_eq!(shares.offers("a", TURN_OVER), Some("a"));
}

#[test]
fn what_is_too_much_is_given_up_and_no_more_than_that() {
    let mut shares = server(4);
    shares.takes("a", 4);
    shares.set(2, 0);
    assert!(shares.is_wanted());
    assert_eq!(shares.offers("a", idle(Duration::ZERO)), Some("nobody"));
    assert_eq!(shares.offers("a", USED), Some("nobody"));
    assert_eq!(shares.offers("a", TURN_OVER), None);
    assert!(!shares.is_wanted());
}

#[test]
fn who_withdraws_is_forgotten() {
    let mut shares = server(1);
    shares.takes("a", 1);
    let number = shares.wait(&id("b"), 1, "b");
    shares.withdraw(&id("b"), number);
    shares.withdraw(&id("b"), number);
    assert!(!shares.is_wanted());
    assert_eq!(shares.offers("a", TURN_OVER), None);
    shares.put_back(&id("a"));
    assert!(shares.grant().is_none() && shares.tenants.is_empty());
}

#[test]
fn whoever_is_noted_as_the_neediest_is_so_after_whatever_happened() {
    let names: Vec<_> = (0..12).map(|n| TenantId::new(&format!("t{n}")).unwrap()).collect();
    let mut shares = Shares::new(6);
    let mut numbers = Vec::new();
    for round in 0..20_000 {
        let (tenant, weight) = (&names[rand::random_range(0..names.len())], rand::random_range(1..4));
        match rand::random_range(0..7) {
            0 => drop(shares.take(tenant, weight)),
            1 | 2 => numbers.push((tenant, shares.wait(tenant, weight, ()))),
            3 if !numbers.is_empty() => {
                let (tenant, number) = numbers.swap_remove(rand::random_range(0..numbers.len()));
                shares.withdraw(tenant, number);
            }
            4 if shares.tenants.get(tenant).is_some_and(|share| share.held > 0) => shares.put_back(tenant),
            5 if shares.tenants.get(tenant).is_some_and(|share| share.held > 0) => {
                let offer = Offer { had: TURN_MAX, idle: Some(IDLE_KEEP), useful: false };
                drop(shares.offer(tenant, offer));
            }
            _ => drop(shares.grant()),
        }
        if round % 500 == 0 {
            shares.set(rand::random_range(1..9), rand::random_range(0..3));
        }
        let need = |(tenant, share): (&TenantId, &Share<()>)| {
            let (number, ()) = share.waiting.front()?;
            Some(((share.held >= shares.minimum, share.load(share.held), *number), tenant.clone()))
        };
        let neediest = shares.tenants.iter().filter_map(need).min();
        assert_eq!(shares.neediest().cloned(), neediest.map(|(_, tenant)| tenant), "round {round}");
        assert!(shares.needs.len() <= names.len());
    }
}
