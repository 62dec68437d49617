//! What `SHOW CONFIG` shows: every key with its value, its default, and how a change of it takes effect. No secret: the
//! catalog's URL is not shown, and the others are only in files that the configuration names.

use serde_json::Value as Json;
use wire::results::{Column, Value};

use crate::admin::rows::{Row, name, text};
use crate::config::{RESTART_KEYS, RouterConfig};

pub(crate) const COLUMNS: [Column; 4] = [text("key"), text("value"), text("default"), text("changes_by")];

/// All keys in order of the alphabet.
pub(crate) fn rows(config: &RouterConfig) -> Vec<Row> {
    let (now, default) = (keys(config), keys(&RouterConfig::default()));
    let row = |(key, value): (&String, &Json)| {
        let by = if RESTART_KEYS.contains(&key.as_str()) { "restart" } else { "reload" };
        let default = default.get(key).map_or(Value::Null, shown);
        vec![name(key), shown(value), default, name(by)]
    };
    let mut rows: Vec<Row> = now.iter().map(row).collect();
    rows.sort_by_key(|row| match &row[0] {
        Value::Text(key) => key.clone(),
        _ => String::new(),
    });
    rows
}

fn keys(config: &RouterConfig) -> serde_json::Map<String, Json> {
    match serde_json::to_value(config) {
        Ok(Json::Object(keys)) => keys,
        // A configuration is a table of keys, whose values all have a form in JSON.
        _ => serde_json::Map::new(),
    }
}

/// A value as it would be written in the file, texts without their quotes.
fn shown(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::String(text) => name(text),
        other => duration(other).map_or_else(|| name(other), |milliseconds| name(in_unit(milliseconds))),
    }
}

/// Milliseconds, if a value is a time as serde writes one.
fn duration(value: &Json) -> Option<u64> {
    let parts = value.as_object().filter(|parts| parts.len() == 2)?;
    let (seconds, nanoseconds) = (parts.get("secs")?.as_u64()?, parts.get("nanos")?.as_u64()?);
    Some(seconds * 1000 + nanoseconds / 1_000_000)
}

/// A time in the largest unit of which it is a whole number.
fn in_unit(milliseconds: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let fits = |(size, _): &&(u64, &str)| milliseconds > 0 && milliseconds.is_multiple_of(*size);
    let (size, unit) = units.iter().find(fits).unwrap_or(&(1, "ms"));
    format!("{}{unit}", milliseconds / size)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn value(config: &RouterConfig, key: &str) -> Vec<Value> {
        let row = rows(config).into_iter().find(|row| row[0] == name(key));
        row.unwrap_or_else(|| panic!("{key} is missing"))[1..].to_vec()
    }

    #[test]
    fn values_are_shown_as_they_are_written() {
        let config = RouterConfig {
            clients_max: 5,
            queue_timeout: Duration::from_millis(1500),
            idle_transaction_timeout: Some(Duration::from_secs(300)),
            servers: [("pg-1".parse().unwrap(), "db:5432".to_owned())].into(),
            ..RouterConfig::default()
        };
        assert_eq!(value(&config, "clients_max")[..2], [name("5"), name("10000")]);
        assert_eq!(value(&config, "queue_timeout"), [name("1500ms"), name("10s"), name("reload")]);
        assert_eq!(value(&config, "idle_transaction_timeout")[..2], [name("5m"), Value::Null]);
        assert_eq!(value(&config, "listen"), [name("0.0.0.0:6432"), name("0.0.0.0:6432"), name("restart")]);
        assert_eq!(value(&config, "servers")[0], name("{\"pg-1\":\"db:5432\"}"));
    }

    #[test]
    fn no_secret_is_shown() {
        let url = Some("postgres://u:hunter2@db/catalog".to_owned().into());
        let config = RouterConfig { catalog_url: url, ..RouterConfig::default() };
        assert!(!format!("{:?}", rows(&config)).contains("hunter2"));
        assert_eq!(value(&config, "catalog_url")[0], name("(hidden)"));
    }
}
