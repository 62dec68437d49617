//! The control plane's HTTP API, as commands use it: JSON in, JSON out, and every failure with the right exit status.
//!
//! Answers are passed on as they came, so that `-o json` shows exactly what the API says and a newer control plane's
//! new keys are not lost on the way.

use std::time::Duration;

use clap::Args;
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde_json::Value;

use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Format;

/// How long a connection to the control plane may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long one answer may take. Adding a server runs checks on it, which is the slowest of them.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

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
        Self::at(&connection.api, connection.token.clone())
    }

    /// A client of the API at this URL.
    pub(crate) fn at(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let invalid = |why: String| Failure::usage(format!("--api {url:?} is not allowed: {why}"));
        let base = Url::parse(url).map_err(|e| invalid(format!("{e}; write http://host:port")))?;
        if base.scheme() != "http" || base.cannot_be_a_base() {
            // No TLS is built in: the API is for a private network, or behind a proxy that ends TLS.
            return Err(invalid("write http://host:port".to_owned()).into());
        }
        // What the client is built with, though it speaks no TLS. It may be set already.
        drop(rustls::crypto::ring::default_provider().install_default());
        // A proxy that the environment names is for the outside world, not for the fleet's own API.
        let http = reqwest::Client::builder()
            .no_proxy()
            // No time is spent on reading certificates that a URL without TLS has no use for.
            .tls_certs_only([])
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
        let (status, bytes) = match self.exchange(Method::GET, self.url(segments, &[]), None).await {
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

    fn finished(&self, (status, bytes): (StatusCode, Vec<u8>)) -> anyhow::Result<Value> {
        if !status.is_success() {
            return Err(refusal(status, &bytes, self.token.is_some()).into());
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        Ok(read(&bytes)?)
    }

    async fn exchange(
        &self,
        method: Method,
        url: Url,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        self.answer(self.http.request(method, url), body).await
    }

    async fn answer(
        &self,
        mut request: RequestBuilder,
        body: Option<&Value>,
    ) -> Result<(StatusCode, Vec<u8>), Failure> {
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(who) = whoami() {
            request = request.header("x-tenantry-asked-by", who);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
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
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let bytes = response.bytes().await.map_err(unreachable)?;
        Ok((status, bytes.into()))
    }
}

/// Who calls, as records of what was asked for tell it: everybody has the same token.
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
        StatusCode::CONFLICT => Exit::Refused,
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
    fn only_http_is_spoken() {
        for url in ["https://h", "h:1", "", "/x"] {
            let error = Api::at(url, None).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Usage, "{url}");
        }
    }
}
