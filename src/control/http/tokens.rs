//! `/v1/tokens` and `/v1/whoami`: who may use the API, and as what.

use std::time::Duration;

use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use catalog::Role;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal};
use super::paging::Page;
use super::sign_in::{CONFIG, PREFIX, Who, hash};
use crate::error::Error;

/// Bytes of randomness in a token.
const TOKEN_BYTES: usize = 32;
/// Characters of a token's name.
const NAME_MAX: usize = 63;
/// Longest time for which a token is made that ends by itself: ten years.
const EXPIRES_S_MAX: u64 = 10 * 366 * 24 * 3600;

pub(super) async fn whoami(Extension(who): Extension<Who>) -> Json<Who> {
    Json(who)
}

pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(asked): Query<Page<String>>,
) -> Result<Response, Refusal> {
    asked.of(context.catalog.api_tokens().await?, &uri, |token| token.name.clone())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    /// Whose it is.
    name: String,
    role: Role,
    /// For how long it is taken, in seconds; without, until it is revoked.
    expires_in_s: Option<u64>,
}

/// Makes a token, which is told this once.
pub(super) async fn create(
    State(context): Shared,
    Extension(who): Extension<Who>,
    Body(create): Body<Create>,
) -> Answer<Value> {
    let Create { name, role, expires_in_s } = create;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
        let what =
            format!("token name {name:?} is not allowed: use 1 to {NAME_MAX} letters, digits, . _ @ or -");
        return Err(Refusal::usage(&what));
    }
    if name == CONFIG {
        return Err(Error::refused("token config is the configuration's", "use another name").into());
    }
    if expires_in_s.is_some_and(|s| !(1..=EXPIRES_S_MAX).contains(&s)) {
        return Err(Refusal::usage(&format!("expires_in_s: use 1 to {EXPIRES_S_MAX}, or leave it out")));
    }
    let token = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>()));
    let lasts = expires_in_s.map(Duration::from_secs);
    let made = context.catalog.create_api_token((&name, role), &hash(&token), &who.name, lasts).await?;
    let mut shown = json!(made);
    shown["token"] = json!(token);
    Ok(Json(shown))
}

pub(super) async fn revoke(State(context): Shared, Path(name): Path<String>) -> Answer<Value> {
    if name == CONFIG {
        let hint = "put another token into the file that token_file names, and restart the control plane";
        return Err(Error::refused("token config is the configuration's", hint).into());
    }
    context.catalog.revoke_api_token(&name).await?;
    context.sign_in.forget(&name);
    Ok(Json(json!({ "name": name, "state": "revoked" })))
}
