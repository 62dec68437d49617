//! The control plane's HTTP API, as commands use it: JSON in, JSON out, and every failure with the right exit status.
//!
//! Answers are passed on as they came, so that `-o json` shows exactly what the API says and a newer control plane's
//! new keys are not lost on the way.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde_json::Value;

use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Format;

/// How long a connection to the control plane may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one answer may take. Adding a server runs checks on it, which is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// For how long an answer that was lost on its way is asked for again.
const ASK_AGAIN_FOR: Duration = Duration::from_secs(15);
const ASK_AGAIN_PAUSE: Duration = Duration::from_millis(500);

/// How to reach the control plane, and how to print what it says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// URL of the control plane's API
    #[arg(
        long,
        env = "TENANTRY_API",
        value_name = "URL",
        default_value = "http://127.0.0.1:7432",
        global = true,
        help_heading = "Connection"
    )]
    pub(crate) api: String,
    /// Bearer token of the API; better given in the environment
    #[arg(
        long,
        env = "TENANTRY_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true,
        global = true,
        help_heading = "Connection"
    )]
    pub(crate) token: Option<String>,
    /// Certificates of the authority that the API's certificate is of, PEM; without, those that the system knows
    #[arg(long, env = "TENANTRY_API_CA", value_name = "FILE", global = true, help_heading = "Connection")]
    pub(crate) api_ca: Option<PathBuf>,
    /// What to print: a table for people, or JSON
    #[arg(short, long, value_enum, default_value_t = Format::Table, global = true, help_heading = "Output")]
    pub(crate) output: Format,
}

/// A client of the API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    base: Url,
    token: Option<String>,
    http: reqwest::Client,
}

impl Api {
    pub(crate) fn new(connection: &Connection) -> anyhow::Result<Self> {
        Self::with_authority(&connection.api, connection.token.clone(), connection.api_ca.as_deref())
    }

    /// A client of the API at this URL.
    pub(crate) fn at(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        Self::with_authority(url, token, None)
    }

    fn with_authority(url: &str, token: Option<String>, ca: Option<&Path>) -> anyhow::Result<Self> {
        let invalid = |why: String| Failure::usage(format!("--api {url:?} is not allowed: {why}"));
        let base = Url::parse(url).map_err(|e| invalid(format!("{e}; write https://host:port")))?;
        if !["http", "https"].contains(&base.scheme()) || base.cannot_be_a_base() {
            return Err(invalid("write http://host:port or https://host:port".to_owned()).into());
        }
        // What the client is built with. It may be set already.
        drop(rustls::crypto::ring::default_provider().install_default());
        // A proxy that the environment names is for the outside world, not for the fleet's own API.
        let mut http = reqwest::Client::builder();
        if base.scheme() == "http" {
            // No time is spent on reading certificates that a URL without TLS has no use for.
            http = http.tls_certs_only([]);
        } else if let Some(ca) = ca {
            http = http.tls_certs_only(authorities(ca)?);
        }
        let http = http
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { base, token, http })
    }

    /// The URL of a resource, each segment escaped.
    fn url(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    pub(crate) async fn get(&self, segments: &[&str]) -> anyhow::Result<Value> {
        self.send(Method::GET, self.url(segments, &[]), None).await
    }

    pub(crate) async fn get_where(&self, segments: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.send(Method::GET, self.url(segments, query), None).await
    }

    /// A whole list, page by page.
    pub(crate) async fn list(&self, segments: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut url = self.url(segments, query);
        let mut all = Vec::new();
        loop {
            let answer = self.exchange(Method::GET, url.clone(), None).await?;
            let next = answer.next.clone();
            match self.finished(answer)? {
                Value::Array(page) => all.extend(page),
                other => return Ok(other),
            }
            let Some(next) = next else { return Ok(Value::Array(all)) };
            // Only what is asked for: where the API is, may be another name here than there.
            url.set_query(Some(&next));
        }
    }

    pub(crate) async fn post(&self, segments: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.send(Method::POST, self.url(segments, &[]), Some(body)).await
    }

    /// The same for what takes longer than other requests.
    pub(crate) async fn post_within(
        &self,
        segments: &[&str],
        body: &Value,
        timeout: Duration,
    ) -> anyhow::Result<Value> {
        let request = self.http.post(self.url(segments, &[])).timeout(timeout);
        self.finished(self.answer(request, Some(body)).await?)
    }

    pub(crate) async fn put(&self, segments: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.send(Method::PUT, self.url(segments, &[]), Some(body)).await
    }

    pub(crate) async fn delete(&self, segments: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.send(Method::DELETE, self.url(segments, query), None).await
    }

    /// Asks a health check: ready, or unreachable for now.
    pub(crate) async fn ready(&self, check: &str) -> anyhow::Result<()> {
        let answer = self.http.get(self.url(&[check], &[])).send().await;
        match answer {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => {
                let message = format!("{}{check} answers {}", self.base, response.status());
                Err(Failure::new(Exit::Unreachable, message).into())
            }
            Err(error) => Err(Failure::new(Exit::Unreachable, reason(&error)).into()),
        }
    }

    /// What is there, and the failure that it came with: a refusal may have more to say than one line.
    pub(crate) async fn get_with_failure(
        &self,
        segments: &[&str],
    ) -> anyhow::Result<(Option<Value>, Option<Failure>)> {
        let Answer { status, bytes, .. } =
            match self.exchange(Method::GET, self.url(segments, &[]), None).await {
                Ok(answer) => answer,
                Err(failure) => return Ok((None, Some(failure))),
            };
        if status.is_success() {
            return Ok((Some(read(&bytes)?), None));
        }
        let failure = refusal(status, &bytes, self.token.is_some());
        Ok((serde_json::from_slice(&bytes).ok(), Some(failure)))
    }

    async fn send(&self, method: Method, url: Url, body: Option<&Value>) -> anyhow::Result<Value> {
        self.finished(self.exchange(method, url, body).await?)
    }

    fn finished(&self, Answer { status, bytes, .. }: Answer) -> anyhow::Result<Value> {
        if !status.is_success() {
            return Err(refusal(status, &bytes, self.token.is_some()).into());
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        Ok(read(&bytes)?)
    }

    async fn exchange(&self, method: Method, url: Url, body: Option<&Value>) -> Result<Answer, Failure> {
        self.answer(self.http.request(method, url), body).await
    }

    async fn answer(&self, mut request: RequestBuilder, body: Option<&Value>) -> Result<Answer, Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(who) = whoami() {
            request = request.header("x-tenantry-asked-by", who);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        // The same for each try: it is done once.
        request = request.header("idempotency-key", format!("{:032x}", rand::random::<u128>()));
        let unreachable = |error: reqwest::Error| {
            Failure::new(
                Exit::Unreachable,
                format!(
                    "the control plane at {} can't be reached: {}",
                    self.base.as_str().trim_end_matches('/'),
                    reason(&error)
                ),
            )
            .hint("is it running? set --api or TENANTRY_API to its address")
        };
        let mut lost: Option<Instant> = None;
        loop {
            let Some(this) = request.try_clone() else { return Err(Failure::failed("a body can't be sent")) };
            let outcome = once(this).await;
            // The first one did not even get there. Later ones may meet a control plane that starts again.
            let is_lost = match &outcome {
                Ok(answer) => lost.is_some() && answer.is_under_way(),
                Err(error) => lost.is_some() || !error.is_connect(),
            };
            if !is_lost || lost.get_or_insert_with(Instant::now).elapsed() > ASK_AGAIN_FOR {
                return outcome.map_err(unreachable);
            }
            tokio::time::sleep(ASK_AGAIN_PAUSE).await;
        }
    }
}

async fn once(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.send().await?;
    let status = response.status();
    let next = response.headers().get("link").and_then(|link| next_query(link.to_str().ok()?));
    Ok(Answer { status, next, bytes: response.bytes().await?.into() })
}

/// The certificates of a file.
fn authorities(file: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let wrong = |why: String| Failure::usage(format!("--api-ca {}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() { Err(wrong("it has no certificate in PEM".to_owned())) } else { Ok(all) }
}

/// What the API answered.
struct Answer {
    status: StatusCode,
    /// The query for the list's next page.
    next: Option<String>,
    bytes: Vec<u8>,
}

impl Answer {
    /// Whether a request with the same key is not done yet.
    fn is_under_way(&self) -> bool {
        let problem: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        self.status == StatusCode::CONFLICT && problem["type"] == "urn:tenantry:problem:under-way"
    }
}

/// The query of the next page, from `</v1/tenants?after=acme>; rel="next"`.
fn next_query(link: &str) -> Option<String> {
    let (target, relation) = link.strip_prefix('<')?.split_once('>')?;
    relation.contains("rel=\"next\"").then(|| target.split_once('?').map(|(_, query)| query.to_owned()))?
}

/// Who calls, as records of what was asked for tell it: one token may be of many.
fn whoami() -> Option<String> {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let who = format!("{user}@{}", host.trim());
    who.chars().all(|c| c == ' ' || c.is_ascii_graphic()).then_some(who)
}

fn read(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        Failure::failed(format!("the control plane's answer is not JSON: {error}"))
            .hint("does --api point at a tenantry control plane?")
    })
}

/// reqwest says "error sending request for url"; why is in its last source.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Reads an error answer.
fn refusal(status: StatusCode, body: &[u8], with_token: bool) -> Failure {
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
    fn segments_are_escaped() {
        let api = Api::at("http://h:1/prefix/", None).unwrap();
        let url = api.url(&["v1", "users", "a/b c"], &[("selector", "a=b,c=d")]);
        assert_eq!(url.as_str(), "http://h:1/prefix/v1/users/a%2Fb%20c?selector=a%3Db%2Cc%3Dd");
    }

    #[test]
    fn the_next_page_is_where_the_link_says() {
        let link = "</v1/tenants?limit=2&after=b%20c>; rel=\"next\"";
        assert_eq!(next_query(link).as_deref(), Some("limit=2&after=b%20c"));
        assert_eq!(next_query("</v1/tenants?after=b>; rel=\"prev\""), None);
        assert_eq!(next_query("nonsense"), None);
    }

    #[test]
    fn only_http_is_spoken() {
        for url in ["ftp://h", "h:1", "", "/x"] {
            let error = Api::at(url, None).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Usage, "{url}");
        }
    }
}
