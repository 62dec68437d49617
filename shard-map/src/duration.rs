//! Times as people write them in configurations and on the command line, a whole number and its unit; and as they read them.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A text that is not a time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time: write a whole number and ms, s, m, h or d, such as \"10s\" or \"250ms\"")]
pub struct InvalidDuration(pub String);

/// Reads `250ms`, `10s`, `5m`, `24h` or `7d`.
///
/// # Errors
/// [`InvalidDuration`] for anything else, and for times of more than 2^64 milliseconds.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let invalid = || InvalidDuration(text.to_owned());
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(invalid()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(invalid)
}

/// For `#[serde(deserialize_with)]`.
///
/// # Errors
/// What [`parse`] says.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The same for a time that may be left out.
///
/// # Errors
/// What [`parse`] says.
pub fn deserialize_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    deserialize(deserializer).map(Some)
}

/// A time for people, by its largest unit.
#[must_use]
pub fn rough(time: Duration) -> String {
    let (unit, name) = match time.as_millis() {
        ms if ms < 10_000 && ms % 1_000 > 0 => return format!("{:.1} s", time.as_secs_f64()),
        ms if ms < 120_000 => (1, "s"),
        ms if ms < 2 * 3_600_000 => (60, "min"),
        ms if ms < 48 * 3_600_000 => (3_600, "h"),
        _ => (86_400, "days"),
    };
    format!("{} {name}", time.as_secs() / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_a_number_and_a_unit() {
        assert_eq!(parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("24h"), Ok(Duration::from_secs(86_400)));
        for text in
            ["", "10", "s", "1 s", "1.5s", "-1s", "1w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn people_read_the_largest_unit() {
        let told = [0, 900, 5_000, 45_000, 600_000, 7_200_000, 200_000_000]
            .map(|ms| rough(Duration::from_millis(ms)));
        assert_eq!(told, ["0 s", "0.9 s", "5 s", "45 s", "10 min", "2 h", "2 days"]);
    }
}
