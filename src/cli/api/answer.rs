//! What the API answered, and which exit status that is.

use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::cli::failure::{Exit, Failure};

/// What the API answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The query for the list's next page.
    pub(super) next: Option<String>,
    pub(super) bytes: Vec<u8>,
}

impl Answer {
    /// Reads it to its end.
    pub(super) async fn read(response: Response) -> Result<Self, reqwest::Error> {
        let status = response.status();
        let next = response.headers().get("link").and_then(|link| next_query(link.to_str().ok()?));
        Ok(Self { status, next, bytes: response.bytes().await?.into() })
    }

    /// Whether a request with the same key is not done yet.
    pub(super) fn is_under_way(&self) -> bool {
        self.status == StatusCode::CONFLICT && self.is_problem("under-way")
    }

    /// Whether only the leader can do it.
    pub(super) fn is_for_the_leader(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE && self.is_problem("not-leading")
    }

    fn is_problem(&self, kind: &str) -> bool {
        let problem: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        problem["type"].as_str().and_then(|is| is.strip_prefix("urn:tenantry:problem:")) == Some(kind)
    }
}

/// The query of the next page, from `</v1/tenants?after=acme>; rel="next"`.
fn next_query(link: &str) -> Option<String> {
    let (target, relation) = link.strip_prefix('<')?.split_once('>')?;
    relation.contains("rel=\"next\"").then(|| target.split_once('?').map(|(_, query)| query.to_owned()))?
}

/// The JSON of an answer that is none of a refusal.
pub(super) fn read(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::failed(format!("the control plane's answer is not JSON: {error}"))
            .hint("does --api point at a tenantry control plane?")
    })
}

/// Reads an error answer.
pub(super) fn refusal(status: StatusCode, body: &[u8], with_token: bool) -> Failure {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    let exit = match status {
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Usage,
        StatusCode::NOT_FOUND => Exit::NotFound,
        StatusCode::CONFLICT | StatusCode::FORBIDDEN => Exit::Refused,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unreachable,
        _ => Exit::Failed,
    };
    let message = text("error").unwrap_or_else(|| format!("the control plane answered {status}"));
    let hint = text("hint").or_else(|| {
        (status == StatusCode::UNAUTHORIZED).then(|| {
            if with_token {
                "the token is not this control plane's: check --token or TENANTRY_TOKEN".to_owned()
            } else {
                "set TENANTRY_TOKEN, or give --token".to_owned()
            }
        })
    });
    Failure { exit, message, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_exit_status() {
        for (status, exit) in [
            (400, Exit::Usage),
            (422, Exit::Usage),
            (401, Exit::Failed),
            (404, Exit::NotFound),
            (409, Exit::Refused),
            (403, Exit::Refused),
            (503, Exit::Unreachable),
            (500, Exit::Failed),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refusal(status, b"{\"error\":\"x\"}", true).exit, exit, "{status}");
        }
    }

    #[test]
    fn message_and_hint_are_the_control_planes_own() {
        let body = br#"{"error": "tenant acme moves", "hint": "abort the move"}"#;
        let failure = refusal(StatusCode::CONFLICT, body, true);
        assert_eq!(failure.message, "tenant acme moves");
        assert_eq!(failure.hint.as_deref(), Some("abort the move"));
        let other = refusal(StatusCode::BAD_GATEWAY, b"<html>", true);
        assert_eq!(other.message, "the control plane answered 502 Bad Gateway");
        assert!(refusal(StatusCode::UNAUTHORIZED, b"", false).hint.unwrap().contains("TENANTRY_TOKEN"));
    }

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let link = "</v1/tenants?limit=2&after=b%20c>; rel=\"next\"";
        assert_eq!(next_query(link).as_deref(), Some("limit=2&after=b%20c"));
        assert_eq!(next_query("</v1/tenants?after=b>; rel=\"prev\""), None);
        assert_eq!(next_query("nonsense"), None);
    }
}
