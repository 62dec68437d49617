//! Requests that come again: with `Idempotency-Key`, a change is made once, and who asks again gets the first answer.

use std::pin::pin;

use axum::body::Bytes;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use catalog::{Catalog, KEY_ALIVE_INTERVAL, Keyed};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::answer::Refusal;
use super::sign_in::Who;
use crate::context::Context;
use crate::error::Error;

const HEADER: &str = "idempotency-key";
/// Characters of a key.
const KEY_MAX: usize = 128;
/// Says that an answer was given before.
const REPLAYED: &str = "idempotency-replayed";

/// A request's key, for whom it counts.
pub(super) struct Key {
    who: String,
    key: String,
}

/// What is to be done with a request.
pub(super) enum Turn {
    /// It is to be served. Its key, if it has one, wants an answer.
    Serve(Option<Key>),
    /// It was, with this answer.
    Answer(Response),
}

impl Key {
    /// Looks whether this is the first request with its key.
    pub(super) async fn begin(
        context: &Context,
        who: &Who,
        head: &Parts,
        body: &Bytes,
    ) -> Result<Turn, Refusal> {
        let Some(key) = head.headers.get(HEADER) else { return Ok(Turn::Serve(None)) };
        let key = key.to_str().unwrap_or_default();
        if key.is_empty() || key.len() > KEY_MAX || !key.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Refusal::usage(&format!("Idempotency-Key: use 1 to {KEY_MAX} visible characters")));
        }
        let mut request = Hmac::<Sha256>::new_from_slice(context.key.requests_secret().as_bytes())
            .map_err(|e| Error::Failed(e.to_string()))?;
        for part in [head.method.as_str(), head.uri.path(), head.uri.query().unwrap_or_default()] {
            request.update(part.as_bytes());
            request.update(&[0]);
        }
        request.update(body);
        let request: [u8; 32] = request.finalize().into_bytes().into();
        let key = Self { who: who.name.clone(), key: key.to_owned() };
        match context.catalog.begin_keyed(key.parts(), &request).await? {
            Keyed::New => Ok(Turn::Serve(Some(key))),
            Keyed::Answered { status, answer } => Ok(Turn::Answer(again(status, answer))),
            Keyed::Other => {
                let error = "this Idempotency-Key came with another request before";
                Err(Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, error, "use a new key for each request"))
            }
            Keyed::UnderWay => {
                let error = "a request with this Idempotency-Key is under way";
                let hint = "ask again in a moment, to be told what came of it";
                Err(Refusal { kind: UNDER_WAY, ..Refusal::new(StatusCode::CONFLICT, error, hint) })
            }
            Keyed::CutShort => {
                let error =
                    "the instance that served a request with this Idempotency-Key ended in the middle";
                let hint = "look what became of it: tenantry audit; then ask with another key, if need be";
                Err(Refusal { kind: CUT_SHORT, ..Refusal::new(StatusCode::CONFLICT, error, hint) })
            }
        }
    }

    /// Says now and then that the request is still being served, until it has been.
    pub(super) async fn alive_beside<T>(&self, catalog: &Catalog, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let pulse = async {
                tokio::time::sleep(KEY_ALIVE_INTERVAL).await;
                catalog.keep_key_alive(self.parts()).await
            };
            let said = tokio::select! {
                done = &mut work => return done,
                said = pulse => said,
            };
            if let Err(error) = said {
                tracing::warn!(%error, "who asks again can't be told that the request is still under way");
            }
        }
    }

    /// Keeps the answer; of one that may have failed for now only, nothing.
    pub(super) async fn end(self, catalog: &Catalog, status: StatusCode, answer: Option<&Bytes>) {
        let kept = if status.is_server_error() {
            catalog.drop_key(self.parts()).await
        } else {
            let answer = answer.and_then(|answer| std::str::from_utf8(answer).ok());
            catalog.end_keyed(self.parts(), status.as_u16(), answer).await
        };
        if let Err(error) = kept {
            tracing::warn!(%error, "an answer could not be kept for who asks again");
        }
    }

    fn parts(&self) -> (&str, &str) {
        (&self.who, &self.key)
    }
}

/// The type of the problem that a request with the same key is under way.
const UNDER_WAY: &str = "urn:tenantry:problem:under-way";
/// The type of the problem that a request with the same key was never finished.
const CUT_SHORT: &str = "urn:tenantry:problem:cut-short";

/// The first answer once more.
fn again(status: u16, answer: Option<String>) -> Response {
    let Some(answer) = answer else {
        let error = format!("this was done before, and answered with {status}; that answer is not kept");
        let hint = "a secret in it is gone: make another one";
        return Refusal::new(StatusCode::CONFLICT, error, hint).into_response();
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let is_well = status.is_success();
    let kind = if is_well { "application/json" } else { "application/problem+json" };
    let mut response = (status, answer).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    response
}
