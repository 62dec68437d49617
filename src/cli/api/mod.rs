//! The control plane's HTTP API, as commands use it: JSON in, JSON out, and every failure with the right exit status.
//!
//! Answers are passed on as they came, so that `-o json` shows exactly what the API says and a newer control plane's
//! new keys are not lost on the way.

mod answer;
mod exchange;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use clap::Args;
use reqwest::{Method, Url};
use serde_json::Value;

use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Format;
use answer::{Answer, read, refusal};
use exchange::{CHANGE_TIMEOUT, CONNECT_TIMEOUT, Call, LOOK_TIMEOUT, reason};

/// The query for long pages of what is listed with more to it.
pub(crate) const LONG_PAGE: &[(&str, &str)] = &[("limit", "1000")];

/// How to reach the control plane, and how to print what it says.
#[derive(Debug, Clone, Args)]
pub(crate) struct Connection {
    /// URL of the control plane's API, or of all its instances with commas between: the one that leads is found
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
    /// Its instances, as the operator named them.
    instances: Vec<Url>,
    /// The one that answered last, which is asked first.
    first: Arc<AtomicUsize>,
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

    fn with_authority(urls: &str, token: Option<String>, ca: Option<&Path>) -> anyhow::Result<Self> {
        if token.as_deref().is_some_and(|token| token.chars().any(char::is_control)) {
            let hint =
                "take it without the end of its line, such as the carriage return of a file from elsewhere";
            return Err(Failure::usage("the token has a line break or another control character")
                .hint(hint)
                .into());
        }
        let instances = urls.split(',').map(instance).collect::<Result<Vec<_>, _>>()?;
        // What the client is built with. It may be set already.
        drop(rustls::crypto::ring::default_provider().install_default());
        // A proxy that the environment names is for the outside world, not for the fleet's own API.
        let mut http = reqwest::Client::builder();
        if instances.iter().all(|instance| instance.scheme() == "http") {
            // No time is spent on reading certificates that a URL without TLS has no use for.
            http = http.tls_certs_only([]);
        } else if let Some(ca) = ca {
            http = http.tls_certs_only(authorities(ca)?);
        }
        let http = http
            .no_proxy()
            // The token goes to the addresses that were given, and what is sent with it.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("tenantry/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { instances, first: Arc::default(), token, http })
    }

    /// A resource, each segment escaped, wherever it is asked for.
    fn target(&self, segments: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.instances[0].clone();
        url.set_path("");
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    pub(crate) async fn get(&self, segments: &[&str]) -> anyhow::Result<Value> {
        self.look(&self.target(segments, &[])).await
    }

    pub(crate) async fn get_where(&self, segments: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        self.look(&self.target(segments, query)).await
    }

    async fn look(&self, target: &Url) -> anyhow::Result<Value> {
        self.finished(self.look_at(target).await?)
    }

    async fn look_at(&self, target: &Url) -> Result<Answer, Failure> {
        self.exchange(&Call { method: Method::GET, target, body: None, timeout: LOOK_TIMEOUT }).await
    }

    /// A whole list, page by page.
    pub(crate) async fn list(&self, segments: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let mut target = self.target(segments, query);
        let mut all = Vec::new();
        loop {
            let answer = self.look_at(&target).await?;
            let next = answer.next.clone();
            match self.finished(answer)? {
                Value::Array(page) => all.extend(page),
                other => return Ok(other),
            }
            let Some(next) = next else { return Ok(Value::Array(all)) };
            // Only what is asked for: where the API is, may be another name here than there.
            target.set_query(Some(&next));
        }
    }

    pub(crate) async fn post(&self, segments: &[&str], body: &Value) -> anyhow::Result<Value> {
        self.post_within(segments, body, CHANGE_TIMEOUT).await
    }

    /// The same with a time limit of its own.
    pub(crate) async fn post_within(
        &self,
        segments: &[&str],
        body: &Value,
        timeout: Duration,
    ) -> anyhow::Result<Value> {
        let target = &self.target(segments, &[]);
        let call = Call { method: Method::POST, target, body: Some(body), timeout };
        self.finished(self.exchange(&call).await?)
    }

    pub(crate) async fn put(&self, segments: &[&str], body: &Value) -> anyhow::Result<Value> {
        let target = &self.target(segments, &[]);
        let call = Call { method: Method::PUT, target, body: Some(body), timeout: CHANGE_TIMEOUT };
        self.finished(self.exchange(&call).await?)
    }

    pub(crate) async fn delete(&self, segments: &[&str], query: &[(&str, &str)]) -> anyhow::Result<Value> {
        let target = &self.target(segments, query);
        let call = Call { method: Method::DELETE, target, body: None, timeout: CHANGE_TIMEOUT };
        self.finished(self.exchange(&call).await?)
    }

    /// Asks a health check: ready, or unreachable for now.
    pub(crate) async fn ready(&self, check: &str) -> anyhow::Result<()> {
        let target = &self.target(&[check], &[]);
        let call = Call { method: Method::GET, target, body: None, timeout: LOOK_TIMEOUT };
        let instance = &self.instances[0];
        match self.http.get(call.at(instance)).timeout(call.timeout).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => {
                let message = format!("{instance}{check} answers {}", response.status());
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
        let Answer { status, bytes, .. } = match self.look_at(&self.target(segments, &[])).await {
            Ok(answer) => answer,
            Err(failure) => return Ok((None, Some(failure))),
        };
        if status.is_success() {
            return Ok((Some(read(&bytes)?), None));
        }
        let failure = refusal(status, &bytes, self.token.is_some());
        Ok((serde_json::from_slice(&bytes).ok(), Some(failure)))
    }

    fn finished(&self, answer: Answer) -> anyhow::Result<Value> {
        let is_for_another = answer.is_for_the_leader() && self.instances.len() == 1;
        let Answer { status, bytes, .. } = answer;
        if !status.is_success() {
            let mut failure = refusal(status, &bytes, self.token.is_some());
            if is_for_another {
                let all = "with all instances' addresses in TENANTRY_API, commas between them, that is found";
                failure.hint =
                    Some(failure.hint.map_or_else(|| all.to_owned(), |hint| format!("{hint}; {all}")));
            }
            return Err(failure.into());
        }
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        Ok(read(&bytes)?)
    }
}

/// Where an instance is.
fn instance(url: &str) -> Result<Url, Failure> {
    let invalid = |why: String| Failure::usage(format!("--api {url:?} is not allowed: {why}"));
    let base = Url::parse(url.trim()).map_err(|e| invalid(format!("{e}; write https://host:port")))?;
    if !["http", "https"].contains(&base.scheme()) || base.cannot_be_a_base() {
        return Err(invalid("write http://host:port or https://host:port".to_owned()));
    }
    Ok(base)
}

/// The certificates of a file.
fn authorities(file: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let wrong = |why: String| Failure::usage(format!("--api-ca {}: {why}", file.display()));
    let pem = std::fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let all = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
    if all.is_empty() { Err(wrong("it has no certificate in PEM".to_owned())) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_escaped_at_each_instance() {
        let api = Api::at("http://h:1/prefix/, https://g:2", None).unwrap();
        let target = api.target(&["v1", "users", "a/b c"], &[("selector", "a=b,c=d")]);
        let call = Call { method: Method::GET, target: &target, body: None, timeout: LOOK_TIMEOUT };
        let urls: Vec<String> = api.instances.iter().map(|instance| call.at(instance).to_string()).collect();
        let path = "v1/users/a%2Fb%20c?selector=a%3Db%2Cc%3Dd";
        assert_eq!(urls, [format!("http://h:1/prefix/{path}"), format!("https://g:2/{path}")]);
    }

    #[test]
    fn only_http_is_spoken() {
        for url in ["ftp://h", "h:1", "", "/x", "http://h:1,", "http://h:1,ftp://h"] {
            let error = Api::at(url, None).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Usage, "{url}");
        }
    }

    #[test]
    fn a_token_with_the_end_of_its_line_is_said_to_be_so() {
        for token in ["t\r", "t\n", "\0"] {
            let error = Api::at("http://h:1", Some(token.to_owned())).unwrap_err();
            assert_eq!(error.downcast_ref::<Failure>().unwrap().exit, Exit::Usage, "{token:?}");
        }
    }
}
