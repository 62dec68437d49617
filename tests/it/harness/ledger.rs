//! Writers that remember what was acknowledged, and the reckoning: every acknowledged row is there exactly once, every
//! unacknowledged one at most once, and no transaction by half.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config};

use super::fleet::Fleet;
use super::{Sql as _, code, connect, until};

/// Between two transactions of a writer: as fast as they can, a few of them take the whole machine from the tests beside them.
const PACE: Duration = Duration::from_millis(40);

/// A row's own number: its writer's, and a count.
type Number = (i64, i64);

/// Writers at work on one tenant.
pub(crate) struct Ledger {
    tenant: String,
    shared: Rc<Shared>,
    writers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: Cell<bool>,
    acknowledged: RefCell<BTreeSet<Number>>,
    /// Sent, and never answered: may be there or not.
    unanswered: RefCell<BTreeSet<Number>>,
    /// Errors that clients saw, by SQLSTATE.
    errors: RefCell<BTreeMap<String, usize>>,
    /// Nobody begins anything new.
    paused: Cell<bool>,
    /// Writers that wait for an answer.
    busy: Cell<usize>,
    /// The longest time between two acknowledgements of one writer.
    stall: Cell<Duration>,
}

impl Ledger {
    /// Makes the tables, and starts this many writers.
    pub(crate) async fn start(fleet: &Fleet, tenant: &str, writers: i64) -> Self {
        Self::start_as(fleet, &fleet.config(tenant), writers).await
    }

    /// The same by a login of its own, such as through another router.
    pub(crate) async fn start_as(fleet: &Fleet, config: &Config, writers: i64) -> Self {
        Self::start_through(fleet, std::slice::from_ref(config), writers).await
    }

    /// The same through several routers, with this many writers at each.
    pub(crate) async fn start_through(fleet: &Fleet, ways: &[Config], writers: i64) -> Self {
        let tenant = ways[0].get_dbname().expect("a tenant");
        let writers: Vec<(i64, &Config)> =
            (1..).zip(ways.iter().flat_map(|way| (0..writers).map(move |_| way))).collect();
        // No constraint: a row that is written twice must be seen, not refused.
        let owner = fleet.connect(tenant).await;
        owner
            .run(
                "CREATE TABLE entries (writer bigint NOT NULL, number bigint NOT NULL);
                 CREATE TABLE totals (writer bigint PRIMARY KEY, entries bigint NOT NULL)",
            )
            .await;
        for (writer, _) in &writers {
            owner.run(&format!("INSERT INTO totals VALUES ({writer}, 0)")).await;
        }
        let shared = Rc::new(Shared::default());
        let start = |(writer, way): (i64, &Config)| {
            tokio::task::spawn_local(write(way.clone(), writer, shared.clone()))
        };
        let writers = writers.into_iter().map(start).collect();
        let ledger = Self { tenant: tenant.to_owned(), shared, writers };
        ledger.goes_on().await;
        ledger
    }

    /// Rows acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.acknowledged.borrow().len()
    }

    /// Waits until more rows are acknowledged: a few for each writer.
    pub(crate) async fn goes_on(&self) {
        let goal = self.acknowledged() + 5 * self.writers.len();
        until("writes to go on", async || (self.acknowledged() >= goal).then_some(())).await;
    }

    /// Errors that clients saw so far, by SQLSTATE.
    pub(crate) fn errors(&self) -> BTreeMap<String, usize> {
        self.shared.errors.borrow().clone()
    }

    /// The longest that a writer was kept waiting since this was last asked.
    pub(crate) fn take_stall(&self) -> Duration {
        self.shared.stall.take()
    }

    /// Forgets the errors so far.
    pub(crate) fn take_errors(&self) -> BTreeMap<String, usize> {
        self.shared.errors.take()
    }

    /// Stops the writers, and compares what they were told with what is there.
    pub(crate) async fn reckon(mut self, fleet: &Fleet) {
        self.shared.stop.set(true);
        for writer in self.writers.drain(..) {
            writer.await.unwrap();
        }
        self.compare(fleet).await;
    }

    /// The same in between: the writers pause meanwhile.
    pub(crate) async fn reckon_so_far(&self, fleet: &Fleet) {
        self.shared.paused.set(true);
        until("the writers to pause", async || (self.shared.busy.get() == 0).then_some(())).await;
        self.compare(fleet).await;
        self.shared.paused.set(false);
    }

    async fn compare(&self, fleet: &Fleet) {
        let config = fleet.config(&self.tenant);
        let client = until("the tenant to be there", async || connect(&config).await.ok()).await;
        let mut found = BTreeSet::new();
        for row in client.query("SELECT writer, number FROM entries", &[]).await.unwrap() {
            let number: Number = (row.get(0), row.get(1));
            assert!(found.insert(number), "{number:?} is there twice");
        }
        let halves = "
            SELECT count(*) FROM totals t
            WHERE entries <> (SELECT count(*) FROM entries e WHERE e.writer = t.writer)";
        assert_eq!(client.number(halves).await, 0, "a transaction was done by half");
        let acknowledged = self.shared.acknowledged.borrow();
        let lost: Vec<_> = acknowledged.difference(&found).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?} of {}", acknowledged.len());
        let unanswered = self.shared.unanswered.borrow();
        let refused: Vec<_> =
            found.difference(&acknowledged).filter(|number| !unanswered.contains(number)).collect();
        assert!(refused.is_empty(), "refused, yet there: {refused:?}");
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.writers.iter().for_each(JoinHandle::abort);
    }
}

/// Writes until told to stop; connects again whenever the connection is lost.
async fn write(config: Config, writer: i64, shared: Rc<Shared>) {
    let mut client: Option<Client> = None;
    let mut number = 0;
    let mut last = Instant::now();
    while !shared.stop.get() {
        if shared.paused.get() {
            tokio::time::sleep(PACE).await;
            last = Instant::now();
            continue;
        }
        let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
            match connect(&config).await {
                Ok(connected) => client = Some(connected),
                Err(error) => {
                    count(&shared, &error);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            continue;
        };
        number += 1;
        shared.busy.update(|busy| busy + 1);
        let outcome = write_one(connected, writer, number).await;
        shared.busy.update(|busy| busy - 1);
        match outcome {
            Ok(()) => {
                shared.acknowledged.borrow_mut().insert((writer, number));
                shared.stall.update(|longest| longest.max(last.elapsed()));
                last = Instant::now();
            }
            Err(error) => {
                // An error of the server's own says that it was not done; a lost connection says nothing, and nor does
                // 08007, which is there to say so.
                let unknown = error.as_db_error().is_none_or(|error| error.code().code() == "08007");
                if unknown {
                    shared.unanswered.borrow_mut().insert((writer, number));
                }
                count(&shared, &error);
            }
        }
        tokio::time::sleep(PACE).await;
    }
}

fn count(shared: &Shared, error: &tokio_postgres::Error) {
    *shared.errors.borrow_mut().entry(code(error)).or_default() += 1;
}

async fn write_one(client: &mut Client, writer: i64, number: i64) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.execute("INSERT INTO entries VALUES ($1, $2)", &[&writer, &number]).await?;
    transaction.execute("UPDATE totals SET entries = entries + 1 WHERE writer = $1", &[&writer]).await?;
    transaction.commit().await
}
