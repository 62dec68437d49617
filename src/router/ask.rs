//! Asks workers, on whose threads everything of a tenant is.
//!
//! A router may have tens of thousands of warm tenants. So what is asked of all of them is asked of a few at a time:
//! the worker serves its clients in between, and the answers need not be held all at once.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::try_join_all;
use shard_map::TenantId;
use tokio::sync::oneshot;

use crate::shared::Shared;
use crate::worker::{Worker, WorkerMessage};

/// How long a worker may take to answer.
const WORKER_TIMEOUT: Duration = Duration::from_secs(2);
/// Tenants or clients that a worker looks at in one go.
pub(crate) const PORTION: usize = 256;

/// A worker that does not answer in time, or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker did not answer within {WORKER_TIMEOUT:?}")]
pub(crate) struct NoAnswer;

/// What somebody on another thread wants of a worker; it must be quick.
pub(crate) type Question = Box<dyn FnOnce(&Rc<Worker>) + Send>;

/// Runs a question on a worker's thread.
pub(crate) async fn ask<T: Send + 'static>(
    shared: &Shared,
    worker: usize,
    question: impl FnOnce(&Rc<Worker>) -> T + Send + 'static,
) -> Result<T, NoAnswer> {
    let (to, answer) = oneshot::channel();
    let asked = Box::new(move |worker: &Rc<Worker>| {
        // Who asked may have gone.
        drop(to.send(question(worker)));
    });
    let answered = async {
        shared.workers[worker].send(WorkerMessage::Ask(asked)).await.map_err(|_| NoAnswer)?;
        answer.await.map_err(|_| NoAnswer)
    };
    tokio::time::timeout(WORKER_TIMEOUT, answered).await.unwrap_or(Err(NoAnswer))
}

/// Asks all workers the same.
pub(crate) async fn ask_all<T: Send + 'static>(
    shared: &Shared,
    question: impl Fn(&Rc<Worker>) -> T + Clone + Send + 'static,
) -> Result<Vec<T>, NoAnswer> {
    try_join_all((0..shared.workers.len()).map(|worker| ask(shared, worker, question.clone()))).await
}

/// All tenants that are warm here, in order of their names; with those whose figures are kept, if asked for.
pub(crate) async fn tenants(shared: &Shared, and_cold: bool) -> Result<Vec<TenantId>, NoAnswer> {
    let answers = ask_all(shared, move |worker| {
        let mut tenants: Vec<_> = worker.tenants.borrow().keys().cloned().collect();
        if and_cold {
            tenants.extend(worker.cold.borrow().tenants().cloned());
        }
        tenants
    });
    let all: HashSet<TenantId> = answers.await?.into_iter().flatten().collect();
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable();
    Ok(all)
}

/// Asks about each of these tenants at its worker, and gives the answers in the same order.
pub(crate) async fn each<T: Send + 'static>(
    shared: &Shared,
    tenants: &[TenantId],
    look: impl Fn(&Rc<Worker>, &TenantId) -> T + Clone + Send + 'static,
) -> Result<Vec<T>, NoAnswer> {
    let mut of_worker = vec![Vec::new(); shared.workers.len()];
    for (at, tenant) in tenants.iter().enumerate() {
        of_worker[shared.worker_of(tenant)].push((at, tenant.clone()));
    }
    let mut answers = Vec::with_capacity(tenants.len());
    for (worker, mine) in of_worker.into_iter().enumerate().filter(|(_, mine)| !mine.is_empty()) {
        let look = look.clone();
        let part = ask(shared, worker, move |worker| {
            mine.into_iter().map(|(at, tenant)| (at, look(worker, &tenant))).collect::<Vec<_>>()
        });
        answers.extend(part.await?);
    }
    answers.sort_by_key(|(at, _)| *at);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
