//! `/v1/audit`: who changed what.

use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use catalog::AuditFilter;
use serde::Deserialize;

use super::Shared;
use super::answer::{Query, Refusal};
use super::paging::{Page, SHORT, one_more, page};

#[derive(Deserialize)]
pub(super) struct Filter {
    /// The name of a token.
    who: Option<String>,
    /// A name, such as a tenant's; or kind and name.
    about: Option<String>,
    /// Not older than so many seconds.
    since_s: Option<u32>,
}

/// Records, the newest first.
pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(filter): Query<Filter>,
    Query(asked): Query<Page<i64>>,
) -> Result<Response, Refusal> {
    let limit = asked.limit(SHORT)?;
    let filter = AuditFilter {
        who: filter.who,
        about: filter.about,
        within: filter.since_s.map(|s| Duration::from_secs(s.into())),
        before: asked.after,
        limit: one_more(limit),
    };
    let records = context.catalog.audit(&filter).await?;
    Ok(page(records, limit, &uri, |record| record.id.to_string()))
}
