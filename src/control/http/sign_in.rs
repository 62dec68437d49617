//! Who asks: by the token that a request brings.
//!
//! The configuration's token is an admin's and needs no catalog: with it a fleet is brought back that has lost its
//! catalog, too. All others are in the catalog by their hash. There are a thousand at most, so they are read all at once:
//! one read serves everybody who waits for it, and who tries tokens out costs a look in memory and keeps nobody else
//! waiting. What was read is believed for [`FRESH`] from when the read began; when the catalog is away, reads go on with it
//! for [`STALE_MAX`]. Changes can't be made then anyhow.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, header};
use catalog::{Catalog, Role, TokenHolder};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::answer::Refusal;

/// How long what the catalog said of tokens counts: so long a revoked one still works at other instances.
const FRESH: Duration = Duration::from_secs(5);
/// How long it counts for reads while the catalog does not answer.
const STALE_MAX: Duration = Duration::from_mins(10);
/// Tokens are read no more often than this, however many unknown ones are shown.
const READ_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// How long reading them may take, with the wait for it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// How long noting that a token was used may take.
const NOTE_TIMEOUT: Duration = Duration::from_secs(1);
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

/// Who has a token, as it was read.
struct Holder {
    who: Who,
    expires: Option<Instant>,
    /// Its use is on record, within a minute.
    is_use_noted: bool,
}

impl Holder {
    fn new(holder: TokenHolder, read_at: Instant) -> Self {
        let TokenHolder { name, role, expires_at, expires_in, was_used_lately } = holder;
        let expires = expires_in.and_then(|left| read_at.checked_add(left));
        Self { who: Who { name, role, expires_at }, expires, is_use_noted: was_used_lately }
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

/// All tokens as they were read last.
#[derive(Default)]
struct Known {
    holders: HashMap<Hash, Holder>,
    /// When that read began.
    read_at: Option<Instant>,
    /// How many were revoked here: a read that began before a revocation must not bring the token back.
    revocations: u64,
}

/// How the last read went, or the one that is under way.
#[derive(Default)]
struct Reading {
    began: Option<Instant>,
    /// When it failed, and why.
    failed: Option<(Instant, String)>,
}

/// Finds who has a token.
pub(crate) struct SignIn {
    of_config: String,
    known: Mutex<Known>,
    /// Held by whoever reads: it is one read for all who wait.
    reading: tokio::sync::Mutex<Reading>,
}

impl SignIn {
    /// With the configuration's token.
    pub(crate) fn new(of_config: String) -> Self {
        Self { of_config, known: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    /// Who asks; `reads`: for nothing but a look.
    pub(super) async fn who(
        &self,
        catalog: &Catalog,
        headers: &HeaderMap,
        reads: bool,
    ) -> Result<Who, Refusal> {
        let asked = Instant::now();
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
        if self.find(&hash, FRESH).is_none()
            && let Err(error) = self.read(catalog, asked).await
        {
            let may_go_on = reads && matches!(error, catalog::Error::Unreachable(_));
            let stale = may_go_on.then(|| self.find(&hash, STALE_MAX)).flatten();
            return stale.map_or_else(|| Err(error.into()), |(taken, _)| taken);
        }
        // What was read since this was asked counts, however long it took to come here.
        let Some((taken, is_use_noted)) = self.find(&hash, FRESH + READ_TIMEOUT) else { return Err(wrong()) };
        let who = taken?;
        if !is_use_noted {
            self.note_use(catalog, &hash).await;
        }
        Ok(who)
    }

    /// Who has a token, by what is known and no older than this; and whether its use is on record.
    fn find(&self, hash: &Hash, age_max: Duration) -> Option<(Result<Who, Refusal>, bool)> {
        let known = self.known();
        known.read_at.filter(|at| at.elapsed() < age_max)?;
        known.holders.get(hash).map(|holder| (holder.taken(), holder.is_use_noted))
    }

    /// Reads all tokens, unless somebody did who began after this was asked.
    async fn read(&self, catalog: &Catalog, asked: Instant) -> catalog::Result<()> {
        let reading = async {
            let mut reading = self.reading.lock().await;
            if self.known().read_at.is_some_and(|at| at >= asked) {
                return Ok(());
            }
            if let Some((_, why)) = reading.failed.as_ref().filter(|(at, _)| *at >= asked) {
                return Err(catalog::Error::Unreachable(why.clone()));
            }
            if let Some(last) = reading.began {
                sleep_until(last + READ_INTERVAL_MIN).await;
            }
            loop {
                let (began, revocations) = (Instant::now(), self.known().revocations);
                reading.began = Some(began);
                let read = catalog.token_holders().await;
                if let Err(catalog::Error::Unreachable(why)) = &read {
                    reading.failed = Some((Instant::now(), why.clone()));
                }
                if self.remember(read?, began, revocations) {
                    return Ok(());
                }
            }
        };
        let late = |_| catalog::Error::Unreachable(format!("no answer within {READ_TIMEOUT:?}"));
        timeout(READ_TIMEOUT, reading).await.map_err(late)?
    }

    /// Puts what was read in the place of what was known; not if a token was revoked here since the read began.
    fn remember(&self, read: Vec<(Vec<u8>, TokenHolder)>, began: Instant, revocations: u64) -> bool {
        let read = read
            .into_iter()
            .filter_map(|(hash, holder)| Some((Hash::try_from(hash).ok()?, Holder::new(holder, began))));
        let holders = read.collect();
        let mut known = self.known();
        let is_current = known.revocations == revocations;
        if is_current {
            (known.holders, known.read_at) = (holders, Some(began));
        }
        is_current
    }

    /// Puts on record that a token is used. What it is used for does not wait long for that.
    async fn note_use(&self, catalog: &Catalog, hash: &Hash) {
        if let Some(holder) = self.known().holders.get_mut(hash) {
            holder.is_use_noted = true;
        }
        match timeout(NOTE_TIMEOUT, catalog.note_token_use(hash)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a token's use is not on record"),
            Err(_) => tracing::debug!("a token's use is not on record within {NOTE_TIMEOUT:?}"),
        }
    }

    /// Forgets who had the token of this name: it was revoked.
    pub(super) fn forget(&self, name: &str) {
        let mut known = self.known();
        known.revocations += 1;
        known.holders.retain(|_, holder| holder.who.name != name);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
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

    const TOKEN: &str = "tnt_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

    /// Ann's token, as the catalog tells it, which ends after so many seconds.
    fn anns(left: u64) -> Vec<(Vec<u8>, TokenHolder)> {
        let expires_in = Some(Duration::from_secs(left));
        let (name, expires_at) = ("ann".to_owned(), Some(String::new()));
        let holder =
            TokenHolder { name, role: Role::Operator, expires_at, expires_in, was_used_lately: true };
        vec![(hash(TOKEN).to_vec(), holder)]
    }

    #[tokio::test]
    async fn without_the_catalog_a_known_token_reads_for_a_while_and_changes_nothing() {
        let sign_in = SignIn::new("a-token-of-the-configuration".to_owned());
        let seen = |ago, left| {
            let began = Instant::now() - Duration::from_secs(ago);
            let revocations = sign_in.known().revocations;
            assert!(sign_in.remember(anns(left), began, revocations));
        };
        let ask = async |reads| sign_in.who(&away(), &bearing(TOKEN), reads).await.map_err(|r| r.status);
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE, "never seen");
        seen(60, 600);
        assert_eq!(ask(true).await.unwrap().name, "ann");
        assert_eq!(ask(false).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
        seen(60, 0);
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::UNAUTHORIZED, "expired meanwhile");
        seen(STALE_MAX.as_secs() + 1, 600);
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE);
        seen(0, 600);
        assert_eq!(ask(false).await.unwrap().name, "ann");
        sign_in.forget("ann");
        assert_eq!(ask(true).await.unwrap_err(), StatusCode::SERVICE_UNAVAILABLE, "revoked");
    }

    #[tokio::test]
    async fn a_read_that_began_before_a_revocation_does_not_bring_the_token_back() {
        let sign_in = SignIn::new("a-token-of-the-configuration".to_owned());
        let (began, revocations) = (Instant::now(), sign_in.known().revocations);
        let read = anns(600);
        sign_in.forget("ann");
        assert!(!sign_in.remember(read, began, revocations), "it is read again");
        let refusal = sign_in.who(&away(), &bearing(TOKEN), true).await.unwrap_err();
        assert_eq!(refusal.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
