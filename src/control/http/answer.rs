//! How errors are answered: one line of what is wrong, one of what to do, and a status that says whose fault it is.

use axum::Json;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::Error;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: String,
    pub(super) hint: Option<String>,
}

pub(super) type Answer<T> = Result<Json<T>, Refusal>;

impl Refusal {
    pub(super) fn not_found(error: &str) -> Self {
        Self { status: StatusCode::NOT_FOUND, error: error.to_owned(), hint: None }
    }

    pub(super) fn usage(error: &(impl ToString + ?Sized)) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.to_string(), hint: None }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error });
        if let Some(hint) = self.hint {
            body["hint"] = json!(hint);
        }
        (self.status, Json(body)).into_response()
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
            Error::ServerUnreachable { .. } => StatusCode::BAD_GATEWAY,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = error.to_string();
        let hint = match error {
            Error::Refused { hint, .. } => hint,
            Error::NotLeading => Some("ask the leader, or try again in a few seconds".to_owned()),
            _ => None,
        };
        Self { status, error: text, hint }
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
