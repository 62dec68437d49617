//! Values on the command line, checked where they are read: a wrong one is refused before anything is sent.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::cli::failure::Failure;

/// Reads `250ms`, `2s`, `5m`, `24h` or `7d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    shard_map::duration::parse(text).map_err(|error| error.to_string())
}

/// Reads one `key=value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    shard_map::selector::parse_label(text).map_err(|error| error.to_string())
}

/// The same for a tenant.
pub(crate) fn tenant_label(text: &str) -> Result<(String, String), String> {
    let label = label(text)?;
    shard_map::selector::check_labels(&[label.clone()].into())?;
    Ok(label)
}

/// Labels as a JSON object.
pub(crate) fn labels(pairs: &[(String, String)]) -> Result<Value, Failure> {
    object("--label", pairs.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))))
}

/// Keys and values as a JSON object; each key once.
pub(crate) fn object(flag: &str, pairs: impl IntoIterator<Item = (String, Value)>) -> Result<Value, Failure> {
    let mut object = Map::new();
    for (key, value) in pairs {
        if object.contains_key(&key) {
            return Err(Failure::usage(format!("{flag} {key} is given twice: which one is meant?")));
        }
        object.insert(key, value);
    }
    Ok(Value::Object(object))
}

/// Longest time for which a tenant may write although it is over its size.
const WRITABLE_FOR_MAX: Duration = Duration::from_hours(7 * 24);

/// Reads such a time.
pub(crate) fn writable_for(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        time if time > WRITABLE_FOR_MAX => Err("use 7d or less; what stays longer is a quota".to_owned()),
        time => Ok(time),
    }
}

/// Reads one quota: `connections=50`, `statement-timeout=30s`, `size=10GB`. Without a value, the class's counts again.
pub(crate) fn quota(text: &str) -> Result<(String, Value), String> {
    let invalid = || {
        "write connections=50, statement-timeout=30s or size=10GB; without a value for the class's".to_owned()
    };
    let (key, value) = text.split_once('=').ok_or_else(invalid)?;
    let value = match key {
        "connections" | "statement-timeout" | "size" if value.is_empty() => Value::Null,
        "connections" => value.parse::<u32>().map_err(|_| invalid())?.into(),
        "statement-timeout" => duration(value).map(|_| value.into())?,
        "size" => value.parse::<shard_map::bytes::Bytes>().map_err(|e| e.to_string())?.to_string().into(),
        _ => return Err(invalid()),
    };
    Ok((key.replace('-', "_"), value))
}

/// A user name as the router accepts it.
pub(crate) fn user_name(text: &str) -> Result<String, String> {
    shard_map::fleet::check_user_name(text).map(|()| text.to_owned()).map_err(str::to_owned)
}

/// Milliseconds, as the API takes them.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Shares of the fleet in percent, growing, the last one all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waves(pub(crate) Vec<u8>);

/// Reads `1%,10%,100%`.
pub(crate) fn waves(text: &str) -> Result<Waves, String> {
    let invalid =
        || "write growing shares of the fleet that end with all of it, such as 1%,10%,100%".to_owned();
    let shares: Vec<u8> = text
        .split(',')
        .map(|share| share.trim().trim_end_matches('%').parse().map_err(|_| invalid()))
        .collect::<Result<_, _>>()?;
    let growing = shares.windows(2).all(|pair| pair[0] < pair[1]);
    if shares.first().is_none_or(|first| *first == 0) || shares.last() != Some(&100) || !growing {
        return Err(invalid());
    }
    Ok(Waves(shares))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_given_once_and_is_not_the_id() {
        let pair = |key: &str| (key.to_owned(), "x".to_owned());
        assert!(labels(&[pair("a"), pair("b")]).is_ok());
        assert!(labels(&[pair("a"), pair("b"), pair("a")]).unwrap_err().message.contains("--label a"));
        assert!(tenant_label("id=acme").is_err() && tenant_label("plan=gold").is_ok());
    }

    #[test]
    fn waves_grow_to_all() {
        assert_eq!(waves("1%,10%,100%"), Ok(Waves(vec![1, 10, 100])));
        assert_eq!(waves("100"), Ok(Waves(vec![100])));
        for text in ["", "10%", "0%,100%", "10%,1%,100%", "50%,50%,100%", "x,100", "200%", "1%,100%,"] {
            assert!(waves(text).is_err(), "{text:?}");
        }
    }
}
