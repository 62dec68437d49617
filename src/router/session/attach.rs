//! Gets a connection for a transaction and makes it the client's own; gives it back.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use prometheus::IntGauge;
use tokio::sync::oneshot;
use wire::backend::TransactionStatus;

use crate::error::ClientError;
use crate::pool::ServerConnection;
use crate::pool::reset::{self, ResetError};
use crate::pool::waiters::Grant;
use crate::session::{Over, Session};
use crate::state::{replay, tell_differences};
use crate::stats::Figure;

/// Connections that may turn out to be broken, one after another, before the client is told.
const ATTEMPTS_MAX: usize = 3;
/// How often who waits looks whether the limit of its wait is another now.
const LIMITS_LOOK: Duration = Duration::from_secs(1);
/// Input that is read of a client that waits, to notice when it goes away.
const WAITING_INPUT_BYTES_MAX: usize = 64 * 1024;

/// Counts a client that waits, however that ends.
struct Queued(IntGauge);

impl Queued {
    fn new(clients: IntGauge) -> Self {
        clients.inc();
        Self(clients)
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Session {
    /// Sees to it that there is a connection with this client's settings.
    pub(super) async fn attach(&mut self) -> Result<(), Over> {
        for _ in 0..ATTEMPTS_MAX {
            if let Some(connection) = self.connection.take() {
                if self.is_stale(&connection) && !self.state.is_pinned() {
                    self.detach(connection);
                } else {
                    self.connection = Some(connection);
                }
            }
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => self.get_connection().await?,
            };
            let sql = replay(&connection.applied, &self.state.settings);
            if let Some(sql) = sql {
                let (back, outcome) = Box::pin(self.replay(connection, &sql)).await?;
                connection = back;
                match outcome {
                    Ok(()) => {}
                    Err(ResetError::Lost) if !self.state.is_pinned() => {
                        self.tenant.discard(connection);
                        continue;
                    }
                    Err(ResetError::Lost) => {
                        self.tenant.discard(connection);
                        return Err(ClientError::ServerLost.into());
                    }
                    // What an earlier client left can't be undone by itself, so all of it is; what this one wants is
                    // then tried once more, and alone.
                    Err(ResetError::Refused(_))
                        if !connection.applied.is_empty() && !self.state.is_pinned() =>
                    {
                        if reset::clean(&mut connection, &self.tenant.worker.buffers, false, true).await {
                            self.connection = Some(connection);
                        } else {
                            self.tenant.discard(connection);
                        }
                        continue;
                    }
                    Err(ResetError::Refused(error)) => {
                        self.connection = Some(connection);
                        return Err(error.into());
                    }
                }
            }
            self.adopt(connection);
            return Ok(());
        }
        Err(ClientError::ServerDown(self.tenant.id.to_string()).into())
    }

    /// The same if nothing has to be waited for, as is usual.
    pub(super) fn attach_now(&mut self) -> bool {
        let access = self.tenant.granted(self.access);
        let Some(connection) = self.tenant.take_idle(access) else {
            return false;
        };
        self.tenant.worker.metrics.pool_hits.inc();
        if replay(&connection.applied, &self.state.settings).is_some() {
            // It is to be made ready.
            self.connection = Some(connection);
            return false;
        }
        self.adopt(connection);
        true
    }

    /// Takes a connection that has this client's settings.
    fn adopt(&mut self, mut connection: Box<ServerConnection>) {
        if !Rc::ptr_eq(&connection.applied, &self.state.settings) {
            connection.applied = self.state.settings.clone();
        }
        if !Rc::ptr_eq(&connection.params, &self.told) {
            let out = self.side.out(&self.tenant.worker.buffers);
            tell_differences(&mut self.told, &connection.params, out);
        }
        connection.cancel.holder.set(self.me.id);
        self.me.set_target(Some(connection.cancel.clone()));
        self.me.began.set(Some(self.tenant.worker.clock.now()));
        self.status = TransactionStatus::Idle;
        self.failed = false;
        self.server_gone = false;
        self.connection = Some(connection);
    }

    /// Runs statements on a connection, which is the session's own meanwhile: should that be ended, it is left in order.
    async fn replay(
        &mut self,
        connection: Box<ServerConnection>,
        sql: &str,
    ) -> Result<(Box<ServerConnection>, Result<(), ResetError>), Over> {
        let worker = self.tenant.worker.clone();
        self.unsynced = true;
        let connection = self.connection.insert(connection);
        let outcome = reset::run(connection, &worker.buffers, sql, self.side.out(&worker.buffers)).await;
        self.unsynced = false;
        worker.clock.look();
        let connection = self.connection.take().ok_or(ClientError::ServerLost)?;
        Ok((connection, outcome))
    }

    /// Gives the connection back.
    pub(super) fn detach(&mut self, connection: Box<ServerConnection>) {
        self.me.set_target(None);
        self.me.began.set(None);
        self.tenant.release(connection);
    }

    async fn get_connection(&mut self) -> Result<Box<ServerConnection>, Over> {
        let access = self.tenant.granted(self.access);
        if let Some(connection) = self.tenant.take_idle(access) {
            self.tenant.worker.metrics.pool_hits.inc();
            return Ok(connection);
        }
        let metrics = &self.tenant.worker.shared.metrics;
        metrics.pool_misses.inc();
        let mut granted = self.tenant.enqueue(access)?;
        let queued = Queued::new(metrics.clients_queued.clone());
        let since = Instant::now();
        self.me.waiting.set(Some(since));
        let outcome = Box::pin(self.wait_in_queue(&mut granted)).await;
        self.me.waiting.set(None);
        self.tenant.worker.clock.look();
        drop(queued);
        self.tenant.counters.add(Figure::Waits, 1);
        self.tenant.counters.add(Figure::WaitMicros, since.elapsed().as_micros() as u64);
        granted.close();
        match (outcome, granted.try_recv()) {
            (Ok(connection), _) => Ok(connection),
            // It came at the last moment: for somebody else, if this client is gone.
            (Err(Over::Refused(error)), Ok(Ok(granted))) if error.leaves_session() => {
                granted.take().ok_or(error.into())
            }
            (Err(over), _) => {
                self.tenant.settle();
                Err(over)
            }
        }
    }

    async fn wait_in_queue(
        &mut self,
        granted: &mut oneshot::Receiver<Grant>,
    ) -> Result<Box<ServerConnection>, Over> {
        let tenant = Rc::clone(&self.tenant);
        let since = Instant::now();
        // The time of a hold does not count: its own lease limits it.
        let begun = || {
            let held = tenant.held_for().map(|left| Instant::now() + left);
            held.or_else(|| tenant.held_until.get()).map_or(since, |held| held.max(since))
        };
        loop {
            let time = tenant.worker.shared.config().queue_timeout;
            let look = (begun() + time).min(Instant::now() + LIMITS_LOOK);
            tokio::select! {
                biased;
                grant = &mut *granted => {
                    return match grant {
                        Ok(Ok(granted)) => granted.take().ok_or(ClientError::ServerLost.into()),
                        Ok(Err(error)) => Err(error.into()),
                        Err(_) => Err(ClientError::ShuttingDown.into()),
                    };
                }
                over = self.client_leaves() => return Err(over),
                () = tokio::time::sleep_until(look.into()) => {
                    if begun() + time <= Instant::now() {
                        return Err(tenant.why_none(time).into());
                    }
                }
            }
        }
    }

    /// The next transaction of a client that keeps its connection waits for the end of a pause, as long as one in the
    /// queue would.
    pub(super) async fn outlast_pause(&mut self) -> Result<(), Over> {
        let time = self.tenant.worker.shared.config().queue_timeout;
        let since = self.me.waiting.get().unwrap_or_else(Instant::now);
        self.me.waiting.set(Some(since));
        let look = (since + time).min(Instant::now() + LIMITS_LOOK);
        match tokio::time::timeout_at(look.into(), self.exchange()).await {
            Ok(outcome) => outcome.and_then(|()| self.replies()),
            Err(_) if since.elapsed() < time => Ok(()),
            Err(_) => {
                self.me.waiting.set(None);
                self.refuse_request(&ClientError::QueueTimeout(time))
            }
        }
    }

    /// Ends when the client goes away, or must.
    async fn client_leaves(&mut self) -> Over {
        poll_fn(|cx| {
            // It may have been woken before it began to wait.
            self.me.was_woken();
            if let Some(error) = self.me.ending() {
                return Poll::Ready(Over::Refused(error));
            }
            while self.side.input.len() < WAITING_INPUT_BYTES_MAX {
                match self.side.poll_read(&self.tenant.worker.buffers, cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Over::Vanished),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }
}
