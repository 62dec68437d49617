//! Follows the map: from the snapshot file at first, from the catalog as long as it can be reached.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use catalog::{Feed, Trail};
use shard_map::{Entry, ShardMap, SnapshotEncoder};

use crate::map::SharedMap;
use crate::shared::Shared;
use crate::worker::WorkerMessage;

/// Shortest time between two writes of the snapshot file.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Tenants that are encoded under one lock.
const TENANTS_PER_SLICE: usize = 1000;

/// Follows the map for as long as the router runs.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    /// By which changes the map came to its version.
    trail: Trail,
    /// Whether the outage that is going on was logged.
    outage_told: bool,
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, trail: Trail::default(), outage_told: false }
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
            feed.wait(poll).await;
            let version = self.shared.map.read().version;
            match feed.changes_since(version, &mut self.trail).await? {
                Some(changes) => self.apply(changes).await,
                None => self.load(&mut feed).await?,
            }
        }
    }

    async fn load(&mut self, feed: &mut Feed) -> catalog::Result<()> {
        // Not from a catalog that is behind: an empty one, or a backup. Its changes are none of this map's.
        let known = self.shared.map.read().version;
        let map = feed.load(known, &mut self.trail).await?;
        if map.version < known {
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

/// The map's copy on disk.
pub(crate) struct Snapshot {
    file: Option<PathBuf>,
    written: Option<i64>,
}

impl Snapshot {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { file: shared.config().snapshot_file.clone(), written: None }
    }

    /// Puts the file's map in force, if there is a sound one.
    pub(crate) fn restore(&mut self, shared: &Shared) {
        if let Some(map) = self.load() {
            let (version, tenants) = (map.version, map.tenants.len());
            tracing::info!(version, tenants, "loaded the map from its snapshot");
            self.written = Some(version);
            shared.metrics.map_version.set(version);
            shared.map.replace(map);
        }
    }

    /// Keeps the file up to date, without end. Apart from the follower: what was applied last is written although the
    /// catalog has stopped answering just then.
    pub(crate) async fn keep(mut self, shared: Arc<Shared>) {
        loop {
            tokio::time::sleep(SNAPSHOT_INTERVAL).await;
            self.write(&shared).await;
        }
    }

    fn load(&self) -> Option<ShardMap> {
        let file = self.file.as_ref()?;
        let bytes = match std::fs::read(file) {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "the map's snapshot can't be read");
                }
                return None;
            }
        };
        match ShardMap::decode(&bytes) {
            Ok(map) => Some(map),
            Err(error) => {
                let aside = beside(file, "bad");
                tracing::warn!(file = %file.display(), %error, aside = %aside.display(), "the map's snapshot is not sound, and set aside");
                drop(std::fs::rename(file, aside));
                None
            }
        }
    }

    /// Writes the map, if it has changed.
    async fn write(&mut self, shared: &Arc<Shared>) {
        let Some(file) = self.file.clone() else {
            return;
        };
        let version = shared.map.read().version;
        if self.written == Some(version) || !shared.map.is_loaded() {
            return;
        }
        let shared = shared.clone();
        let written = tokio::task::spawn_blocking(move || write_file(&file, &encode(&shared.map))).await;
        match written {
            Ok(Ok(())) => self.written = Some(version),
            Ok(Err(error)) => tracing::warn!(%error, "the map's snapshot can't be written"),
            Err(error) => tracing::warn!(%error, "the map's snapshot was not written"),
        }
    }
}

/// The map as a snapshot file, encoded in slices: no worker waits for the lock while a large map is gone through.
fn encode(shared: &SharedMap) -> Vec<u8> {
    let (mut file, ids) = {
        let map = shared.read();
        let mut file = SnapshotEncoder::new(map.version);
        map.servers.values().for_each(|server| file.server(server));
        map.users.values().for_each(|user| file.user(user));
        (file, map.tenants.keys().cloned().collect::<Vec<_>>())
    };
    for slice in ids.chunks(TENANTS_PER_SLICE) {
        let map = shared.read();
        slice.iter().filter_map(|id| map.tenants.get(id)).for_each(|tenant| file.tenant(tenant));
    }
    file.finish()
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    file.with_file_name(name)
}

/// Writes a file so that after a crash either the old or the new one is there, whole.
fn write_file(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write as _;
    let new = beside(file, "new");
    let mut written = std::fs::File::create(&new)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    std::fs::rename(&new, file)?;
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => std::fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_written_whole_and_a_damaged_one_is_set_aside() {
        let folder = std::env::temp_dir().join(format!("tenantry-snapshot-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("map");
        let snapshot = Snapshot { file: Some(file.clone()), written: None };
        assert!(snapshot.load().is_none(), "no file is no fault");
        let map = ShardMap { version: 5, ..ShardMap::default() };
        write_file(&file, &map.encode()).unwrap();
        assert_eq!(snapshot.load(), Some(map));
        std::fs::write(&file, b"torn").unwrap();
        assert!(snapshot.load().is_none());
        assert!(!file.exists() && beside(&file, "bad").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
