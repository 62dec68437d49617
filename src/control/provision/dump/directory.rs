//! A last dump as a file: written under another name, and renamed into place when it is whole.

use std::path::Path;

use tokio::fs::{File, OpenOptions};
use tokio::io::AsyncWriteExt as _;

use super::Source;
use crate::error::{Error, Result};
use crate::moves::programs::Sink;

/// Only the control plane's own user may read what was a customer's.
const FILE_MODE: u32 = 0o600;

/// Writes it, and returns its path.
pub(super) async fn write(source: &Source<'_>, directory: &Path) -> Result<String> {
    let name = source.name;
    // One that leads no more may still be at it: it has a file of its own.
    remove_partials(directory, name).await?;
    let partial = directory.join(format!(".{name}.{}.partial", source.work.term));
    let written = write_file(source, &partial).await;
    if written.is_err() {
        // Half a dump is of no use. It may not be there.
        drop(tokio::fs::remove_file(&partial).await);
    }
    written?;
    let path = directory.join(name);
    tokio::fs::rename(&partial, &path).await.map_err(|e| io(&path, e))?;
    // The name is on disk only when the directory is.
    sync(&File::open(directory).await.map_err(|e| io(directory, e))?, directory).await?;
    Ok(path.display().to_string())
}

/// What earlier tries left, or are at: those fail, then.
async fn remove_partials(directory: &Path, name: &str) -> Result<()> {
    let mut entries = tokio::fs::read_dir(directory).await.map_err(|e| io(directory, e))?;
    while let Some(entry) = entries.next_entry().await.map_err(|e| io(directory, e))? {
        let file = entry.file_name();
        let of_this = |file: &str| file.starts_with(&format!(".{name}.")) && file.ends_with(".partial");
        if file.to_str().is_some_and(of_this) {
            tokio::fs::remove_file(entry.path()).await.map_err(|e| io(&entry.path(), e))?;
        }
    }
    Ok(())
}

async fn write_file(source: &Source<'_>, path: &Path) -> Result<()> {
    let text =
        path.to_str().ok_or_else(|| Error::Failed("deleted_dump_dir: its path is not UTF-8".into()))?;
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(FILE_MODE);
    let mut file = options.open(path).await.map_err(|e| io(path, e))?;
    source.dump_into(&mut file).await?;
    file.flush().await.map_err(not_written)?;
    sync(&file, path).await?;
    // It can be read back as far as its table of contents, and its length is what pg_dump wrote.
    source.programs.run_local("pg_restore", &["--list", text]).await.map(drop)
}

impl Sink for File {
    async fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.write_all(piece).await.map_err(not_written)
    }
}

async fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().await.map_err(|e| io(path, e))
}

fn not_written(source: std::io::Error) -> Error {
    Error::Io { what: "writing what pg_dump gives".into(), source }
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { what: path.display().to_string(), source }
}
