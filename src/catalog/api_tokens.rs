//! Tokens of the API in the catalog: by their hash, which is all that is kept of them.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::query::{Catalog, Params, from_json};

/// Tokens that there may be: each is somebody's, or some program's.
const TOKENS_MAX: i64 = 1_000;

/// What a token is good for. A later one may do all that an earlier one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees all, changes nothing.
    Viewer,
    /// Makes, moves and migrates tenants, and empties servers.
    Operator,
    /// Decides which servers, users and tokens there are, and sets the map right.
    Admin,
}

impl Role {
    /// All of them, the least first.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    /// What who has it may do, in a few words.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Viewer => "Sees all, changes nothing",
            Self::Operator => "Makes, moves and migrates tenants, and empties servers",
            Self::Admin => "Decides which servers, users and tokens there are, and sets the map right",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.as_str() == word);
        found.ok_or_else(|| format!("role {word:?} is not allowed: use viewer, operator or admin"))
    }
}

/// A token as it is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiToken {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// When it was made (RFC 3339).
    pub created_at: String,
    /// By whose token.
    pub created_by: String,
    /// Until when it is taken (RFC 3339); without, until it is revoked.
    pub expires_at: Option<String>,
    /// When it was last used (RFC 3339), within a minute.
    pub last_used_at: Option<String>,
}

/// Who has a token.
#[derive(Debug, Clone)]
pub struct TokenHolder {
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub role: Role,
    /// Until when it is taken (RFC 3339).
    pub expires_at: Option<String>,
    /// How long that is from now; zero when it is over.
    pub expires_in: Option<Duration>,
    /// Whether it was used within the last minute, as far as that is on record.
    pub was_used_lately: bool,
}

impl Catalog {
    /// All tokens, by name.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn api_tokens(&self) -> Result<Vec<ApiToken>> {
        const SQL: &str = "SELECT to_jsonb(t) - 'hash' FROM api_token t ORDER BY name";
        self.json("token_list", SQL, &[]).await
    }

    /// Adds a token, for so long.
    ///
    /// # Errors
    /// [`Error::Conflict`] when the name is taken, or there are too many.
    pub async fn create_api_token(
        &self,
        (name, role): (&str, Role),
        hash: &[u8],
        created_by: &str,
        lasts: Option<Duration>,
    ) -> Result<ApiToken> {
        const SQL: &str = "
            INSERT INTO api_token AS t (name, role, hash, created_by, expires_at)
            SELECT $1, $2, $3, $4, now() + $5 * interval '1 second'
            WHERE (SELECT count(*) FROM api_token) < $6 OR EXISTS (SELECT FROM api_token WHERE name = $1)
            ON CONFLICT (name) DO NOTHING
            RETURNING to_jsonb(t) - 'hash'";
        let lasts = lasts.map(|lasts| lasts.as_secs_f64());
        let params: Params<'_> = &[&name, &role.as_str(), &hash, &created_by, &lasts, &TOKENS_MAX];
        let made = self.json("token_create", SQL, params).await?.into_iter().next();
        if let Some(made) = made {
            return Ok(made);
        }
        let taken = self.row("token_taken", "SELECT FROM api_token WHERE name = $1", &[&name]).await?;
        Err(Error::Conflict(match taken {
            Some(_) => format!("token {name} exists already"),
            None => format!("there are {TOKENS_MAX} tokens, and no more are allowed: revoke some"),
        }))
    }

    /// All tokens by their hashes, with who has them.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn token_holders(&self) -> Result<Vec<(Vec<u8>, TokenHolder)>> {
        const NAME: &str = "token_holders";
        const SQL: &str = "
            SELECT jsonb_build_array(name, role, expires_at, greatest(0, extract(epoch FROM expires_at - now())),
                coalesce(last_used_at > now() - interval '1 minute', false)), hash
            FROM api_token";
        let rows = self.rows(NAME, SQL, &[]).await?;
        let holder = |row| {
            type Found = (String, Role, Option<String>, Option<f64>, bool);
            let (name, role, expires_at, left, was_used_lately): Found = from_json(NAME, row)?;
            let expires_in = left.filter(|_| expires_at.is_some()).map(Duration::from_secs_f64);
            Ok((row.get(1), TokenHolder { name, role, expires_at, expires_in, was_used_lately }))
        };
        rows.iter().map(holder).collect()
    }

    /// Notes that the token of this hash was used.
    ///
    /// # Errors
    /// When the catalog can't be reached.
    pub async fn note_token_use(&self, hash: &[u8]) -> Result<()> {
        const SQL: &str = "
            UPDATE api_token SET last_used_at = now()
            WHERE hash = $1 AND coalesce(last_used_at < now() - interval '1 minute', true)";
        self.execute("token_use", SQL, &[&hash]).await.map(drop)
    }

    /// Removes a token.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_api_token(&self, name: &str) -> Result<()> {
        match self.execute("token_revoke", "DELETE FROM api_token WHERE name = $1", &[&name]).await? {
            0 => Err(Error::NotFound(format!("token {name} does not exist"))),
            _ => Ok(()),
        }
    }
}
