//! Clients that write through the router, and remember what was acknowledged to them.
//!
//! Each transaction inserts an event with a number of its own and counts a visit of the same person, so that a lost, a
//! doubled and a half-done transaction all show. A client that gets an error at commit does not know whether it was
//! done; it says so instead of guessing, and goes on with another number.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use super::fleet::Site;
use super::setup::Tenant;

/// Clients of the heaviest tenant, and of each other one.
const CLIENTS_OF_THE_HEAVIEST: usize = 4;
/// Pause of a client between two transactions, as applications have them.
const PAUSE: Duration = Duration::from_millis(5);
/// How long one transaction may take until its client gives up.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before a client connects again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);
/// How long clients may take to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

const EVENT_SQL: &str = "
    INSERT INTO activity (person_id, kind, name, amount, properties, occurred_at)
    VALUES ($1, 'event', 'demo', $2::bigint / 100.0, jsonb_build_object('number', $3::bigint), now())";
const VISIT_SQL: &str = "
    UPDATE people SET attributes =
        jsonb_set(attributes, '{visits}', to_jsonb((attributes ->> 'visits')::bigint + 1))
    WHERE id = $1";

/// One transaction, as its client knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) number: i64,
    pub(crate) person: i64,
    pub(crate) cents: i64,
}

impl Write {
    /// What a number stands for: any client and any check can work it out again.
    pub(crate) fn numbered(number: i64, people: i64) -> Self {
        Self { number, person: 1 + number * 7919 % people, cents: number % 10_000 }
    }
}

/// What the clients of one tenant saw.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) tenant: Tenant,
    pub(crate) acknowledged: Vec<Write>,
    /// Begun, and neither acknowledged nor known to be undone.
    pub(crate) in_doubt: Vec<Write>,
    pub(crate) errors: Vec<String>,
    pub(crate) longest: Duration,
}

impl Tally {
    fn new(tenant: Tenant) -> Self {
        Self {
            tenant,
            acknowledged: Vec::new(),
            in_doubt: Vec::new(),
            errors: Vec::new(),
            longest: Duration::ZERO,
        }
    }

    fn merge(&mut self, other: Self) {
        self.acknowledged.extend(other.acknowledged);
        self.in_doubt.extend(other.in_doubt);
        self.errors.extend(other.errors);
        self.longest = self.longest.max(other.longest);
    }
}

/// The running clients.
pub(crate) struct Load<'a> {
    clients: JoinSet<Tally>,
    stop: watch::Sender<bool>,
    tenants: &'a [Tenant],
}

impl<'a> Load<'a> {
    /// Starts clients for all tenants, most of them for the first.
    pub(crate) fn start(site: &Arc<Site>, tenants: &'a [Tenant]) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut clients = JoinSet::new();
        for (index, tenant) in tenants.iter().enumerate() {
            let numbers = Arc::new(AtomicI64::new(1));
            for _ in 0..if index == 0 { CLIENTS_OF_THE_HEAVIEST } else { 1 } {
                clients.spawn(run(site.clone(), tenant.clone(), numbers.clone(), stopped.clone()));
            }
        }
        eprintln!("{} clients write through the router", clients.len());
        Self { clients, stop, tenants }
    }

    /// Lets running transactions end, and tells what each tenant's clients saw, in the order of the tenants.
    pub(crate) async fn stop(mut self) -> Vec<Tally> {
        self.stop.send_replace(true);
        let mut tallies: Vec<Tally> = self.tenants.iter().cloned().map(Tally::new).collect();
        let deadline = tokio::time::Instant::now() + STOP_TIMEOUT;
        while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, self.clients.join_next()).await {
            let Ok(ended) = ended else { continue };
            if let Some(tally) = tallies.iter_mut().find(|tally| tally.tenant == ended.tenant) {
                tally.merge(ended);
            }
        }
        tallies
    }
}

async fn run(
    site: Arc<Site>,
    tenant: Tenant,
    numbers: Arc<AtomicI64>,
    stopped: watch::Receiver<bool>,
) -> Tally {
    let mut tally = Tally::new(tenant);
    while !*stopped.borrow() {
        if let Err(error) = session(&site, &mut tally, &numbers, &stopped).await {
            tally.errors.push(format!("{}: {error:#}", tally.tenant.id));
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
    tally
}

/// One connection's life: until it is told to stop, or meets an error.
async fn session(
    site: &Site,
    tally: &mut Tally,
    numbers: &AtomicI64,
    stopped: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let mut client = site.through_router(&tally.tenant.id).await.context("login")?;
    let preparing = async { Ok((client.prepare(EVENT_SQL).await?, client.prepare(VISIT_SQL).await?)) };
    let statements: Result<_, tokio_postgres::Error> =
        tokio::time::timeout(TRANSACTION_TIMEOUT, preparing).await.context("preparing takes too long")?;
    let statements = statements.context("preparing")?;
    while !*stopped.borrow() {
        let write = Write::numbered(numbers.fetch_add(1, Ordering::Relaxed), tally.tenant.people);
        let begun = Instant::now();
        let outcome =
            tokio::time::timeout(TRANSACTION_TIMEOUT, transact(&mut client, &statements, write)).await;
        tally.longest = tally.longest.max(begun.elapsed());
        match outcome.context("no answer in time").flatten() {
            Ok(()) => tally.acknowledged.push(write),
            Err(error) => {
                tally.in_doubt.push(write);
                return Err(error);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn transact(
    client: &mut Client,
    (event, visit): &(Statement, Statement),
    write: Write,
) -> anyhow::Result<()> {
    let transaction = client.transaction().await.context("begin")?;
    transaction.execute(event, &[&write.person, &write.cents, &write.number]).await.context("insert")?;
    transaction.execute(visit, &[&write.person]).await.context("update")?;
    transaction.commit().await.context("commit")
}
