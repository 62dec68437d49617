//! Sizes against quotas, whenever they were measured: near it, a tenant is told of; over it, it can only be read.
//!
//! What holds a tenant is Postgres: routers log its clients in as the role that only reads, as the map tells them. Sessions
//! that a router can't take a connection from (a client in session mode, a transaction that goes on) have
//! some seconds; at the next look after that the server ends those of the roles that write.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use catalog::SizeRow;
use shard_map::bytes::Bytes;
use shard_map::{Access, TenantId};

use crate::context::Context;
use crate::error::Result;
use crate::server::connect::UNMARKED_MAX;

/// From so many percent of its quota on, a tenant is told of.
const WARN_PERCENT: u64 = 90;

/// How a tenant's size stands to its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Within,
    Near,
    Over,
}

impl Standing {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Near => "near",
            Self::Over => "over",
        }
    }
}

/// Compares.
pub(crate) fn standing(bytes: u64, size: Bytes) -> Standing {
    if bytes > size.0 {
        Standing::Over
    } else if u128::from(bytes) * 100 >= u128::from(size.0) * u128::from(WARN_PERCENT) {
        Standing::Near
    } else {
        Standing::Within
    }
}

/// What a session that writes has left when its tenant can only be read.
const WRITERS_GRACE: Duration = Duration::from_secs(10);

/// Tenants of which it was told, and since when those are over their size that are.
#[derive(Default)]
pub(crate) struct Told {
    near: BTreeSet<TenantId>,
    over: BTreeMap<TenantId, Instant>,
}

/// Sees to all tenants with a quota for their size.
pub(crate) async fn see_to(context: &Context, term: i64, told: &mut Told) -> Result<()> {
    let rows = context.catalog.sizes_to_see_to().await?;
    let (mut near, mut over) = (BTreeSet::new(), BTreeMap::new());
    for row in &rows {
        let found = row.bytes.zip(row.size).map(|(bytes, size)| standing(bytes, size));
        if found == Some(Standing::Near) {
            near.insert(row.tenant.clone());
        } else if found == Some(Standing::Over) {
            let since = told.over.get(&row.tenant).copied().unwrap_or_else(Instant::now);
            over.insert(row.tenant.clone(), since);
        }
        let read_only = over.contains_key(&row.tenant) && !row.is_let;
        tell(row, read_only, near.contains(&row.tenant) && !told.near.contains(&row.tenant));
        if read_only != row.read_only {
            context.catalog.set_read_only(&row.tenant, read_only, term).await?;
        } else if read_only
            && over.get(&row.tenant).is_some_and(|since| since.elapsed() > WRITERS_GRACE)
            && let Err(error) = end_writers(context, row).await
        {
            tracing::warn!(tenant = %row.tenant, %error, "its writing sessions could not be ended");
        }
    }
    let gauge = |word: &str, count: usize| {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        context.metrics.sizes.with_label_values(&[word]).set(count);
    };
    gauge("near", near.len());
    gauge("over", over.len());
    *told = Told { near, over };
    Ok(())
}

fn tell(row: &SizeRow, read_only: bool, is_news: bool) {
    let (bytes, size) = (row.bytes.unwrap_or(0), row.size.unwrap_or(Bytes(0)));
    if read_only && !row.read_only {
        tracing::warn!(tenant = %row.tenant, bytes, %size, "larger than its quota: it can only be read from now on");
    } else if !read_only && row.read_only {
        tracing::info!(tenant = %row.tenant, bytes, %size, "it can be written to again");
    } else if is_news {
        tracing::warn!(tenant = %row.tenant, bytes, %size, "near the size that its quota allows");
    }
}

/// Ends sessions of the roles that write; not this instance's own, which migrate as the owner. A session that is older than
/// [`UNMARKED_MAX`] is marked, or it is not its own: sessions are looked up first, their marks after that. One of a former leader
/// has no mark here, and it is right to end it: its term is over.
async fn end_writers(context: &Context, row: &SizeRow) -> Result<()> {
    const WRITERS: &str = "
        SELECT pid FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND usename = ANY ($2) AND backend_type = 'client backend'
            AND backend_start < clock_timestamp() - $3 * interval '1 second'";
    const END: &str = "
        SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
        WHERE datname = $1 AND usename = ANY ($2) AND pid = ANY ($3)";
    let server = context.server(&row.server).await?;
    let registry = context.connector.warm_registry(&server).await?;
    let roles = [Access::Owner, Access::App].map(|access| access.role(&row.tenant));
    let (database, roles) = (row.tenant.live_database(), roles.as_slice());
    let writers = registry.rows(WRITERS, &[&database, &roles, &UNMARKED_MAX.as_secs_f64()]).await?;
    let mut writers: Vec<i32> = writers.iter().map(|row| row.get(0)).collect();
    writers.retain(|process| !context.connector.is_own(&server.name, *process));
    registry.rows(END, &[&database, &roles, &writers]).await?;
    context.connector.keep_warm(&server, registry);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_is_told_of_before_it_is_over() {
        let of = |bytes| standing(bytes, Bytes(1000));
        assert_eq!(
            [of(0), of(899), of(900), of(1000), of(1001)],
            [Standing::Within, Standing::Within, Standing::Near, Standing::Near, Standing::Over]
        );
    }
}
