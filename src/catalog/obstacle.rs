//! What keeps a server on the map, and what to do about it.

use shard_map::{ServerName, TenantId};

use crate::operations::{Kind, Operation};

/// Tenants that a refusal names.
const NAMED_MAX: usize = 5;

/// What keeps a server on the map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// Tenants are placed there.
    Tenants(Vec<TenantId>),
    /// Tenants that are deleted, in their grace time.
    Deleted(Vec<TenantId>),
    /// A move whose sealed copy is kept.
    SealedCopy {
        /// The move.
        id: i64,
    },
    /// An operation that is under way there.
    UnderWay {
        /// Its kind.
        kind: Kind,
        /// Its number.
        id: i64,
    },
    /// A move of which only the server itself knows whether it was decided.
    Undecided {
        /// The move.
        id: i64,
        /// Its source.
        from: String,
    },
    /// A move that was told just now to end without the server.
    IsEnding {
        /// The move.
        id: i64,
    },
}

impl Obstacle {
    /// What a server that is not lost has to do with an operation.
    pub(crate) fn of(operation: &Operation) -> Self {
        let (kind, id) = (operation.kind, operation.id);
        if operation.state == "switched" { Self::SealedCopy { id } } else { Self::UnderWay { kind, id } }
    }

    /// What it is, in one line.
    #[must_use]
    pub fn what(&self, server: &ServerName) -> String {
        match self {
            Self::Tenants(tenants) => {
                format!("server {server} has {} tenants: {}", tenants.len(), some(tenants))
            }
            Self::Deleted(tenants) => {
                let (number, named) = (tenants.len(), some(tenants));
                format!("server {server} has {number} deleted tenants in their grace time: {named}")
            }
            Self::SealedCopy { id } => format!(
                "move {id} keeps a sealed copy until its window is over, and server {server} has a part in it"
            ),
            Self::UnderWay { kind, id } => format!("{} {id} is under way on server {server}", kind.as_str()),
            Self::Undecided { id, from } => format!(
                "move {id} is in its cutover: whether its tenant is on server {server} or on {from} is not decided yet"
            ),
            Self::IsEnding { id } => format!("move {id} is being ended now without server {server}"),
        }
    }

    /// What to do, in one line.
    #[must_use]
    pub fn remedy(&self, server: &ServerName) -> String {
        match self {
            Self::Tenants(_) => format!(
                "empty it first: tenantry server drain {server} --wait; if the server is lost for good: tenantry server \
                 remove {server} --lost"
            ),
            Self::Deleted(_) => {
                "wait for the end of their grace time, or end it: tenantry tenant delete ID --now; if \
                                 the server is lost for good, remove it with --lost"
                    .to_owned()
            }
            Self::SealedCopy { id } => format!("end it: tenantry move complete {id}"),
            Self::UnderWay { kind: Kind::Move, id } => {
                format!("let it end first (tenantry move show {id}), or undo it: tenantry move abort {id}")
            }
            Self::UnderWay { .. } => "let it end first, then try again".to_owned(),
            Self::Undecided { id, from } => format!(
                "see \"A server is lost for good\" in docs/recovery.md; until then slot tenantry_move_{id} on server \
                 {from} keeps that server's log"
            ),
            Self::IsEnding { .. } => {
                "try again in a moment; if its other server is lost, too, give that one up as well".to_owned()
            }
        }
    }
}

fn some(tenants: &[TenantId]) -> String {
    let mut named: Vec<&str> = tenants.iter().take(NAMED_MAX).map(TenantId::as_str).collect();
    if tenants.len() > named.len() {
        named.push("…");
    }
    named.join(", ")
}
