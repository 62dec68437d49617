//! `/v1/users`: logins at the router. Passwords are turned into verifiers here and kept nowhere.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::fleet::check_user_name;
use shard_map::{Access, PoolMode, Selector, User};

use super::Shared;
use super::answer::{Answer, Body, Path, Query, Refusal};
use super::paging::Page;

/// Bytes of randomness in a generated password.
const GENERATED_BYTES: usize = 24;
const PASSWORD_LENGTH_MAX: usize = 1024;

fn shown(user: &User) -> Value {
    json!({ "name": user.name, "tenants": user.tenants, "access": user.access, "pool_mode": user.pool_mode })
}

pub(super) async fn list(
    State(context): Shared,
    uri: Uri,
    Query(asked): Query<Page<String>>,
) -> Result<Response, Refusal> {
    let users: Vec<Value> = context.catalog.users().await?.iter().map(shown).collect();
    asked.of(users, &uri, |user| user["name"].as_str().unwrap_or_default().to_owned())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    name: String,
    tenants: Option<Selector>,
    #[serde(default)]
    access: Access,
    #[serde(default)]
    pool_mode: PoolMode,
    password: Option<String>,
}

pub(super) async fn create(State(context): Shared, Body(create): Body<Create>) -> Answer<Value> {
    check_user_name(&create.name).map_err(|allowed| {
        Refusal::usage(&format!("user name {:?} is not allowed: {allowed}", create.name))
    })?;
    let Password { clear, verifier, generated } = Password::new(create.password)?;
    let user = User {
        name: create.name,
        verifier,
        tenants: create.tenants.unwrap_or_default(),
        access: create.access,
        pool_mode: create.pool_mode,
    };
    context.catalog.create_user(&user).await?;
    Ok(Json(with_password(shown(&user), &clear, generated)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Passwd {
    password: Option<String>,
}

pub(super) async fn passwd(
    State(context): Shared,
    Path(name): Path<String>,
    Body(passwd): Body<Passwd>,
) -> Answer<Value> {
    let Password { clear, verifier, generated } = Password::new(passwd.password)?;
    context.catalog.set_user_verifier(&name, &verifier).await?;
    Ok(Json(with_password(json!({ "name": name }), &clear, generated)))
}

pub(super) async fn remove(State(context): Shared, Path(name): Path<String>) -> Answer<Value> {
    context.catalog.drop_user(&name).await?;
    Ok(Json(json!({ "name": name })))
}

/// A password on its way to becoming a verifier.
struct Password {
    clear: String,
    verifier: String,
    generated: bool,
}

impl Password {
    fn new(given: Option<String>) -> Result<Self, Refusal> {
        let generated = given.is_none();
        let clear = given.unwrap_or_else(|| URL_SAFE_NO_PAD.encode(rand::random::<[u8; GENERATED_BYTES]>()));
        if clear.is_empty() || clear.len() > PASSWORD_LENGTH_MAX || clear.contains('\0') {
            return Err(Refusal::usage(&format!(
                "the password is not allowed: use 1 to {PASSWORD_LENGTH_MAX} bytes"
            )));
        }
        let verifier = postgres_protocol::password::scram_sha_256(clear.as_bytes());
        Ok(Self { clear, verifier, generated })
    }
}

/// Only a password that nobody else knows is told, once.
fn with_password(mut shown: Value, clear: &str, generated: bool) -> Value {
    if generated {
        shown["password"] = json!(clear);
    }
    shown
}
