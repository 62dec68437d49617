//! Which tenants a user may reach or a migration runs over: all of them, those with labels, or one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::TenantId;
use crate::labels::Labels;

/// A set of tenants: `*` for all, or `key=value` pairs joined by commas, all of which must hold.
/// The key `id` means the tenant's id, any other a label.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector(Vec<(String, String)>);

/// The key that means a tenant's id.
const ID: &str = "id";

/// A selector or label that is not `key=value`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not allowed: write key=value (several joined by commas), or * for all")]
pub struct InvalidSelector(pub String);

impl Selector {
    /// Whether it selects every tenant.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a tenant with this id and these labels is selected.
    #[must_use]
    pub fn matches(&self, id: &TenantId, labels: &Labels) -> bool {
        self.0.iter().all(|(key, value)| {
            if key == ID { id.as_str() == value } else { labels.get(key) == Some(value.as_str()) }
        })
    }
}

/// Reads one `key=value`.
///
/// # Errors
/// [`InvalidSelector`] when there is no `=`, or the key is empty or has characters outside `[A-Za-z0-9_.-]`.
pub fn parse_label(text: &str) -> Result<(String, String), InvalidSelector> {
    let invalid = || InvalidSelector(text.to_owned());
    let (key, value) = text.split_once('=').ok_or_else(invalid)?;
    let (key, value) = (key.trim(), value.trim());
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-/".contains(c);
    if key.is_empty() || value.is_empty() || !key.chars().all(plain) || !value.chars().all(plain) {
        return Err(invalid());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Checks a tenant's labels, so that they can be selected by.
///
/// # Errors
/// A sentence that says what is allowed.
pub fn check_labels(labels: &Labels) -> Result<(), String> {
    for (name, value) in labels.iter() {
        if name == ID {
            return Err(format!(
                "label {ID} is not allowed: in selectors, {ID}=acme means the tenant acme itself"
            ));
        }
        if parse_label(&format!("{name}={value}")).is_err() {
            let allowed = "names and values are made of A-Z, a-z, 0-9, _, ., / and -";
            return Err(format!("label {name:?} is not allowed with the value {value:?}: {allowed}"));
        }
    }
    Ok(())
}

impl FromStr for Selector {
    type Err = InvalidSelector;

    fn from_str(text: &str) -> Result<Self, InvalidSelector> {
        match text.trim() {
            "*" | "all" => Ok(Self::default()),
            "" => Err(InvalidSelector(text.to_owned())),
            pairs => pairs.split(',').map(parse_label).collect::<Result<_, _>>().map(Self),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("*");
        }
        for (i, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidSelector;
    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> String {
        selector.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_must_hold() {
        let acme = TenantId::new("acme").unwrap();
        let labels = Labels::from([("plan".into(), "gold".into()), ("region".into(), "eu".into())]);
        let matches = |s: &str| s.parse::<Selector>().unwrap().matches(&acme, &labels);
        assert!(matches("*"));
        assert!(matches("id=acme"));
        assert!(matches("plan=gold, region=eu"));
        assert!(!matches("plan=gold,region=us"));
        assert!(!matches("id=other"));
    }

    #[test]
    fn a_tenant_has_labels_that_select_it() {
        let check = |name: &str, value: &str| check_labels(&Labels::from([(name.into(), value.into())]));
        assert_eq!(check("plan", "gold"), Ok(()));
        assert!(check("id", "acme").unwrap_err().contains("the tenant acme itself"));
        for (name, value) in [("a b", "c"), ("a", ""), ("a=b", "c"), ("", "x"), ("a", "b,c=d")] {
            assert!(check(name, value).is_err(), "{name}={value}");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for text in ["", "plan", "=x", "plan=", "a b=c", "plan=gold,,"] {
            assert!(text.parse::<Selector>().is_err(), "{text:?}");
        }
    }
}
