//! A last dump as an object of an S3-compatible store: sent in parts while `pg_dump` runs, and put together by the store when
//! it has ended well. Before that there is no object; an upload that comes to nothing is aborted.
//!
//! The store checks each part by the hash in the request's signature, so what it keeps is what was sent. Afterwards the
//! object is looked at once more: its length, its tag, and by `pg_restore` its table of contents.
//!
//! Nothing here ever deletes an object: a controller that leads no more could meet its successor's.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::TryStreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::{MultipartStore as _, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, MultipartId, ObjectStoreExt as _, PutPayload, PutResult, RetryConfig,
};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Source, complaint};
use crate::error::{Error, Result};
use crate::failpoint;
use crate::moves::programs::Sink;

/// Under which name an operation remembers the upload that is open.
pub(super) const UPLOAD: &str = "dump_upload";

/// How long a connection to the store may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take: a part at 30 kB/s.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// For how long, and how often, a request that a store failed to answer is sent again. Not longer: the dump holds a
/// snapshot on the server meanwhile.
const RETRY_TIMEOUT: Duration = Duration::from_secs(60);
const RETRIES_MAX: usize = 6;
const RETRY_PAUSES: BackoffConfig = BackoffConfig {
    init_backoff: Duration::from_millis(200),
    max_backoff: Duration::from_secs(10),
    base: 3.0,
};
/// How long it may take to read an object's table of contents back.
const CHECK_TIMEOUT: Duration = Duration::from_secs(600);

/// Smallest part; S3 takes none below 5 MiB, but for the last.
const PART_BYTES_MIN: u64 = 8 << 20;
/// Parts into which the largest dump is cut; S3 takes 10,000. All but the last are of one size, as some stores want it.
const PARTS_MAX: u64 = 9_000;
/// Parts on their way. With the one that fills, so many are held in memory and one more.
const PARTS_AT_ONCE: usize = 2;

/// A bucket that dumps are written to.
pub(crate) struct Bucket {
    store: AmazonS3,
    prefix: Path,
    /// As the configuration has it.
    url: String,
}

impl Bucket {
    /// Reads what the environment says of the store. Nothing is sent yet.
    pub(super) fn open(url: &str, bucket: &str, prefix: &str) -> Result<Self> {
        // What speaks HTTP looks for it at the process. It may be set already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let builder = AmazonS3Builder::from_env();
        let endpoint = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint]
            .iter()
            .find_map(|key| builder.get_config_value(key));
        let is_plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        if endpoint.is_some_and(|endpoint| !is_plain && !endpoint.starts_with("https://")) {
            return Err(Error::Usage(
                "AWS_ENDPOINT_URL is not allowed: write https://host or http://host:port".into(),
            ));
        }
        let options = ClientOptions::new()
            .with_allow_http(is_plain)
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout(REQUEST_TIMEOUT);
        let retry =
            RetryConfig { backoff: RETRY_PAUSES, max_retries: RETRIES_MAX, retry_timeout: RETRY_TIMEOUT };
        let builder = builder.with_bucket_name(bucket).with_client_options(options).with_retry(retry);
        let refused = |error| {
            let hint = "check the variables AWS_… in the control plane's environment";
            Error::Usage(format!("deleted_dump_dir {url}: {error}; {hint}"))
        };
        let store = builder.build().map_err(refused)?;
        let prefix = prefix.split('/').filter(|part| !part.is_empty()).collect();
        Ok(Self { store, prefix, url: url.to_owned() })
    }

    fn error(&self, error: &object_store::Error) -> Error {
        Error::Failed(format!("last dump to {}: {}", self.url, complaint::line(error)))
    }

    async fn abort(&self, key: &Path, id: &MultipartId) {
        if let Err(error) = self.store.abort_multipart(key, id).await {
            // It takes room until the bucket's own rules remove it, and is no object.
            let error = complaint::line(&error);
            tracing::warn!(bucket = self.url, %key, error, "an upload that ended early could not be aborted");
        }
    }
}

/// Writes it, and returns its URL. `earlier` is the upload that an earlier try has left open, or completed.
pub(super) async fn write(source: &Source<'_>, bucket: &Bucket, earlier: Option<&str>) -> Result<String> {
    let key = bucket.prefix.clone().join(source.name);
    if let Some(earlier) = earlier {
        bucket.abort(&key, &earlier.to_owned()).await;
    }
    let part_bytes = part_bytes(source).await?;
    let id = bucket.store.create_multipart(&key).await.map_err(|e| bucket.error(&e))?;
    let sent = async {
        source.work.remember(&json!({ UPLOAD: id })).await?;
        let mut upload = Upload::new(bucket, (&key, &id), part_bytes);
        source.dump_into(&mut upload).await?;
        upload.complete().await
    };
    let (bytes, whole) = match sent.await {
        Ok(sent) => sent,
        Err(error) => {
            bucket.abort(&key, &id).await;
            return Err(error);
        }
    };
    failpoint::reach("dump_whole").await;
    let check = check(source, bucket, &key, (bytes, &whole));
    let too_long = || {
        Error::Failed(format!(
            "last dump to {}: reading it back took too long; see to the way to the store",
            bucket.url
        ))
    };
    tokio::time::timeout(CHECK_TIMEOUT, check).await.map_err(|_| too_long())??;
    Ok(format!("{}/{}", bucket.url, source.name))
}

/// A dump is no larger than its database: it is compressed, and has no indexes.
async fn part_bytes(source: &Source<'_>) -> Result<usize> {
    const SIZE: &str = "SELECT pg_database_size($1::text::name)";
    let bytes: i64 = source.place.registry.value(SIZE, &[&source.database]).await?;
    let bytes = u64::try_from(bytes).unwrap_or(0).div_ceil(PARTS_MAX).max(PART_BYTES_MIN);
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

/// Looks at an object that was just put together.
async fn check(
    source: &Source<'_>,
    bucket: &Bucket,
    key: &Path,
    (bytes, whole): (u64, &PutResult),
) -> Result<()> {
    let found = bucket.store.get(key).await.map_err(|e| bucket.error(&e))?;
    let tag = |tag: &Option<String>| tag.as_deref().map(|tag| tag.trim_matches('"').to_owned());
    let (meta, expected) = (&found.meta, tag(&whole.e_tag));
    if meta.size != bytes || (expected.is_some() && tag(&meta.e_tag) != expected) {
        return Err(Error::Failed(format!(
            "last dump to {}: {key} has {} bytes and tag {:?} there, and not {bytes} and {expected:?} as it was sent; \
             see whether something else writes to it, and delete the tenant again",
            bucket.url,
            meta.size,
            tag(&meta.e_tag),
        )));
    }
    let stream = found.into_stream().map_err(|e| bucket.error(&e));
    source.programs.run_fed("pg_restore", &["--list"], stream).await.map(drop)
}

/// An object under way.
struct Upload<'a> {
    bucket: &'a Bucket,
    key: &'a Path,
    id: &'a MultipartId,
    part_bytes: usize,
    /// The part that fills.
    filling: BytesMut,
    /// Those on their way. They end when this is dropped.
    under_way: JoinSet<(usize, object_store::Result<PartId>)>,
    landed: BTreeMap<usize, PartId>,
    /// How many parts were sent.
    sent: usize,
    bytes: u64,
}

impl<'a> Upload<'a> {
    fn new(bucket: &'a Bucket, (key, id): (&'a Path, &'a MultipartId), part_bytes: usize) -> Self {
        Self {
            bucket,
            key,
            id,
            part_bytes,
            filling: BytesMut::new(),
            under_way: JoinSet::new(),
            landed: BTreeMap::new(),
            sent: 0,
            bytes: 0,
        }
    }

    /// Sends the part that has filled, as soon as there is a turn for it.
    async fn send(&mut self) -> Result<()> {
        if self.under_way.len() >= PARTS_AT_ONCE {
            self.one_lands().await?;
        }
        let part = PutPayload::from(std::mem::take(&mut self.filling).freeze());
        let (store, key, id) = (self.bucket.store.clone(), self.key.clone(), self.id.clone());
        let index = self.sent;
        self.sent += 1;
        self.under_way.spawn(async move { (index, store.put_part(&key, &id, index, part).await) });
        Ok(())
    }

    /// Waits for one of those under way.
    async fn one_lands(&mut self) -> Result<()> {
        if let Some(ended) = self.under_way.join_next().await {
            let (index, part) = ended.map_err(|e| Error::Failed(e.to_string()))?;
            self.landed.insert(index, part.map_err(|e| self.bucket.error(&e))?);
            failpoint::reach("dump_part").await;
        }
        Ok(())
    }

    /// Lets the store make an object of all parts. Returns its length.
    async fn complete(mut self) -> Result<(u64, PutResult)> {
        if !self.filling.is_empty() {
            self.send().await?;
        }
        while !self.under_way.is_empty() {
            self.one_lands().await?;
        }
        let parts = std::mem::take(&mut self.landed).into_values().collect();
        let whole = self.bucket.store.complete_multipart(self.key, self.id, parts).await;
        Ok((self.bytes, whole.map_err(|e| self.bucket.error(&e))?))
    }
}

impl Sink for Upload<'_> {
    async fn take(&mut self, mut piece: &[u8]) -> Result<()> {
        self.bytes += piece.len() as u64;
        while !piece.is_empty() {
            let room = self.part_bytes - self.filling.len();
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.filling.extend_from_slice(now);
            piece = later;
            if self.filling.len() == self.part_bytes {
                self.send().await?;
            }
        }
        Ok(())
    }
}
