//! Labels, kept small: a map may hold those of 100,000 tenants, and a tree would take half a kilobyte for each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels of a tenant or a server: a value for each of a few names.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// A label's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self(labels.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }
}

impl FromIterator<(String, String)> for Labels {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(labels: I) -> Self {
        labels.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl<const COUNT: usize> From<[(String, String); COUNT]> for Labels {
    fn from(labels: [(String, String); COUNT]) -> Self {
        labels.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_an_object_in_json_and_found_by_name() {
        let labels: Labels = serde_json::from_str(r#"{"plan":"gold","area":"eu"}"#).unwrap();
        assert_eq!((labels.get("plan"), labels.get("none")), (Some("gold"), None));
        assert_eq!(serde_json::to_string(&labels).unwrap(), r#"{"area":"eu","plan":"gold"}"#);
    }
}
