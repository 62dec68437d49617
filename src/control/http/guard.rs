//! The guard before each route: who asks, whether they may, and that it is on record before anything is changed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts as _, RawPathParams, Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use catalog::Role;
use serde_json::{Value, json};

use super::BODY_BYTES_MAX;
use super::answer::{ForTheLeader, NOT_LEADING, Refusal};
use super::record::{self, Record};
use super::repeat::{Key, Turn};
use super::routes::Rule;
use super::sign_in::Who;
use crate::context::Context;

/// How long a request's body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A route's guard.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) context: Arc<Context>,
    pub(super) rule: Rule,
}

pub(super) async fn guard(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    match gate.admit(request).await {
        Ok(Admitted::Look(request, record)) => {
            let answer = next.run(request).await;
            if let Some(record) = record {
                record.end(&gate.context.catalog, answer.status(), &Value::Null, &gate.rule).await;
            }
            with_leader(&gate.context, answer).await
        }
        Ok(Admitted::Change(request, notes)) => {
            let context = gate.context.clone();
            let answer = gate.run(request, notes, next).await;
            with_leader(&context, answer).await
        }
        Ok(Admitted::Known(answer)) => answer,
        Err(refusal) => refusal.into_response(),
    }
}

/// An answer that only the leader has other than this one: with who that is.
async fn with_leader(context: &Context, answer: Response) -> Response {
    if answer.extensions().get::<ForTheLeader>().is_none() {
        return answer;
    }
    let Ok(Some(leader)) = context.catalog.leader().await else { return answer };
    // Each start has a number behind its name.
    let leader = leader.rsplit_once('/').map_or(leader.as_str(), |(name, _)| name);
    let error = "this control-plane instance does not lead now";
    let hint = format!("ask the one that does: {leader}");
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let refusal = Refusal { kind: NOT_LEADING, ..Refusal::new(status, error, hint) };
    refusal.with(json!({ "leader": leader }))
}

/// What becomes of a request.
enum Admitted {
    /// A look. Some are on record, too.
    Look(Request, Option<Record>),
    Change(Request, Notes),
    /// It was served before.
    Known(Response),
}

/// What is noted of a change, and wants its outcome.
struct Notes {
    record: Record,
    key: Option<Key>,
}

impl Gate {
    /// Lets a request in, as its handler gets it.
    async fn admit(&self, mut request: Request) -> Result<Admitted, Refusal> {
        let Context { sign_in, catalog, .. } = &*self.context;
        let Rule { reads, dry_run, needs, on_record, .. } = self.rule;
        let who = sign_in.who(catalog, request.headers(), reads).await?;
        if reads && who.role >= needs {
            request.extensions_mut().insert(who.clone());
            let record = if on_record { Some(self.record_look(&mut request, &who).await?) } else { None };
            return Ok(Admitted::Look(request, record));
        }
        let (mut head, body) = request.into_parts();
        let body = read(body).await?;
        // Twice the same key: the handler refuses it. No object: it counts as the real thing.
        let said: Value = serde_json::from_slice(&body).unwrap_or_default();
        if dry_run && said.get("dry_run") == Some(&Value::Bool(true)) {
            head.extensions.insert(who);
            return Ok(Admitted::Look(Request::from_parts(head, Body::from(body)), None));
        }
        let path = RawPathParams::from_request_parts(&mut head, &()).await.ok();
        let name = path.as_ref().and_then(|path| path.iter().next()).map(|(_, name)| name);
        let asked = record::Request { head: &head, name, body: &said, rule: &self.rule };
        if let Err(refusal) = may(&who, needs) {
            if self.context.requests.has_room_for_refusal(&who.name)
                && let Err(error) = Record::begin(catalog, &who, &asked, Some(refusal.status)).await
            {
                tracing::warn!(who = who.name, why = error.error, "a refusal is not on record");
            }
            return Err(refusal);
        }
        let key = match Key::begin(&self.context, &who, &head, &body).await? {
            Turn::Serve(key) => key,
            Turn::Answer(answer) => return Ok(Admitted::Known(answer)),
        };
        let record = match Record::begin(catalog, &who, &asked, None).await {
            Ok(record) => record,
            Err(refusal) => {
                if let Some(key) = key {
                    key.end(catalog, refusal.status, None).await;
                }
                return Err(refusal);
            }
        };
        head.extensions.insert(who);
        Ok(Admitted::Change(Request::from_parts(head, Body::from(body)), Notes { record, key }))
    }

    /// Puts a look on record that shows what has to be accounted for.
    async fn record_look(&self, request: &mut Request, who: &Who) -> Result<Record, Refusal> {
        let (head, body) = std::mem::take(request).into_parts();
        let asked = record::Request { head: &head, name: None, body: &Value::Null, rule: &self.rule };
        let record = Record::begin(&self.context.catalog, who, &asked, None).await?;
        *request = Request::from_parts(head, body);
        Ok(record)
    }

    /// Has a change made. It goes on to its end, and to its notes, if the client goes away.
    async fn run(self, request: Request, notes: Notes, next: Next) -> Response {
        let changes = self.context.requests.changes.clone();
        let work = changes.spawn(async move {
            let served = next.run(request);
            let (head, body) = match &notes.key {
                Some(key) => key.alive_beside(&self.context.catalog, served).await,
                None => served.await,
            }
            .into_parts();
            // It is in memory already: no handler of a change streams.
            let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
            let answer = serde_json::from_slice(&body).unwrap_or_default();
            let (catalog, rule) = (&self.context.catalog, &self.rule);
            notes.record.end(catalog, head.status, &answer, rule).await;
            if let Some(key) = notes.key {
                let is_told_once = rule.tells_secret && head.status.is_success();
                key.end(catalog, head.status, (!is_told_once).then_some(&body)).await;
            }
            Response::from_parts(head, Body::from(body))
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a request ended in the middle");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            let hint = "what is wrong is in the control plane's log";
            Refusal::new(status, "the request ended in the middle", hint).into_response()
        })
    }
}

async fn read(body: Body) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(BODY_TIMEOUT, axum::body::to_bytes(body, BODY_BYTES_MAX)).await;
    let late = |_| {
        let error = format!("the body did not arrive within {BODY_TIMEOUT:?}");
        Refusal::new(StatusCode::REQUEST_TIMEOUT, error, "try again")
    };
    read.map_err(late)?.map_err(|error| {
        let hint = format!("{} MiB are allowed", BODY_BYTES_MAX >> 20);
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body can't be read: {error}"), hint)
    })
}

fn may(who: &Who, needs: Role) -> Result<(), Refusal> {
    if who.role >= needs {
        return Ok(());
    }
    let (name, has, needs) = (&who.name, who.role.as_str(), needs.as_str());
    let error = format!("token {name} has the role {has}: this needs the role {needs}");
    let hint = format!("use a token with that role: tenantry token create NAME --role {needs}");
    Err(Refusal::new(StatusCode::FORBIDDEN, error, hint))
}
