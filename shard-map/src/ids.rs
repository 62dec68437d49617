//! Names that have been checked once, so that the rest of the program can put them into SQL, files and metric labels.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest tenant id and server name, in bytes. Postgres names have 63; the rest is for suffixes such as `__arriving`.
pub const NAME_LENGTH_MAX: usize = 40;

/// Suffix of a tenant's database on the target while it is being moved there.
pub const ARRIVING_SUFFIX: &str = "__arriving";
/// Suffix of a tenant's database on the source once it is sealed.
pub const SEALED_SUFFIX: &str = "__sealed";
/// Suffix of a tenant's database that was deleted and waits for the end of its grace time.
pub const DELETED_SUFFIX: &str = "__deleted";

/// Suffix of a database that is being dropped.
pub const DOOMED_SUFFIX: &str = "__doomed";

/// Suffix of a prepared database, of which no tenant is yet.
pub const STOCK_SUFFIX: &str = "__stock";
/// Suffix of an empty copy of a tenant's schema, on which migrations are tried.
pub const TRIAL_SUFFIX: &str = "__trial";

/// Databases that exist on every server for other purposes.
const RESERVED: [&str; 4] = ["postgres", "template0", "template1", "tenantry"];

/// Why a name was refused. The text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not of the form `[a-z0-9][a-z0-9_-]{0,39}`.
    #[error(
        "{kind} {name:?} is not allowed: use 1 to 40 of a-z, 0-9, _ and -, and start with a letter or digit"
    )]
    Form {
        /// What was being named.
        kind: &'static str,
        /// The name as given.
        name: String,
    },
    /// Taken by Postgres or by tenantry itself.
    #[error("{kind} {name:?} is not allowed: Postgres or tenantry uses this name itself")]
    Reserved {
        /// What was being named.
        kind: &'static str,
        /// The name as given.
        name: String,
    },
}

fn has_allowed_form(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= NAME_LENGTH_MAX
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|b| plain(b) || b == b'_' || b == b'-')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks a name.
            ///
            /// # Errors
            /// [`InvalidName`] when it has characters or a length that are not allowed, or is reserved.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                if !has_allowed_form(name) {
                    return Err(InvalidName::Form { kind: $kind, name: name.to_owned() });
                }
                let reserved: fn(&str) -> bool = $reserved;
                if reserved(name) {
                    return Err(InvalidName::Reserved { kind: $kind, name: name.to_owned() });
                }
                Ok(Self(name.into()))
            }

            /// The name itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $type {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(name: String) -> Result<Self, InvalidName> {
                Self::new(&name)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type!(
    /// A customer account: the name of its database as clients see it.
    TenantId,
    "tenant id",
    |name| RESERVED.contains(&name)
        || [ARRIVING_SUFFIX, SEALED_SUFFIX, DELETED_SUFFIX, DOOMED_SUFFIX, STOCK_SUFFIX, TRIAL_SUFFIX]
            .iter()
            .any(|suffix| name.ends_with(suffix))
);
name_type!(
    /// A Postgres server that the control plane manages.
    ServerName,
    "server name",
    |_| false
);

impl TenantId {
    /// Whom a prepared database is made for until a tenant claims it: an id that no tenant can have. `None` when the name
    /// is not one of the stock.
    #[must_use]
    pub fn of_stock(name: &str) -> Option<Self> {
        (has_allowed_form(name) && name.ends_with(STOCK_SUFFIX)).then(|| Self(name.into()))
    }

    /// The name of the tenant's database where it is open. The same on every server.
    #[must_use]
    pub fn live_database(&self) -> &str {
        self.as_str()
    }

    /// The name of its database on the target of a move, until the decision.
    #[must_use]
    pub fn arriving_database(&self) -> String {
        format!("{self}{ARRIVING_SUFFIX}")
    }

    /// The name of its database on the source of a move, from the seal on.
    #[must_use]
    pub fn sealed_database(&self) -> String {
        format!("{self}{SEALED_SUFFIX}")
    }

    /// The name of its database between deletion and the end of the grace time.
    #[must_use]
    pub fn deleted_database(&self) -> String {
        format!("{self}{DELETED_SUFFIX}")
    }

    /// The name of one of its databases that is being dropped: no other has it, since it has the object id `oid` in it. The
    /// server may give that again after 2³² others; what is left under the name is dropped long before, by whoever drops
    /// databases of the tenant next.
    #[must_use]
    pub fn doomed_database(&self, oid: u32) -> String {
        format!("{self}__{oid}{DOOMED_SUFFIX}")
    }

    /// Whose the database is that is being dropped under this name. `None` when it is no such name.
    #[must_use]
    pub fn of_doomed(name: &str) -> Option<Self> {
        let (id, oid) = name.strip_suffix(DOOMED_SUFFIX)?.rsplit_once("__")?;
        oid.parse::<u32>().ok()?;
        Self::new(id).ok()
    }
}

/// A placement's version. Only ever grows, at the registry as at the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_ids_are_accepted() {
        for id in ["a", "0", "acme", "acme-2_x", &"x".repeat(40)] {
            assert_eq!(TenantId::new(id).unwrap().as_str(), id);
        }
    }

    #[test]
    fn ids_that_could_break_sql_or_collide_are_refused() {
        for id in ["", "-a", "_a", "A", "a b", "a\"b", "é", &"x".repeat(41), "a/b", "a.b"] {
            assert!(matches!(TenantId::new(id), Err(InvalidName::Form { .. })), "{id:?}");
        }
        for id in [
            "postgres",
            "template1",
            "tenantry",
            "acme__sealed",
            "acme__arriving",
            "acme__deleted",
            "acme__1__doomed",
            "acme__stock",
        ] {
            assert!(matches!(TenantId::new(id), Err(InvalidName::Reserved { .. })), "{id:?}");
        }
    }

    #[test]
    fn a_database_that_is_being_dropped_tells_whose_it_was() {
        let longest = TenantId::new(&"x".repeat(NAME_LENGTH_MAX)).unwrap();
        assert!(longest.doomed_database(u32::MAX).len() < 64, "Postgres would cut the name");
        for id in ["acme", "acme__5", "a__"] {
            let id = TenantId::new(id).unwrap();
            assert_eq!(TenantId::of_doomed(&id.doomed_database(16_999)), Some(id));
        }
        for name in ["acme", "acme__doomed", "acme__x__doomed", "__7__doomed", "acme__deleted"] {
            assert_eq!(TenantId::of_doomed(name), None, "{name}");
        }
    }
}
