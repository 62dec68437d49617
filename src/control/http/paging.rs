//! Lists in pages: `limit` and `after` say which, and a `Link` header has the next.

use axum::Json;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::answer::Refusal;

/// How long a page is: unless something else is asked for, and at most.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    pub(super) usual: u32,
    pub(super) most: u32,
}

/// Of what is cheap to list.
pub(super) const LONG: Bounds = Bounds { usual: 1_000, most: 10_000 };
/// Of what is listed with more to it.
pub(super) const SHORT: Bounds = Bounds { usual: 100, most: 1_000 };

/// Which part of a list is asked for.
#[derive(Debug, Deserialize)]
pub(super) struct Page<K> {
    limit: Option<u32>,
    /// The key of the last one before it.
    pub(super) after: Option<K>,
}

impl<K> Page<K> {
    /// How long it is to be.
    pub(super) fn limit(&self, bounds: Bounds) -> Result<usize, Refusal> {
        let limit = self.limit.unwrap_or(bounds.usual);
        if !(1..=bounds.most).contains(&limit) {
            return Err(Refusal::usage(&format!("limit: use 1 to {}", bounds.most)));
        }
        Ok(limit as usize)
    }
}

impl Page<String> {
    /// The part of a whole list that is asked for; `key` is what it is in the order of.
    pub(super) fn of<T: Serialize>(
        &self,
        mut all: Vec<T>,
        uri: &Uri,
        key: impl Fn(&T) -> String,
    ) -> Result<Response, Refusal> {
        let limit = self.limit(LONG)?;
        all.sort_by_key(&key);
        let after = self.after.as_deref();
        let rows = all.into_iter().filter(|row| after.is_none_or(|after| key(row).as_str() > after));
        Ok(page(rows.take(limit + 1).collect(), limit, uri, key))
    }
}

/// What is read for a page, to know whether there is a next one.
pub(super) fn one_more(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)
}

/// A page, of rows of which there is one more than asked for if there is a next page.
pub(super) fn page<T: Serialize>(
    mut rows: Vec<T>,
    limit: usize,
    uri: &Uri,
    key: impl Fn(&T) -> String,
) -> Response {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let link = rows.last().filter(|_| more).map(|last| next(uri, &key(last)));
    let mut response = Json(rows).into_response();
    if let Some(link) = link.and_then(|link| HeaderValue::try_from(link).ok()) {
        response.headers_mut().insert(header::LINK, link);
    }
    response
}

/// The same question, for what comes after.
fn next(uri: &Uri, after: &str) -> String {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut query: Vec<&str> = pairs.filter(|pair| !pair.is_empty() && !pair.starts_with("after=")).collect();
    let after = format!("after={}", escaped(after));
    query.push(&after);
    format!("<{}?{}>; rel=\"next\"", uri.path(), query.join("&"))
}

/// A text as a query has it.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_asked_for_as_the_first_was() {
        let uri: Uri = "/v1/users?limit=2&after=a&q=x%20y".parse().unwrap();
        assert_eq!(next(&uri, "b c&d"), "</v1/users?limit=2&q=x%20y&after=b%20c%26d>; rel=\"next\"");
        let uri: Uri = "/v1/users".parse().unwrap();
        assert_eq!(next(&uri, "b"), "</v1/users?after=b>; rel=\"next\"");
    }

    #[test]
    fn a_list_ends_without_a_next_page() {
        let uri: Uri = "/v1/users".parse().unwrap();
        let names = || ["a", "b", "c"].map(str::to_owned).to_vec();
        let of = |limit, after: Option<&str>| {
            let asked = Page { limit: Some(limit), after: after.map(str::to_owned) };
            let answer = asked.of(names(), &uri, Clone::clone).unwrap();
            answer.headers().contains_key(header::LINK)
        };
        assert!(of(2, None));
        assert!(!of(2, Some("a")) && !of(3, None) && !of(1, Some("c")));
        let none = Page { limit: Some(0), after: None::<String> };
        assert!(none.of(names(), &uri, Clone::clone).is_err());
    }
}
