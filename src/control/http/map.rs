//! `/v1/map`: the map as a whole.

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use catalog::Role;
use serde::Deserialize;
use serde_json::{Value, json};
use shard_map::fleet::Fleet;
use shard_map::recovery::{Finding, MapFile, Sources};

use super::Shared;
use super::answer::{Answer, Body, Refusal};
use super::sign_in::Who;
use crate::error::Error;
use crate::map::{Outcome, watch};

/// What is asked for, with the texts of the files that it is to be done by.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wish {
    /// A declared fleet, TOML.
    declared: Option<String>,
    /// An exported map, or a router's snapshot.
    file: Option<String>,
    /// One of any age, from which only users are taken.
    users: Option<String>,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    without_users: bool,
}

impl Wish {
    fn sources(&self) -> Result<Sources, Refusal> {
        let declared = self.declared.as_deref().map(Fleet::parse).transpose();
        let decode =
            |text: &Option<String>| text.as_ref().map(|text| MapFile::decode(text.as_bytes())).transpose();
        Ok(Sources {
            declared: declared.map_err(|e| Refusal::usage(&e))?,
            file: decode(&self.file).map_err(|e| Refusal::usage(&e))?,
            users: decode(&self.users).map_err(|e| Refusal::usage(&e))?,
            without_users: self.without_users,
        })
    }
}

pub(super) async fn export(State(context): Shared) -> Answer<Value> {
    let file = context.map.export().await?;
    let text = file.encode().map_err(|e| Error::Failed(e.to_string()))?;
    Ok(Json(json!({ "file": text })))
}

/// What the last look found.
pub(super) async fn check(State(context): Shared) -> Answer<Value> {
    Ok(Json(json!(context.catalog.map_check().await?)))
}

/// Compares the map with the servers that it has. With others that files name, for admins only: the control plane logs in at
/// the addresses that these give.
pub(super) async fn verify(
    State(context): Shared,
    Extension(who): Extension<Who>,
    Body(wish): Body<Wish>,
) -> Answer<Vec<Finding>> {
    let sources = context.map.beyond_catalog(wish.sources()?).await?;
    if sources.name_servers() && who.role < Role::Admin {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "files that name servers which the catalog does not have need the role admin: the control plane logs in there",
            "leave the files out, or use an admin's token",
        ));
    }
    Ok(Json(watch::look(&context, &sources, false).await?))
}

pub(super) async fn rebuild(State(context): Shared, Body(wish): Body<Wish>) -> Answer<Outcome> {
    Ok(Json(context.map.rebuild(&wish.sources()?, !wish.dry_run).await?))
}

pub(super) async fn import(State(context): Shared, Body(wish): Body<Wish>) -> Answer<Outcome> {
    let file = wish.sources()?.file.ok_or_else(|| Refusal::usage("file: is missing"))?;
    Ok(Json(context.map.import(&file, wish.dry_run).await?))
}

pub(super) async fn apply(State(context): Shared, Body(wish): Body<Wish>) -> Answer<Outcome> {
    let fleet = wish.sources()?.declared.ok_or_else(|| Refusal::usage("declared: is missing"))?;
    Ok(Json(context.map.apply(&fleet, wish.dry_run).await?))
}
