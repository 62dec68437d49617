//! Sizes as people write them: a whole number and its unit, in powers of 1024 as Postgres counts them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A number of bytes. Written as `512MB`, `10GB`; stored in that form, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(pub u64);

/// A text that is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a size: write a whole number and B, kB, MB, GB or TB, such as \"10GB\"")]
pub struct InvalidSize(pub String);

const UNITS: [(&str, u64); 5] =
    [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10), ("B", 1)];

impl FromStr for Bytes {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.to_owned());
        let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(invalid)?;
        let (number, unit) = text.split_at(unit_at);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(invalid)?;
        let number: u64 = number.parse().map_err(|_| invalid())?;
        let bytes = number.checked_mul(*factor).ok_or_else(invalid)?;
        // The catalog counts bytes in a bigint.
        if i64::try_from(bytes).is_ok() { Ok(Self(bytes)) } else { Err(invalid()) }
    }
}

impl fmt::Display for Bytes {
    /// Exactly, in the largest unit that divides it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        let (name, factor) = unit.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / factor)
    }
}

impl Bytes {
    /// For people: at most four digits, rounded down.
    #[must_use]
    pub fn rounded(self) -> String {
        let unit = UNITS.iter().find(|(_, factor)| self.0 >= 10 * factor);
        let (name, factor) = unit.unwrap_or(&("B", 1));
        format!("{} {name}", self.0 / factor)
    }
}

impl TryFrom<String> for Bytes {
    type Error = InvalidSize;
    fn try_from(text: String) -> Result<Self, InvalidSize> {
        text.parse()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> String {
        bytes.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_a_number_and_a_unit_and_come_back_as_they_went() {
        for (text, bytes) in [("10GB", 10 << 30), ("1536MB", 1536 << 20), ("1kB", 1024), ("7B", 7), ("0B", 0)]
        {
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)), "{text}");
        }
        assert_eq!(Bytes(2048 << 20).to_string(), "2GB");
        for text in ["", "10", "GB", "1.5GB", "-1GB", "1 GB", "1gb", "99999999TB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?}");
        }
        assert_eq!(Bytes((5 << 30) + 17).rounded(), "5120 MB");
    }
}
