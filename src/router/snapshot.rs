//! The map's copy on disk: what a router begins with, and serves by as long as the catalog can't be reached.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Seek as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shard_map::{ShardMap, SnapshotEncoder};

use crate::map::SharedMap;
use crate::shared::Shared;

/// Shortest time between two writes of the snapshot file.
const SNAPSHOT_INTERVAL: Duration = Duration::from_secs(1);

/// Tenants that are encoded under one lock.
const TENANTS_PER_SLICE: usize = 1000;

/// The name of the file before the last, after the file's own.
const OLD: &str = "old";

/// The map's copy on disk.
pub(crate) struct Snapshot {
    file: Option<PathBuf>,
    /// The map's changes that are in it.
    written: Option<u64>,
}

impl Snapshot {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { file: shared.config().snapshot_file.clone(), written: None }
    }

    /// Puts the file's map in force, if there is a sound one; the one before it otherwise.
    pub(crate) fn restore(&self, shared: &Shared) {
        if let Some(map) = self.load() {
            let (version, tenants) = (map.version, map.tenants.len());
            tracing::info!(version, tenants, "loaded the map from its snapshot");
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
        read_sound(file).or_else(|| {
            let map = read_sound(&beside(file, OLD))?;
            // What it does not know by now, registries tell.
            tracing::warn!(version = map.version, "beginning by the snapshot before the last");
            Some(map)
        })
    }

    /// Writes the map, if it has changed.
    async fn write(&mut self, shared: &Arc<Shared>) {
        let Some(file) = self.file.clone() else {
            return;
        };
        // Looked up before the map is: what changes meanwhile is written the next time.
        let changes = shared.map.changes();
        if self.written == Some(changes) || !shared.map.is_loaded() {
            return;
        }
        let shared = shared.clone();
        let written =
            tokio::task::spawn_blocking(move || replace(&file, |new| encode(&shared.map, new))).await;
        match written {
            Ok(Ok(())) => self.written = Some(changes),
            Ok(Err(error)) => tracing::warn!(%error, "the map's snapshot can't be written"),
            Err(error) => tracing::warn!(%error, "the map's snapshot was not written"),
        }
    }
}

/// Reads a snapshot; one that is not sound, or of a format of the future, is set aside for whoever wants to look at it.
fn read_sound(file: &Path) -> Option<ShardMap> {
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
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

/// Writes the map in slices: no worker waits for the lock while a large map is gone through, and memory holds one of them.
fn encode(shared: &SharedMap, file: &mut File) -> io::Result<()> {
    let (mut encoder, ids) = {
        let map = shared.read();
        let mut encoder = SnapshotEncoder::new(map.version, &map.trail);
        map.servers.values().for_each(|server| encoder.server(server));
        map.users.values().for_each(|user| encoder.user(user));
        (encoder, map.tenants.keys().cloned().collect::<Vec<_>>())
    };
    // In the place of the one that is known at the end.
    file.write_all(&encoder.header())?;
    for slice in ids.chunks(TENANTS_PER_SLICE) {
        {
            let map = shared.read();
            slice.iter().filter_map(|id| map.tenants.get(id)).for_each(|tenant| encoder.tenant(tenant));
        }
        file.write_all(&encoder.take())?;
    }
    file.write_all(&encoder.take())?;
    file.rewind()?;
    file.write_all(&encoder.header())
}

fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    file.with_file_name(name)
}

/// Puts another file in its place so that after a crash the old or the new one is there, whole; the one before it stays
/// under another name.
fn replace(file: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let new = beside(file, "new");
    // It has users' verifiers.
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    written.set_permissions(Permissions::from_mode(0o600))?;
    write(&mut written)?;
    written.sync_all()?;
    match std::fs::rename(file, beside(file, OLD)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::fs::rename(&new, file)?,
    }
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use shard_map::{Entry, Epoch, ServerName, Tenant, TenantId, TenantState};

    use super::*;

    fn in_a_folder(name: &str, test: impl FnOnce(&Path, &Snapshot)) {
        let folder = std::env::temp_dir().join(format!("tenantry-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("map");
        test(&file, &Snapshot { file: Some(file.clone()), written: None });
        std::fs::remove_dir_all(folder).unwrap();
    }

    fn write_file(file: &Path, bytes: &[u8]) -> io::Result<()> {
        replace(file, |new| new.write_all(bytes))
    }

    fn map(version: i64) -> ShardMap {
        ShardMap { version, ..ShardMap::default() }
    }

    #[test]
    fn a_snapshot_is_written_whole_and_a_damaged_one_is_set_aside() {
        in_a_folder("snapshot", |file, snapshot| {
            assert!(snapshot.load().is_none(), "no file is no fault");
            write_file(file, &map(5).encode()).unwrap();
            assert_eq!(snapshot.load(), Some(map(5)));
            std::fs::write(file, b"torn").unwrap();
            assert!(snapshot.load().is_none());
            assert!(!file.exists() && beside(file, "bad").exists());
        });
    }

    #[test]
    fn a_map_of_many_slices_comes_back_whole() {
        let tenant = |number: usize| Tenant {
            id: TenantId::new(&format!("t{number}")).unwrap(),
            server: ServerName::new("pg-1").unwrap(),
            epoch: Epoch(1),
            state: TenantState::Open,
            labels: [].into(),
            key_version: 1,
            schema_version: None,
            quota: None,
            read_only: false,
        };
        for count in [0, 1, TENANTS_PER_SLICE, 2 * TENANTS_PER_SLICE + 1] {
            let mut large = map(9);
            (0..count).for_each(|number| large.insert(Entry::Tenant(tenant(number))));
            let shared = SharedMap::default();
            shared.replace(large.clone());
            in_a_folder("slices", |file, snapshot| {
                replace(file, |new| encode(&shared, new)).unwrap();
                assert_eq!(snapshot.load().unwrap(), large);
            });
        }
    }

    #[test]
    fn the_one_before_takes_the_place_of_a_damaged_one_however_it_is_damaged() {
        in_a_folder("snapshots", |file, snapshot| {
            let sound = map(6).encode();
            let torn = (0..sound.len()).map(|length| sound[..length].to_vec());
            let flipped = (0..sound.len()).map(|at| {
                let mut flipped = sound.clone();
                flipped[at] ^= 0x20;
                flipped
            });
            let text = String::from_utf8(sound.clone()).unwrap();
            let future = text.replace("tenantry-shard-map/2", "tenantry-shard-map/3").into_bytes();
            for damaged in torn.chain(flipped).chain([future]) {
                write_file(file, &map(5).encode()).unwrap();
                write_file(file, &sound).unwrap();
                std::fs::write(file, &damaged).unwrap();
                assert_eq!(snapshot.load(), Some(map(5)), "{damaged:?}");
                assert_eq!(std::fs::read(beside(file, "bad")).unwrap(), damaged, "it is kept");
                // Killed between the two renames of the next write: the file is not there.
                assert_eq!(snapshot.load(), Some(map(5)));
                write_file(file, &sound).unwrap();
                assert_eq!(snapshot.load(), Some(map(6)));
            }
        });
    }
}
