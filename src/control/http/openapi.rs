//! `/v1/openapi.json`: the API in OpenAPI 3.1. Its paths are made of the table of routes; `schemas.json` has by hand what
//! goes in and comes out. A test holds it against the types that are read.

use axum::Json;
use serde_json::{Map, Value, json};

use super::routes::{Doc, EVENTS, Route, table};

/// Schemas of bodies, of what may stand in queries, and of answers: what they have at least.
const SCHEMAS: &str = include_str!("schemas.json");
/// What any request may be answered with that is not what was asked for.
const REFUSALS: [&str; 8] = ["400", "401", "403", "404", "409", "502", "503", "504"];
/// The same for those that may have a body.
const BODY_REFUSALS: [&str; 4] = ["408", "413", "415", "422"];

pub(super) async fn serve() -> Json<Value> {
    Json(document())
}

fn document() -> Value {
    let schemas: Map<String, Value> = serde_json::from_str(SCHEMAS).unwrap_or_default();
    let mut paths = Map::new();
    for route in table() {
        let methods = paths.entry(format!("/v1{}", route.path)).or_insert_with(|| json!({}));
        methods[route.doc.method] = operation(&route, &schemas);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tenantry", "version": env!("CARGO_PKG_VERSION"),
            "description": "The control plane: servers, tenants, moves, migrations, and the map of them.",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "responses": { "Problem": {
                "description": "What is wrong, and what to do",
                "content": { "application/problem+json": { "schema": reference("Problem") } },
            } },
            "schemas": schemas,
        },
    })
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// One method of one path.
fn operation(Route { path, doc, rule, .. }: &Route, schemas: &Map<String, Value>) -> Value {
    let mut responses = Map::new();
    for status in doc.statuses {
        responses.insert(status.to_string(), answer(doc));
    }
    let of_body = BODY_REFUSALS.iter().filter(|_| doc.method != "get");
    for status in REFUSALS.iter().chain(of_body) {
        responses.insert((*status).to_owned(), json!({ "$ref": "#/components/responses/Problem" }));
    }
    let tried = if rule.dry_run { "; with dry_run, for all" } else { "" };
    let id: Vec<&str> = path.split(['/', '{', '}', '-']).filter(|part| !part.is_empty()).collect();
    let mut parameters = path_parameters(path);
    parameters.extend(doc.query.iter().flat_map(|query| query_parameters(&schemas[*query])));
    if !rule.reads {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "pattern": "^[!-~]{1,128}$" },
            "description": "Who asks again with the same key within a day gets the first answer",
        }));
    }
    let mut operation = json!({
        "operationId": format!("{}_{}", doc.method, id.join("_")),
        "summary": doc.summary,
        "description": format!("For the role {} and those above it{tried}.", rule.needs.as_str()),
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = doc.body {
        let content = json!({ "application/json": { "schema": reference(body) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn answer(doc: &Doc) -> Value {
    let one = reference(doc.answer);
    let schema = if doc.is_list { json!({ "type": "array", "items": one }) } else { one };
    let kind = if doc.answer == EVENTS { "text/event-stream" } else { "application/json" };
    let mut answer = json!({ "description": doc.answer, "content": { kind: { "schema": schema } } });
    if doc.is_list {
        answer["headers"] = json!({ "Link": {
            "description": "The next page, with rel=\"next\"", "schema": { "type": "string" },
        } });
    }
    answer
}

fn path_parameters(path: &str) -> Vec<Value> {
    let (kind, example) = match path.split('/').nth(1) {
        Some("moves" | "migrations" | "operations") => ("integer", json!(2)),
        Some("tenants") => ("string", json!("acme")),
        Some("servers") => ("string", json!("pg-1")),
        _ => ("string", json!("ann")),
    };
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let one = |name| {
        json!({
            "name": name, "in": "path", "required": true, "schema": { "type": kind }, "example": example,
        })
    };
    names.map(one).collect()
}

/// The fields of a schema as parameters.
fn query_parameters(schema: &Value) -> Vec<Value> {
    let fields = schema["properties"].as_object().into_iter().flatten();
    fields.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema })).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde::de::DeserializeOwned;

    use super::super::{map, move_requests, servers, tenants, tokens, users};
    use super::*;
    use crate::fleet::files;

    /// All values of a key, wherever it is.
    fn all<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get(key).and_then(Value::as_str));
                fields.values().for_each(|value| all(value, key, found));
            }
            Value::Array(items) => items.iter().for_each(|value| all(value, key, found)),
            _ => {}
        }
    }

    #[test]
    fn each_reference_has_what_it_is_to_and_each_operation_a_name_of_its_own() {
        let document = document();
        let (mut references, mut ids) = (Vec::new(), Vec::new());
        all(&document, "$ref", &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        all(&document["paths"], "operationId", &mut ids);
        assert_eq!(ids.len(), table().len());
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
        assert!(table().iter().all(|route| !route.doc.answer.is_empty() && !route.doc.summary.is_empty()));
    }

    /// The fields that a type reads, as it says itself when it gets another one; and whether all of them may be left out.
    fn fields<T: DeserializeOwned>() -> (BTreeSet<String>, bool) {
        let error = serde_json::from_value::<T>(json!({ "no such field": 1 })).err().unwrap().to_string();
        let named = error.split("expected").nth(1).unwrap_or_default();
        let names = named.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        (names, serde_json::from_value::<T>(json!({})).is_ok())
    }

    #[test]
    fn bodies_have_the_fields_that_are_read() {
        let types = [
            ("NewToken", fields::<tokens::Create>()),
            ("NewUser", fields::<users::Create>()),
            ("NewPassword", fields::<users::Passwd>()),
            ("NewServer", fields::<servers::Add>()),
            ("DrainOrder", fields::<servers::Drain>()),
            ("FailoverOrder", fields::<servers::Failover>()),
            ("NewTenant", fields::<tenants::Create>()),
            ("NewQuota", fields::<tenants::SetQuota>()),
            ("NewName", fields::<tenants::Rename>()),
            ("NewMigrationRun", fields::<files::Input>()),
            ("NewMove", fields::<move_requests::Start>()),
            ("Pause", fields::<move_requests::Pause>()),
            ("MapWish", fields::<map::Wish>()),
        ];
        let named: BTreeSet<&str> = table().iter().filter_map(|route| route.doc.body).collect();
        assert_eq!(named, types.iter().map(|(name, _)| *name).collect());
        let schemas: Value = serde_json::from_str(SCHEMAS).unwrap();
        for (name, (fields, may_be_empty)) in types {
            let schema = &schemas[name];
            let described: BTreeSet<String> =
                schema["properties"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(described, fields, "{name}");
            assert_eq!(schema.get("required").is_none(), may_be_empty, "{name}");
        }
    }
}
