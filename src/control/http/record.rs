//! The audit log's side of a request: on record before anything is done, and its outcome after it.
//!
//! What is in bodies is not put on record, as that may be a password, but for the names that a route says it is about.

use std::net::SocketAddr;

use axum::extract::connect_info::Connected;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::serve::IncomingStream;
use catalog::{Asked, Catalog};
use serde_json::Value;
use tokio::net::TcpListener;

use super::answer::Refusal;
use super::routes::Rule;
use super::sign_in::Who;

/// Characters of a path, or of a name, on record.
const TEXT_MAX: usize = 300;

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, TcpListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(*stream.remote_addr())
    }
}

/// What is looked at of a request.
pub(super) struct Request<'a> {
    pub(super) head: &'a Parts,
    /// The name or number in its path.
    pub(super) name: Option<&'a str>,
    pub(super) body: &'a Value,
    pub(super) rule: &'a Rule,
}

/// A request that is on record.
pub(super) struct Record {
    id: i64,
    about: Vec<String>,
}

impl Record {
    /// Puts a request on record; `status` when it is refused.
    pub(super) async fn begin(
        catalog: &Catalog,
        who: &Who,
        Request { head, name, body, rule }: &Request<'_>,
        status: Option<StatusCode>,
    ) -> Result<Self, Refusal> {
        let peer = head.extensions.get::<axum::extract::ConnectInfo<Peer>>();
        let address = peer.map_or_else(String::new, |peer| peer.0.0.ip().to_string());
        let path = clipped(head.uri.path_and_query().map_or("", |path| path.as_str()));
        let about = about(*name, body, rule);
        let asked = Asked {
            who: &who.name,
            role: who.role.as_str(),
            address: &address,
            method: head.method.as_str(),
            path: &path,
            about: &about,
        };
        let status = status.map(|status| i32::from(status.as_u16()));
        let id = catalog.record_request(&asked, status).await?;
        Ok(Self { id, about })
    }

    /// Adds what was answered. The change is made by then: that it can't be recorded is told by the log only.
    pub(super) async fn end(mut self, catalog: &Catalog, status: StatusCode, answer: &Value, rule: &Rule) {
        let number = |key: &str| answer.get(key).and_then(Value::as_i64);
        let of_work = matches!(rule.kind, "move" | "migration");
        let operation = number("operation").or_else(|| number("id").filter(|_| of_work));
        if let Some(tenant) = answer.get("tenant").and_then(Value::as_str) {
            add(&mut self.about, "tenant", tenant);
        }
        let status = i32::from(status.as_u16());
        if let Err(error) = catalog.record_outcome(self.id, status, operation, &self.about).await {
            tracing::warn!(%error, record = self.id, status, "the outcome of a request is not on record");
        }
    }
}

/// What a request is about: by its path, and by the names that its body has.
fn about(name: Option<&str>, body: &Value, rule: &Rule) -> Vec<String> {
    let mut about = Vec::new();
    if let Some(name) = name {
        add(&mut about, rule.kind, name);
    }
    for (kind, key) in rule.names {
        if let Some(name) = body.get(key).and_then(Value::as_str) {
            add(&mut about, kind, name);
        }
    }
    about
}

fn add(about: &mut Vec<String>, kind: &str, name: &str) {
    let one = clipped(&format!("{kind} {name}"));
    if !about.contains(&one) {
        about.push(one);
    }
}

/// As much of a text as is put on record; without what no text of Postgres may hold.
fn clipped(text: &str) -> String {
    text.chars().filter(|c| *c != '\0').take(TEXT_MAX).collect()
}
