//! Labels, kept small: a map may hold those of 100,000 tenants, and a tree would take half a kilobyte for each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Labels of a tenant or a server: a value for each of a few names.
///
/// Names and values in turn, by name, each behind its length in bytes: one piece of memory for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(Box<[u8]>);

impl Labels {
    /// A label's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &*self.0;
        std::iter::from_fn(move || Some((next_text(&mut rest)?, next_text(&mut rest)?)))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Takes a text off the front.
fn next_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let (length, behind) = rest.split_first_chunk()?;
    let (text, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = behind;
    std::str::from_utf8(text).ok()
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        let mut bytes = Vec::new();
        for text in labels.iter().flat_map(|(name, value)| [name, value]) {
            // A text of 4 GB would not have come here.
            bytes.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend(text.as_bytes());
        }
        Self(bytes.into())
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
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
        let odd: Labels = [(String::new(), "ü\0".to_owned()), ("ü".to_owned(), String::new())].into();
        assert_eq!(odd.iter().collect::<Vec<_>>(), [("", "ü\0"), ("ü", "")]);
        assert_eq!(Labels::default().iter().next(), None);
    }
}
