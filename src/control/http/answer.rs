//! How errors are answered: as problems (RFC 9457), with a status that says whose fault it is, one line of what is wrong and
//! one of what to do. Whatever the libraries below have to say against a request is put the same way.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::error::Error;

/// Seconds after which a request that could not be served now is to be tried again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: Option<String>,
    /// The problem's type, where a program has to know it from others of the same status.
    pub(super) kind: &'static str,
}

/// The type of a problem of which its status says all.
const PLAIN: &str = "about:blank";
/// The type of a problem that the leader does not have.
pub(super) const NOT_LEADING: &str = "urn:tenantry:problem:not-leading";

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status, error: error.into(), hint: Some(hint.into()), kind: PLAIN }
    }

    pub(super) fn not_found(error: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, error: error.to_owned(), hint: None, kind: PLAIN }
    }

    pub(super) fn usage(error: &(impl ToString + ?Sized)) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.to_string(), hint: None, kind: PLAIN }
    }

    /// As a problem, with more to it.
    pub(super) fn with(self, more: Value) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Failed");
        let mut body = more;
        // `error` is what clients read that are older than `detail`.
        let problem = json!({
            "type": self.kind, "title": title, "status": self.status.as_u16(),
            "detail": self.error, "error": self.error,
        });
        for (key, value) in problem.as_object().into_iter().flatten() {
            body[key] = value.clone();
        }
        if let Some(hint) = self.hint {
            body["hint"] = json!(hint);
        }
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.kind == NOT_LEADING {
            response.extensions_mut().insert(ForTheLeader);
        }
        response
    }
}

/// Marks an answer to which it can be added who leads.
#[derive(Clone, Copy)]
pub(super) struct ForTheLeader;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.with(json!({}))
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        use catalog::Error as C;
        let status = match &error {
            Error::Usage(_) => StatusCode::BAD_REQUEST,
            Error::NotFound(_) | Error::Catalog(C::NotFound(_)) => StatusCode::NOT_FOUND,
            Error::Refused { .. } | Error::Catalog(C::Conflict(_) | C::Ended(_)) => StatusCode::CONFLICT,
            Error::NotLeading | Error::Catalog(C::Unreachable(_) | C::LeaseLost) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Error::ServerUnreachable { .. } | Error::Statement { .. } => StatusCode::BAD_GATEWAY,
            Error::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            // Class 22: a value that no column can have, such as a text with a zero byte or a time after all times.
            Error::Catalog(C::Query { sqlstate: Some(state), .. }) if state.starts_with("22") => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = error.to_string();
        let is_for_the_leader = matches!(error, Error::NotLeading | Error::Catalog(C::LeaseLost));
        let hint = match error {
            Error::Refused { hint, .. } => hint,
            Error::NotLeading => Some("ask the leader, or try again in a few seconds".to_owned()),
            _ => None,
        };
        let kind = if is_for_the_leader { NOT_LEADING } else { PLAIN };
        Self { status, error: text, hint, kind }
    }
}

impl From<catalog::Error> for Refusal {
    fn from(error: catalog::Error) -> Self {
        Error::from(error).into()
    }
}

/// A JSON body whose mistakes are answered like all others.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        match Json::<T>::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(e @ JsonRejection::MissingJsonContentType(_)) => {
                let hint = "send the body with Content-Type: application/json";
                Err(Refusal::new(e.status(), "the body is not said to be JSON", hint))
            }
            Err(e @ JsonRejection::BytesRejection(_)) => {
                Err(Refusal { status: e.status(), error: e.body_text(), hint: None, kind: PLAIN })
            }
            Err(e) => Err(Refusal::usage(&e.body_text())),
        }
    }
}

/// What a path has, whose mistakes are answered like all others.
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(e) => Err(Refusal::usage(&e.body_text())),
        }
    }
}

/// What is asked for in a query, whose mistakes are answered like all others.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(e) => Err(Refusal::usage(&e.body_text())),
        }
    }
}

/// A name from a path, checked.
pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Refusal>
where
    T::Err: ToString,
{
    text.parse().map_err(|e: T::Err| Refusal::usage(&e))
}
