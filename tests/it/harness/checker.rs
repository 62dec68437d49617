//! Clients of every kind at work on one tenant, and the proof of what became of it: each acknowledged transaction is there
//! whole, once and in order, each refused one is not, each that was never answered is there whole or not at all, and
//! nothing else is there.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error};

use super::fleet::Fleet;
use super::{Sql as _, code, connect, until};

const TABLES: &str = "
    CREATE SEQUENCE numbers;
    CREATE TABLE written (client bigint NOT NULL, number bigint NOT NULL, part bigint NOT NULL);
    CREATE TABLE numbered (id bigint NOT NULL DEFAULT nextval('numbers'), client bigint NOT NULL, number bigint NOT NULL);
    CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
    CREATE TABLE transfers (payer bigint NOT NULL, payee bigint NOT NULL, amount bigint NOT NULL);
    CREATE TABLE versions (client bigint PRIMARY KEY, version bigint NOT NULL);
    INSERT INTO accounts SELECT n, 1000 FROM generate_series(0, 9) n;
    INSERT INTO versions SELECT n, 0 FROM generate_series(0, 99) n";
const ACCOUNTS: i64 = 10;

/// What clients do.
#[derive(Clone, Copy)]
enum Kind {
    /// One statement, prepared once, with a value of a sequence.
    Numbers,
    /// Two rows changed under locks, several statements.
    Transfers,
    /// A transaction that is open for long.
    Lingers,
    /// A row that is counted up.
    Versions,
    /// COPY.
    Copies,
}

const KINDS: [Kind; 5] = [Kind::Numbers, Kind::Transfers, Kind::Lingers, Kind::Versions, Kind::Copies];

impl Kind {
    /// The condition that rows of its clients meet: they take turns by number.
    fn clients(self) -> String {
        format!("client % {} = {}", KINDS.len(), self as usize)
    }
}

/// A client, and its transaction's number.
type Number = (i64, i64);

/// Clients at work on one tenant.
pub(crate) struct Checker {
    tenant: String,
    shared: Rc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: Cell<bool>,
    /// With how many parts each has.
    acknowledged: RefCell<BTreeMap<Number, i64>>,
    unanswered: RefCell<BTreeMap<Number, i64>>,
    /// Values of the sequence that clients were told, in the order in which they were.
    told: RefCell<BTreeMap<i64, Vec<i64>>>,
    errors: RefCell<BTreeMap<String, usize>>,
}

impl Checker {
    /// Makes the tables, and starts two clients of each kind, each of which rests for `pace` between two transactions.
    pub(crate) async fn start(fleet: &Fleet, tenant: &str, pace: Duration, seed: u64) -> Self {
        fleet.connect(tenant).await.run(TABLES).await;
        let shared = Rc::new(Shared::default());
        let start = |id: i64| {
            let kind = KINDS[usize::try_from(id).unwrap() % KINDS.len()];
            let rng = StdRng::seed_from_u64(seed.wrapping_add(id.unsigned_abs()));
            let one = One { id, kind, rng, config: fleet.config(tenant), pace, shared: shared.clone() };
            tokio::task::spawn_local(one.live())
        };
        let clients = (0..2 * KINDS.len() as i64).map(start).collect();
        let checker = Self { tenant: tenant.to_owned(), shared, clients };
        checker.goes_on().await;
        checker
    }

    /// Waits until more transactions are acknowledged: some of each client.
    pub(crate) async fn goes_on(&self) {
        let by_client = || {
            let mut counts = vec![0; self.clients.len()];
            for (client, _) in self.shared.acknowledged.borrow().keys() {
                counts[usize::try_from(*client).unwrap()] += 1;
            }
            counts
        };
        let before: Vec<i32> = by_client();
        until("every client to go on", async || {
            by_client().iter().zip(&before).all(|(now, before)| now > before).then_some(())
        })
        .await;
    }

    /// Transactions acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.shared.acknowledged.borrow().len()
    }

    /// Errors that clients saw so far, by SQLSTATE.
    pub(crate) fn errors(&self) -> BTreeMap<String, usize> {
        self.shared.errors.borrow().clone()
    }

    /// Stops the clients, and compares what they were told with what is there.
    pub(crate) async fn reckon(self, fleet: &Fleet) {
        self.shared.stop.set(true);
        for client in self.clients {
            client.await.unwrap();
        }
        let client = fleet.connect(&self.tenant).await;
        let (acknowledged, unanswered) = (self.shared.acknowledged.take(), self.shared.unanswered.take());
        transactions_are_whole(&client, &acknowledged, &unanswered).await;
        numbers_are_in_order(&client, self.shared.told.take()).await;
        let sum = "SELECT (sum(balance) - 1000 * count(*))::bigint FROM accounts";
        assert_eq!(client.number(sum).await, 0, "money was made or lost");
        let booked = "
            SELECT count(*) FROM accounts a WHERE balance <> 1000
                + coalesce((SELECT sum(amount) FROM transfers WHERE payee = a.id), 0)
                - coalesce((SELECT sum(amount) FROM transfers WHERE payer = a.id), 0)";
        assert_eq!(client.number(booked).await, 0, "accounts that are not what was transferred");
        let counted = format!(
            "SELECT count(*) FROM versions WHERE {}
                AND version <> (SELECT count(*) FROM written w WHERE w.client = versions.client)",
            Kind::Versions.clients()
        );
        assert_eq!(client.number(&counted).await, 0, "updates that were lost or done twice");
        let unchanged =
            format!("SELECT count(*) FROM written WHERE {} AND part <> 1", Kind::Lingers.clients());
        assert_eq!(client.number(&unchanged).await, 0, "updates of rows without a key that were lost");
    }
}

async fn transactions_are_whole(
    client: &Client,
    acknowledged: &BTreeMap<Number, i64>,
    unanswered: &BTreeMap<Number, i64>,
) {
    let twice = "SELECT client || '/' || number || '/' || part FROM written GROUP BY client, number, part HAVING count(*) > 1 LIMIT 10";
    assert_eq!(client.column(twice).await, Vec::<String>::new(), "there twice");
    let mut found = BTreeMap::new();
    let parts = "SELECT client, number, count(*) FROM written GROUP BY client, number";
    for row in client.query(parts, &[]).await.unwrap() {
        let number: Number = (row.get(0), row.get(1));
        found.insert(number, row.get::<_, i64>(2));
    }
    let lost: Vec<_> =
        acknowledged.iter().filter(|(number, parts)| found.get(number) != Some(parts)).collect();
    assert!(lost.is_empty(), "acknowledged, and not whole: {lost:?} of {}", acknowledged.len());
    for (number, parts) in found.iter().filter(|(number, _)| !acknowledged.contains_key(number)) {
        assert_eq!(unanswered.get(number), Some(parts), "{number:?} was refused, or is there by half");
    }
}

async fn numbers_are_in_order(client: &Client, told: BTreeMap<i64, Vec<i64>>) {
    let mut there = BTreeSet::new();
    for row in client.query("SELECT client, id FROM numbered", &[]).await.unwrap() {
        there.insert((row.get::<_, i64>(0), row.get::<_, i64>(1)));
    }
    for (of, values) in &told {
        let lost: Vec<_> = values.iter().filter(|value| !there.contains(&(*of, **value))).collect();
        assert!(lost.is_empty(), "client {of} was told {lost:?}, which are not there");
    }
    let unmatched = format!(
        "SELECT count(*) FROM (SELECT client, number FROM written WHERE {}) w
         FULL JOIN numbered n USING (client, number) WHERE w.client IS NULL OR n.client IS NULL",
        Kind::Numbers.clients()
    );
    assert_eq!(client.number(&unmatched).await, 0, "transactions of two tables that are there by half");
    let twice = "SELECT id::text FROM numbered GROUP BY id HAVING count(*) > 1 LIMIT 10";
    assert_eq!(
        client.column(twice).await,
        Vec::<String>::new(),
        "values of the sequence that were given twice"
    );
    let mut seen = BTreeSet::new();
    for (of, values) in told {
        assert!(values.is_sorted(), "client {of} was given a value that is below an earlier one");
        assert!(
            values.iter().all(|value| seen.insert(*value)),
            "client {of} was given a value that another has"
        );
    }
    let misplaced = "
        SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY client ORDER BY number) AS back FROM numbered) n
        WHERE back";
    assert_eq!(client.number(misplaced).await, 0, "rows whose numbers are out of order");
}

/// One client.
struct One {
    id: i64,
    kind: Kind,
    rng: StdRng,
    config: Config,
    /// Between two transactions.
    pace: Duration,
    shared: Rc<Shared>,
}

impl One {
    /// Works until told to stop; connects again whenever the connection is lost.
    async fn live(mut self) {
        let mut client: Option<Client> = None;
        let mut number = 0;
        while !self.shared.stop.get() {
            let Some(connected) = client.as_mut().filter(|client| !client.is_closed()) else {
                match connect(&self.config).await {
                    Ok(connected) => client = Some(connected),
                    Err(error) => {
                        self.count(&error);
                        tokio::time::sleep(self.pace).await;
                    }
                }
                continue;
            };
            number += 1;
            let parts = if matches!(self.kind, Kind::Copies) { self.rng.random_range(2..60) } else { 1 };
            match self.work(connected, number, parts).await {
                Ok(()) => drop(self.shared.acknowledged.borrow_mut().insert((self.id, number), parts)),
                Err(error) => {
                    // An error of the server's own says that it was not done; a lost connection says nothing, and nor does
                    // 08007, which is there to say so.
                    if error.as_db_error().is_none_or(|error| error.code().code() == "08007") {
                        self.shared.unanswered.borrow_mut().insert((self.id, number), parts);
                    }
                    self.count(&error);
                }
            }
            tokio::time::sleep(self.pace).await;
        }
    }

    fn count(&self, error: &Error) {
        *self.shared.errors.borrow_mut().entry(code(error)).or_default() += 1;
    }

    async fn work(&mut self, client: &mut Client, number: i64, parts: i64) -> Result<(), Error> {
        match self.kind {
            Kind::Numbers => self.number(client, number).await,
            Kind::Transfers => self.transfer(client, number).await,
            Kind::Lingers => self.linger(client, number).await,
            Kind::Versions => self.count_up(client, number).await,
            Kind::Copies => self.copy(client, number, parts).await,
        }
    }

    async fn number(&self, client: &Client, number: i64) -> Result<(), Error> {
        const SQL: &str = "
            WITH noted AS (INSERT INTO written VALUES ($1, $2, 0))
            INSERT INTO numbered (client, number) VALUES ($1, $2) RETURNING id";
        let id = client.query_one(SQL, &[&self.id, &number]).await?.get(0);
        self.shared.told.borrow_mut().entry(self.id).or_default().push(id);
        Ok(())
    }

    async fn transfer(&mut self, client: &mut Client, number: i64) -> Result<(), Error> {
        let payer = self.rng.random_range(0..ACCOUNTS);
        let payee = (payer + self.rng.random_range(1..ACCOUNTS)) % ACCOUNTS;
        let amount = self.rng.random_range(1..100_i64);
        let transaction = client.transaction().await?;
        const LOCK: &str = "SELECT FROM accounts WHERE id IN ($1, $2) ORDER BY id FOR UPDATE";
        transaction.execute(LOCK, &[&payer, &payee]).await?;
        const MOVE: &str = "UPDATE accounts SET balance = balance + $2 WHERE id = $1";
        transaction.execute(MOVE, &[&payer, &-amount]).await?;
        transaction.execute(MOVE, &[&payee, &amount]).await?;
        transaction.execute("INSERT INTO transfers VALUES ($1, $2, $3)", &[&payer, &payee, &amount]).await?;
        transaction.execute("INSERT INTO written VALUES ($1, $2, 0)", &[&self.id, &number]).await?;
        transaction.commit().await
    }

    async fn linger(&mut self, client: &mut Client, number: i64) -> Result<(), Error> {
        let pause = Duration::from_millis(self.rng.random_range(0..400));
        let transaction = client.transaction().await?;
        transaction.execute("INSERT INTO written VALUES ($1, $2, 0)", &[&self.id, &number]).await?;
        tokio::time::sleep(pause).await;
        transaction
            .execute("UPDATE written SET part = 1 WHERE client = $1 AND number = $2", &[&self.id, &number])
            .await?;
        transaction.commit().await
    }

    async fn count_up(&self, client: &mut Client, number: i64) -> Result<(), Error> {
        let transaction = client.transaction().await?;
        transaction.execute("INSERT INTO written VALUES ($1, $2, -1)", &[&self.id, &number]).await?;
        transaction
            .execute("UPDATE versions SET version = version + 1 WHERE client = $1", &[&self.id])
            .await?;
        transaction.commit().await
    }

    async fn copy(&self, client: &Client, number: i64, parts: i64) -> Result<(), Error> {
        let sink = client.copy_in("COPY written FROM STDIN").await?;
        let mut sink = std::pin::pin!(sink);
        for part in 0..parts {
            sink.send(Bytes::from(format!("{}\t{number}\t{part}\n", self.id))).await?;
        }
        sink.finish().await.map(drop)
    }
}
