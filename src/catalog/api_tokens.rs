//! Tokens of the API in the catalog: by their hash, which is all that is kept of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::query::{Catalog, Params};

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
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
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

/// Who has a token that was shown.
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

    /// Who has the token of this hash; that it was used is noted.
    ///
    /// # Errors
    /// When the catalog can't be reached or read.
    pub async fn token_holder(&self, hash: &[u8]) -> Result<Option<TokenHolder>> {
        const SQL: &str = "
            WITH used AS (
                UPDATE api_token SET last_used_at = now()
                WHERE hash = $1 AND coalesce(expires_at > now(), true)
                    AND coalesce(last_used_at < now() - interval '1 minute', true))
            SELECT jsonb_build_array(name, role, expires_at, greatest(0, extract(epoch FROM expires_at - now())))
            FROM api_token WHERE hash = $1";
        let found = self.json("token_holder", SQL, &[&hash]).await?;
        let found: Option<(String, Role, Option<String>, Option<f64>)> = found.into_iter().next();
        Ok(found.map(|(name, role, expires_at, left)| TokenHolder {
            name,
            role,
            expires_in: left.filter(|_| expires_at.is_some()).map(Duration::from_secs_f64),
            expires_at,
        }))
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
