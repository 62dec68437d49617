//! The last dump of a tenant that is about to be dropped: one of `pg_dump`'s custom format, in a directory or a bucket,
//! whole or not there.

mod bucket;
mod complaint;
mod directory;

use std::path::PathBuf;

use serde_json::json;

use super::{Place, unless_it_is_the_servers};
use crate::context::Work;
use crate::dump_place::DumpPlace;
use crate::error::{Error, Result};
use crate::moves::programs::{Programs, Sink};

use bucket::Bucket;

/// Where dumps are written to.
pub(crate) enum Dumps {
    Directory(PathBuf),
    Bucket(Box<Bucket>),
}

impl Dumps {
    /// What the configuration names.
    ///
    /// # Errors
    /// When the environment says of a store what can't be meant.
    pub(crate) fn at(place: &DumpPlace) -> Result<Self> {
        Ok(match place {
            DumpPlace::Directory(path) => Self::Directory(path.clone()),
            DumpPlace::Bucket { bucket, prefix } => {
                Self::Bucket(Box::new(Bucket::open(&place.to_string(), bucket, prefix)?))
            }
        })
    }
}

/// Writes it, unless this operation has done so before.
pub(super) async fn write(work: &Work, place: &Place, database: &str) -> Result<()> {
    let operation = work.context.catalog.operation(work.operation.id).await?;
    if operation.data.get("dumped") == Some(&json!(true)) {
        return Ok(());
    }
    let Some(dumps) = &work.context.dumps else {
        return Err(Error::Failed(
            "a last dump was asked for, and deleted_dump_dir is not set: set it in the control plane's configuration, \
             or drop the tenant with tenant delete --now"
                .into(),
        ));
    };
    let said = |key: &str| operation.data.get(key).and_then(|value| value.as_str());
    let name = match said("dump_name") {
        Some(name) => name.to_owned(),
        None => name(work, place).await?,
    };
    let programs = Programs::for_server(&work.context, &place.registry).await?;
    let source = Source { work, place, database, name: &name, programs };
    let written = match dumps {
        Dumps::Directory(path) => directory::write(&source, path).await,
        Dumps::Bucket(bucket) => bucket::write(&source, bucket, said(bucket::UPLOAD)).await,
    };
    let mut dump = None;
    let written = written.map(|whole| dump = Some(whole));
    unless_it_is_the_servers(work, &[&place.server], written).await?;
    work.remember(&json!({ "dumped": true, "dump": dump })).await
}

/// The tenant, and when: the same for every try.
async fn name(work: &Work, place: &Place) -> Result<String> {
    const NOW: &str = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')";
    let now: String = place.registry.value(NOW, &[]).await?;
    let name = format!("{}-{now}.dump", place.tenant.id);
    work.remember(&json!({ "dump_name": name })).await?;
    Ok(name)
}

/// What is dumped.
struct Source<'a> {
    work: &'a Work,
    place: &'a Place,
    database: &'a str,
    /// What the dump is called.
    name: &'a str,
    programs: Programs<'a>,
}

impl Source<'_> {
    /// Dumps it, as slowly as its server's other tenants need. What was written is a dump only if this returns without an
    /// error.
    async fn dump_into(&self, sink: &mut impl Sink) -> Result<()> {
        let context = &self.work.context;
        let args = ["--format=custom", "--lock-wait-timeout=10s"];
        let server = &self.place.server;
        let throttle = context.budgets.throttle([server]);
        self.programs.run_into("pg_dump", (server, self.database), &args, (sink, &throttle)).await
    }
}
