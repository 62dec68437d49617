//! Who asks: by the token that a request brings.
//!
//! The configuration's token is an admin's and needs no catalog: with it a fleet is brought back that has lost its
//! catalog, too. All others are in the catalog by their hash. What was found there is believed for [`FRESH`]; when the
//! catalog is away, reads go on with it for [`STALE_MAX`]. Changes can't be made then anyhow.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, StatusCode, header};
use catalog::{Catalog, Role, TokenHolder};
use lru::LruCache;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use super::answer::Refusal;

/// How long what the catalog said of a token counts: so long a revoked one still works at other instances.
const FRESH: Duration = Duration::from_secs(5);
/// How long it counts for reads while the catalog does not answer.
const STALE_MAX: Duration = Duration::from_mins(10);
/// Tokens whose holders are remembered.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();
/// Tokens looked up at once: who tries them out must not have all connections of the catalog.
const LOOKUPS_MAX: usize = 2;
/// How long a look in the catalog may take, with the wait for its turn.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// What tokens begin with, so that people and scanners know one when they see it.
pub(super) const PREFIX: &str = "tnt_";
/// Characters of a token, with its prefix.
const LENGTH: usize = PREFIX.len() + 43;
/// The name of the configuration's token.
pub(super) const CONFIG: &str = "config";

/// Whoever asks.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Who {
    /// Whose token it is.
    pub(super) name: String,
    pub(super) role: Role,
    /// Until when the token is taken (RFC 3339).
    pub(super) expires_at: Option<String>,
}

type Hash = [u8; 32];

struct Known {
    who: Who,
    expires: Option<Instant>,
    seen: Instant,
}

impl Known {
    fn new(holder: TokenHolder) -> Self {
        let TokenHolder { name, role, expires_at, expires_in } = holder;
        let seen = Instant::now();
        let expires = expires_in.and_then(|left| seen.checked_add(left));
        Self { who: Who { name, role, expires_at }, expires, seen }
    }

    fn taken(&self) -> Result<Who, Refusal> {
        match self.expires {
            Some(end) if end <= Instant::now() => Err(unauthorized(
                format!("token {} has expired", self.who.name),
                "ask an admin for another one: tenantry token create",
            )),
            _ => Ok(self.who.clone()),
        }
    }
}

/// Finds who has a token.
pub(crate) struct SignIn {
    of_config: String,
    known: Mutex<LruCache<Hash, Known>>,
    lookups: Semaphore,
}

impl SignIn {
    /// With the configuration's token.
    pub(crate) fn new(of_config: String) -> Self {
        let known = Mutex::new(LruCache::new(KNOWN_MAX));
        Self { of_config, known, lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// Who asks; `reads`: for nothing but a look.
    pub(super) async fn who(
        &self,
        catalog: &Catalog,
        headers: &HeaderMap,
        reads: bool,
    ) -> Result<Who, Refusal> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        if bool::from(given.as_bytes().ct_eq(self.of_config.as_bytes())) {
            return Ok(Who { name: CONFIG.to_owned(), role: Role::Admin, expires_at: None });
        }
        let wrong =
            || unauthorized("the token is missing or wrong".to_owned(), "give --token or TENANTRY_TOKEN");
        if given.len() != LENGTH || !given.starts_with(PREFIX) {
            return Err(wrong());
        }
        let hash = hash(given);
        if let Some(who) = self.remembered(&hash, FRESH) {
            return who;
        }
        match self.look_up(catalog, &hash).await {
            Ok(Some(holder)) => {
                let known = Known::new(holder);
                let who = known.taken();
                self.known().put(hash, known);
                who
            }
            Ok(None) => {
                self.known().pop(&hash);
                Err(wrong())
            }
            Err(error @ catalog::Error::Unreachable(_)) if reads => {
                self.remembered(&hash, STALE_MAX).unwrap_or_else(|| Err(error.into()))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn look_up(&self, catalog: &Catalog, hash: &Hash) -> catalog::Result<Option<TokenHolder>> {
        let looking = async {
            // Nobody closes it.
            let _turn = self.lookups.acquire().await;
            catalog.token_holder(hash).await
        };
        let late = |_| catalog::Error::Unreachable(format!("no answer within {LOOKUP_TIMEOUT:?}"));
        tokio::time::timeout(LOOKUP_TIMEOUT, looking).await.map_err(late)?
    }

    fn remembered(&self, hash: &Hash, age_max: Duration) -> Option<Result<Who, Refusal>> {
        let mut known = self.known();
        known.get(hash).filter(|known| known.seen.elapsed() < age_max).map(Known::taken)
    }

    /// Forgets who had the token of this name: it was revoked.
    pub(super) fn forget(&self, name: &str) {
        let mut known = self.known();
        let hashes: Vec<Hash> =
            known.iter().filter(|(_, known)| known.who.name == name).map(|(hash, _)| *hash).collect();
        for hash in hashes {
            known.pop(&hash);
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, LruCache<Hash, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept of a token.
pub(super) fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

fn unauthorized(error: String, hint: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearing(token: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
    }

    fn away() -> Catalog {
        Catalog::new("postgres://nobody@127.0.0.1:1/none", &prometheus::Registry::new()).unwrap()
    }

    #[tokio::test]
    async fn the_configurations_token_needs_no_catalog() {
        let sign_in = SignIn::new("a-token-of-the-configuration".to_owned());
        let who = sign_in.who(&away(), &bearing("a-token-of-the-configuration"), false).await.unwrap();
        assert_eq!((who.name.as_str(), who.role), (CONFIG, Role::Admin));
        for wrong in ["", "a-token", "tnt_short"] {
            let refusal = sign_in.who(&away(), &bearing(wrong), true).await.unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED, "{wrong}");
        }
    }

    #[tokio::test]
    async fn without_the_catalog_a_known_token_reads_for_a_while_and_changes_nothing() {
        let sign_in = SignIn::new("a-token-of-the-configuration".to_owned());
        let token = format!("{PREFIX}{}", "x".repeat(43));
        let seen = |ago, left| {
            let expires_in = Some(Duration::from_secs(left));
            let expires_at = Some(String::new());
            let holder = TokenHolder { name: "ann".to_owned(), role: Role::Operator, expires_at, expires_in };
            let known = Known { seen: Instant::now() - Duration::from_secs(ago), ..Known::new(holder) };
            sign_in.known().put(hash(&token), known);
        };
        let ask = async |reads| sign_in.who(&away(), &bearing(&token), reads).await.map_err(|r| r.status);
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE, "never seen");
        seen(60, 600);
        assert_eq!(ask(true).await.unwrap().name, "ann");
        assert_eq!(ask(false).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
        seen(60, 0);
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::UNAUTHORIZED, "expired meanwhile");
        seen(STALE_MAX.as_secs() + 1, 600);
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
        seen(0, 600);
        sign_in.forget("ann");
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE, "revoked");
    }
}
