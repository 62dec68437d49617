//! The last dump of a tenant that is about to be dropped: a file of `pg_dump`'s custom format, whole or not there.

use std::path::Path;

use serde_json::json;
use tokio::fs::{File, OpenOptions};

use super::{Place, unless_it_is_the_servers};
use crate::context::Work;
use crate::error::{Error, Result};
use crate::moves::copy::adapt;
use crate::moves::programs::Programs;
use crate::moves::throttle::Throttle;

/// Only the control plane's own user may read what was a customer's.
const FILE_MODE: u32 = 0o600;

/// Writes it, unless this operation has done so before.
pub(super) async fn write(work: &Work, place: &Place, database: &str) -> Result<()> {
    let operation = work.context.catalog.operation(work.operation.id).await?;
    if operation.data.get("dumped") == Some(&json!(true)) {
        return Ok(());
    }
    let Some(directory) = &work.context.config.deleted_dump_dir else {
        return Err(Error::Failed(
            "a last dump was asked for, and deleted_dump_dir is not set: set it in the control plane's configuration, \
             or drop the tenant with tenant delete --now"
                .into(),
        ));
    };
    let name = match operation.data.get("dump_name").and_then(|name| name.as_str()) {
        Some(name) => name.to_owned(),
        None => name(work, place).await?,
    };
    // One that leads no more may still be at it: it has a file of its own.
    remove_partials(directory, &name).await?;
    let partial = directory.join(format!(".{name}.{}.partial", work.term));
    let written = write_file(work, place, database, &partial).await;
    let written = unless_it_is_the_servers(work, &[&place.server], written).await;
    if written.is_err() {
        // Half a dump is of no use. It may not be there.
        drop(tokio::fs::remove_file(&partial).await);
    }
    written?;
    let path = directory.join(name);
    tokio::fs::rename(&partial, &path).await.map_err(|e| io(&path, e))?;
    // The name is on disk only when the directory is.
    sync(&File::open(directory).await.map_err(|e| io(directory, e))?, directory).await?;
    work.remember(&json!({ "dumped": true, "dump": path })).await
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

/// The tenant, and when: the same for every try.
async fn name(work: &Work, place: &Place) -> Result<String> {
    const NOW: &str = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')";
    let now: String = place.registry.value(NOW, &[]).await?;
    let name = format!("{}-{now}.dump", place.tenant.id);
    work.remember(&json!({ "dump_name": name })).await?;
    Ok(name)
}

async fn write_file(work: &Work, place: &Place, database: &str, path: &Path) -> Result<()> {
    let context = &work.context;
    let text =
        path.to_str().ok_or_else(|| Error::Failed("deleted_dump_dir: its path is not UTF-8".into()))?;
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(FILE_MODE);
    let mut file = options.open(path).await.map_err(|e| io(path, e))?;
    let programs = Programs::of(context);
    let throttle = Throttle::new(context.config.copy_bytes_per_second_max);
    let dump = ["--format=custom", "--lock-wait-timeout=10s"];
    let dumping = programs.run_into("pg_dump", (&place.server, database), &dump, (&mut file, &throttle));
    let servers = [&place.server];
    tokio::select! {
        outcome = dumping => outcome?,
        () = adapt(context, &throttle, &servers) => {}
    }
    sync(&file, path).await?;
    // It can be read back as far as its table of contents, and its length is what pg_dump wrote.
    programs.run_local("pg_restore", &["--list", text]).await.map(drop)
}

async fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().await.map_err(|e| io(path, e))
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { what: path.display().to_string(), source }
}
