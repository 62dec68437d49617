//! `/v1/doctor`: what is wrong, and what to do about it.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Shared;
use super::answer::Refusal;
use crate::doctor::Check;

/// Any instance answers, whether it leads or not. Without the catalog the answer is a refusal that has what could be seen.
pub(super) async fn examine(State(context): Shared) -> Response {
    let mut diagnosis = context.doctor.examine().await;
    let term = *context.term.borrow();
    let leads = term.map_or_else(|| "does not lead".to_owned(), |term| format!("leads, term {term}"));
    diagnosis.lead_with(Check {
        part: "control",
        name: context.config.name.clone().unwrap_or_else(|| context.config.listen.clone()),
        ok: true,
        detail: format!("tenantry {}, {leads}", env!("CARGO_PKG_VERSION")),
    });
    let answer = json!(diagnosis);
    let Some(why) = diagnosis.unreachable else { return Json(answer).into_response() };
    let hint = "start the catalog's Postgres, or promote its standby; clients go on meanwhile";
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why, hint).with(answer)
}
