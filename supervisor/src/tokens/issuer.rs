//! Issuers' metadata and keys: fetched when they are first needed, kept for a while, fetched anew when a token names a key that is
//! not among them (keys are rotated), but not as often as strangers invent key names.
//!
//! ```text
//! unknown ─fetch─▸ fresh (10 min) ─▸ stale, used while fetching fails, for an hour at most
//!    ▴───── the operator changes where issuers may be ──────┘
//! ```

use super::fetch::{Fetcher, IssuerPolicy, Wanted};
use jsonwebtoken::jwk::Jwk;
use serde::Deserialize;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Largest metadata document.
const MAX_METADATA: usize = 64 * 1024;

/// Largest key set.
const MAX_KEY_SET: usize = 256 * 1024;

/// Most keys of a set that are looked at.
const MAX_KEYS: usize = 100;

/// How long keys are believed without asking again.
const FRESH: Duration = Duration::from_secs(600);

/// How long they are believed while asking fails.
const STALE: Duration = Duration::from_secs(3600);

/// How long a failure is believed.
const FAILED: Duration = Duration::from_secs(5);

/// Fetches for unknown keys that may follow each other at once, and the time in which another one is earned.
const BURST: u32 = 3;
const EARNED_IN: Duration = Duration::from_secs(20);

/// Issuers remembered; beyond that all are forgotten.
const ISSUERS: usize = 256;

/// An issuer as far as tokens are concerned.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    /// What tokens must name as theirs.
    pub(super) issuer: String,
    /// Its keys, those that could be read.
    pub(super) keys: Vec<Jwk>,
}

#[derive(Debug, Default)]
struct Issuer {
    known: Mutex<Known>,
    /// One asks, the others wait for what it finds.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    keys: Option<(Instant, Arc<Keys>)>,
    failure: Option<(Instant, String)>,
    refetches: Option<(Instant, u32)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Issuers {
    fetcher: Fetcher,
    remembered: Mutex<Remembered>,
}

/// What has been asked for.
#[derive(Debug, Default)]
struct Remembered {
    /// Under which all of it was: when the operator says otherwise, nothing of it is believed any more.
    policy: IssuerPolicy,
    /// By the place of their metadata.
    issuers: HashMap<String, Arc<Issuer>>,
}

impl Issuers {
    /// The keys of the issuer whose metadata is at `url`; why not, for the audit. `lacking` are keys among which a token's
    /// was not: others are wanted, if others may be asked for.
    pub(super) async fn keys(
        &self,
        url: &str,
        lacking: Option<&Arc<Keys>>,
        policy: &IssuerPolicy,
    ) -> Result<Arc<Keys>, String> {
        let issuer = self.issuer(url, policy);
        if let Some(answer) = issuer.now(lacking) {
            return answer;
        }
        let _turn = issuer.fetching.lock().await;
        // Somebody else may have been here meanwhile.
        if let Some(answer) = issuer.now(lacking) {
            return answer;
        }
        if let Some(lacking) = lacking
            && !issuer.earn()
        {
            return Ok(Arc::clone(lacking));
        }
        let fetched = self.fetch(url, policy).await;
        issuer.note(fetched)
    }

    fn issuer(&self, url: &str, policy: &IssuerPolicy) -> Arc<Issuer> {
        let remembered = self.remembered.lock();
        let mut remembered = remembered.unwrap_or_else(PoisonError::into_inner);
        if remembered.policy != *policy {
            remembered.issuers.clear();
            remembered.policy = policy.clone();
        }
        let issuers = &mut remembered.issuers;
        if issuers.len() >= ISSUERS && !issuers.contains_key(url) {
            issuers.clear();
        }
        Arc::clone(issuers.entry(url.to_owned()).or_default())
    }

    async fn fetch(&self, url: &str, policy: &IssuerPolicy) -> Result<Keys, String> {
        #[derive(Deserialize)]
        struct Metadata {
            issuer: String,
            jwks_uri: String,
        }
        #[derive(Deserialize)]
        struct KeySet {
            keys: Vec<Value>,
        }
        let wanted = |url, max| Wanted {
            url,
            issuer: url,
            max,
        };
        let document = self.fetcher.get(wanted(url, MAX_METADATA), policy).await?;
        let metadata: Metadata = serde_json::from_slice(&document)
            .map_err(|error| format!("{url}: is not an issuer's metadata: {error}"))?;
        let place = &metadata.jwks_uri;
        let document = self.fetcher.get(wanted(place, MAX_KEY_SET), policy).await?;
        let set: KeySet = serde_json::from_slice(&document)
            .map_err(|error| format!("{place}: is not a key set: {error}"))?;
        if set.keys.len() > MAX_KEYS {
            return Err(format!("{place}: has more than {MAX_KEYS} keys"));
        }
        // A key of a kind that we do not know does not spoil the others.
        let keys = set.keys.into_iter();
        let keys = keys.filter_map(|key| serde_json::from_value(key).ok());
        Ok(Keys {
            issuer: metadata.issuer,
            keys: keys.collect(),
        })
    }
}

impl Issuer {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be said without asking.
    fn now(&self, lacking: Option<&Arc<Keys>>) -> Option<Result<Arc<Keys>, String>> {
        let known = self.known();
        let failure = known.failure.as_ref();
        let failure = failure.filter(|(at, _)| at.elapsed() < FAILED);
        match (&known.keys, failure) {
            (Some((at, keys)), failure) => {
                let other = lacking.is_none_or(|lacking| !Arc::ptr_eq(lacking, keys));
                let good = at.elapsed() < FRESH || (failure.is_some() && at.elapsed() < STALE);
                (good && (other || failure.is_some())).then(|| Ok(Arc::clone(keys)))
            }
            (None, Some((_, why))) => Some(Err(why.clone())),
            (None, None) => None,
        }
    }

    /// Whether one more fetch for an unknown key is earned.
    fn earn(&self) -> bool {
        let mut known = self.known();
        let now = Instant::now();
        let (since, left) = known.refetches.unwrap_or((now, BURST));
        let earned = (now - since).as_secs() / EARNED_IN.as_secs();
        let left = u32::try_from(earned)
            .unwrap_or(u32::MAX)
            .saturating_add(left)
            .min(BURST);
        // Time that earned nothing yet goes on counting.
        let since = if earned > 0 { now } else { since };
        known.refetches = Some((since, left.saturating_sub(1)));
        left > 0
    }

    fn note(&self, fetched: Result<Keys, String>) -> Result<Arc<Keys>, String> {
        let mut known = self.known();
        match fetched {
            Ok(keys) => {
                let keys = Arc::new(keys);
                known.keys = Some((Instant::now(), Arc::clone(&keys)));
                known.failure = None;
                Ok(keys)
            }
            Err(why) => {
                tracing::warn!(reason = why, "an issuer's keys could not be fetched");
                known.failure = Some((Instant::now(), why.clone()));
                match &known.keys {
                    Some((at, keys)) if at.elapsed() < STALE => Ok(Arc::clone(keys)),
                    Some(_) | None => Err(why),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use session_core::egress::AllowList;

    fn keys(name: &str) -> Keys {
        Keys {
            issuer: name.to_owned(),
            keys: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_believed_for_a_while_and_longer_if_nobody_answers() {
        let issuer = Issuer::default();
        assert!(issuer.now(None).is_none());
        let first = issuer.note(Ok(keys("a"))).expect("keys");
        assert!(issuer.now(None).is_some());
        assert!(issuer.now(Some(&first)).is_none(), "others are wanted");
        tokio::time::sleep(FRESH).await;
        assert!(issuer.now(None).is_none());
        issuer.note(Err("down".to_owned())).expect("the old ones");
        assert!(issuer.now(None).is_some() && issuer.now(Some(&first)).is_some());
        tokio::time::sleep(FAILED).await;
        assert!(issuer.now(None).is_none(), "asked again");
        tokio::time::sleep(STALE).await;
        assert!(issuer.note(Err("down".to_owned())).is_err());
    }

    #[test]
    fn what_was_fetched_is_believed_as_long_as_the_operator_lets_it_be_fetched() {
        let issuers = Issuers::default();
        let url = "https://id.test/.well-known/openid-configuration";
        let policy = |entries: &[&str]| IssuerPolicy {
            issuers: Some(AllowList::parse(entries.iter().copied()).expect("list")),
            allow_private: AllowList::default(),
        };
        let (open, closed) = (policy(&["id.test:443"]), policy(&["other.test:443"]));
        let first = issuers.issuer(url, &open);
        first.note(Ok(keys("a"))).expect("keys");
        assert!(issuers.issuer(url, &open).now(None).is_some());
        assert!(issuers.issuer(url, &closed).now(None).is_none());
        assert!(
            issuers.issuer(url, &open).now(None).is_none(),
            "asked again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_make_us_ask_all_the_time() {
        let issuer = Issuer::default();
        let asked = |times| (0..times).filter(|_| issuer.earn()).count();
        assert_eq!(asked(10), 3);
        tokio::time::sleep(EARNED_IN).await;
        assert_eq!(asked(10), 1);
        tokio::time::sleep(EARNED_IN * 100).await;
        assert_eq!(asked(10), 3);
        let failing = Issuer::default();
        assert!(failing.note(Err("down".to_owned())).is_err());
        assert!(failing.now(None).is_some_and(|answer| answer.is_err()));
    }
}
