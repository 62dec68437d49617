//! Follows the map in the catalog, as long as it can be reached.

use std::sync::Arc;

use catalog::Feed;
use shard_map::Entry;

use crate::looks::GATHER;
use crate::shared::Shared;
use crate::worker::WorkerMessage;

/// Follows the map for as long as the router runs.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    /// Whether the outage that is going on was logged.
    outage_told: bool,
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, outage_told: false }
    }

    /// Follows the catalog, without end.
    pub(crate) async fn run(mut self) {
        let Some(url) = self.shared.config().catalog_url.clone() else {
            return std::future::pending().await;
        };
        loop {
            let outcome = self.follow(url.expose()).await;
            self.shared.map.set_followed(false);
            if let Err(error) = outcome
                && !std::mem::replace(&mut self.outage_told, true)
            {
                tracing::warn!(%error, "the map is not followed for now; serving by the one there is");
            }
            let pause = self.shared.config().poll_interval;
            tokio::time::sleep(pause).await;
        }
    }

    async fn follow(&mut self, url: &str) -> catalog::Result<()> {
        let mut feed = Feed::connect(url).await?;
        // Holds are not in a snapshot, so what the router begins with is the whole map.
        self.load(&mut feed).await?;
        self.shared.map.set_followed(true);
        if std::mem::replace(&mut self.outage_told, false) {
            tracing::info!("the map is followed again");
        }
        loop {
            let poll = self.shared.config().poll_interval;
            tokio::select! {
                () = feed.wait(poll) => {}
                () = self.shared.looks.wanted() => tokio::time::sleep(GATHER).await,
            }
            let look = self.shared.looks.begin();
            let (version, mark) = {
                let map = self.shared.map.read();
                (map.version, map.trail.last_mark())
            };
            match feed.changes_since(version, mark).await? {
                Some(changes) => self.apply(changes).await,
                None => self.load(&mut feed).await?,
            }
            self.shared.looks.end(look);
        }
    }

    async fn load(&mut self, feed: &mut Feed) -> catalog::Result<()> {
        // Not from a catalog that is behind: an empty one, or a backup. Its changes are none of this map's.
        let (known, trail) = {
            let map = self.shared.map.read();
            (map.version, map.trail.clone())
        };
        let map = feed.load(known, &trail).await?;
        if map.version < known || map.trail.parts_from(&trail) {
            tracing::warn!(
                version = map.version,
                known,
                "the catalog has lost its last changes: tenantry map verify tells which matter"
            );
        }
        tracing::info!(version = map.version, tenants = map.tenants.len(), "loaded the map from the catalog");
        self.shared.metrics.map_version.set(map.version);
        self.shared.map.replace(map);
        for worker in &self.shared.workers {
            // A worker that is gone needs no map.
            drop(worker.send(WorkerMessage::Everything).await);
        }
        Ok(())
    }

    async fn apply(&mut self, changes: Vec<shard_map::Change>) {
        // One message a tenant, after all: a move's release comes with its placement.
        let mut messages: Vec<Option<WorkerMessage>> = Vec::new();
        let mut tenants = std::collections::BTreeSet::new();
        {
            let mut map = self.shared.map.write();
            for change in changes {
                match &change.entry {
                    Entry::Tenant(tenant) => drop(tenants.insert(tenant.id.clone())),
                    Entry::Hold(hold) => drop(tenants.insert(hold.tenant.clone())),
                    Entry::NoTenant(id) | Entry::NoHold(id) => drop(tenants.insert(id.clone())),
                    Entry::Server(_) | Entry::NoServer(_) => messages.push(None),
                    Entry::NoUser(name) => messages.push(Some(WorkerMessage::NoUser(name.clone()))),
                    Entry::User(_) => {}
                }
                if let Err(gap) = map.apply(change) {
                    // The next round asks again from where the map is.
                    tracing::warn!(%gap, "the feed has a gap");
                    break;
                }
            }
            self.shared.metrics.map_version.set(map.version);
        }
        for id in tenants {
            let worker = &self.shared.workers[self.shared.worker_of(&id)];
            drop(worker.send(WorkerMessage::Tenant(id)).await);
        }
        for message in messages {
            for worker in &self.shared.workers {
                let message = match &message {
                    Some(WorkerMessage::NoUser(name)) => WorkerMessage::NoUser(name.clone()),
                    _ => WorkerMessage::Everything,
                };
                drop(worker.send(message).await);
            }
        }
    }
}
