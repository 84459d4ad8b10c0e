//! Access keys: who may call over TCP with signed requests (contract §7.2).
//!
//! A key is an id, which is no secret, a secret that is told once, and what it may do ([`Grant`]). All keys are in memory:
//! there are few, every request needs one, and one that is revoked is refused from that moment.
//!
//! ```text
//! create ▸ live ─┬─▸ expired (its time is over)
//!                └─▸ revoked (its secret is forgotten; the row stays for the record)
//! ```
//!
//! Not for: verifying what was signed with them (`crate::signature`).

mod seal;

pub use seal::{SealError, Sealer};

use crate::permit::Grant;
use crate::store::{KeyRow, NewKey, Store, StoreError, Timestamp};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Begins every id, so that people and secret scanners know what it is.
const ID_PREFIX: &str = "AKAC";

/// Letters of ids.
const ID_LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Letters after the prefix.
const ID_LENGTH: usize = 16;

/// Random bytes of a secret: 40 characters.
const SECRET_BYTES: usize = 30;

/// A key that can be used.
#[derive(PartialEq, Eq)]
pub struct AccessKey {
    /// Its id.
    pub id: String,
    /// What it may do.
    pub grant: Grant,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
    secret: Vec<u8>,
}

/// Without the secret.
impl std::fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessKey")
            .field("id", &self.id)
            .field("grant", &self.grant)
            .finish_non_exhaustive()
    }
}

impl AccessKey {
    /// A key that nobody stores.
    #[must_use]
    pub fn of(id: &str, secret: &str, grant: Grant) -> Self {
        Self {
            id: id.to_owned(),
            grant,
            expires_at: None,
            secret: secret.as_bytes().to_vec(),
        }
    }

    /// The secret.
    pub(crate) fn secret(&self) -> &[u8] {
        &self.secret
    }

    /// Whether its time is over.
    #[must_use]
    pub fn expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// Why a key was not made or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The secrets cannot be sealed or opened.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the module.
#[derive(Debug)]
pub struct AccessKeys {
    store: Store,
    sealer: Sealer,
    live: RwLock<HashMap<String, Arc<AccessKey>>>,
    /// Held while one is made or revoked: the table above follows the store in its order.
    changing: tokio::sync::Mutex<()>,
}

impl AccessKeys {
    /// Loads all keys. One that cannot be opened is left out, with the reason in the log: it can only be revoked.
    pub async fn load(store: Store, sealer: Sealer) -> Result<Self, KeyError> {
        let mut live = HashMap::new();
        for row in store.live_keys().await? {
            let secret = sealer.open_sealed(&row.id, &row.sealed);
            let Some(secret) = secret else {
                tracing::error!(
                    key = row.id,
                    "access key cannot be used: it was sealed with another key file; revoke it and make a new one"
                );
                continue;
            };
            live.insert(
                row.id.clone(),
                Arc::new(AccessKey {
                    id: row.id,
                    grant: row.grant,
                    expires_at: row.expires_at,
                    secret,
                }),
            );
        }
        Ok(Self {
            store,
            sealer,
            live: RwLock::new(live),
            changing: tokio::sync::Mutex::default(),
        })
    }

    /// The key of this id, unless it is revoked. It may have expired.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<Arc<AccessKey>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        live.get(id).cloned()
    }

    /// Makes a key; its secret is told here and never again.
    pub async fn create(
        &self,
        name: String,
        grant: Grant,
        expires_at: Option<Timestamp>,
    ) -> Result<(KeyRow, String), KeyError> {
        let (id, secret) = fresh()?;
        let _alone = self.changing.lock().await;
        let row = self
            .store
            .put_key(NewKey {
                sealed: self.sealer.seal(&id, secret.as_bytes())?,
                id,
                name,
                grant: grant.clone(),
                expires_at,
            })
            .await?;
        let key = AccessKey {
            id: row.id.clone(),
            grant,
            expires_at,
            secret: secret.clone().into_bytes(),
        };
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(row.id.clone(), Arc::new(key));
        tracing::info!(key = row.id, name = row.name, "access key made");
        Ok((row, secret))
    }

    /// Ends a key: nothing signed with it is taken from now on.
    pub async fn revoke(&self, id: &str) -> Result<(), StoreError> {
        let _alone = self.changing.lock().await;
        // First here: its caller may go away while the store writes, and then nothing after that would be done.
        self.live
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        self.store.revoke_key(id.to_owned()).await?;
        tracing::info!(key = id, "access key revoked");
        Ok(())
    }
}

/// A new id and secret.
fn fresh() -> Result<(String, String), SealError> {
    let random = SystemRandom::new();
    let mut id = [0; ID_LENGTH];
    let mut secret = [0; SECRET_BYTES];
    random.fill(&mut id).map_err(|_| SealError::Random)?;
    random.fill(&mut secret).map_err(|_| SealError::Random)?;
    let letter = |byte: &u8| char::from(ID_LETTERS[usize::from(*byte) % ID_LETTERS.len()]);
    let id: String = ID_PREFIX.chars().chain(id.iter().map(letter)).collect();
    Ok((id, STANDARD_NO_PAD.encode(secret)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permit::{ObjectPattern, Pattern};
    use crate::store::Names;

    async fn store(ground: &tempfile::TempDir) -> Store {
        let names = Names {
            region: "us-local-1".to_owned(),
            account: "000000000000".to_owned(),
        };
        Store::open(&ground.path().join("agentcore.db"), names).expect("store")
    }

    #[tokio::test]
    async fn keys_outlive_the_daemon_until_they_are_revoked() {
        let ground = tempfile::tempdir().expect("directory");
        let seal = ground.path().join("keys.seal");
        let open = || Sealer::open(&seal).expect("sealer");
        let store = store(&ground).await;
        let keys = AccessKeys::load(store.clone(), open()).await.expect("keys");
        let grant = Grant {
            runtimes: None,
            actions: Some(vec![Pattern::parse("Invoke*").expect("pattern")]),
            objects: Some(vec![ObjectPattern::parse("builds/*").expect("pattern")]),
        };
        let end = Some(Timestamp(4_000_000_000_000));
        let (row, secret) = keys
            .create("ci".to_owned(), grant.clone(), end)
            .await
            .expect("made");
        assert!(row.id.len() == 20 && secret.len() == 40, "{row:?}");
        assert!(
            keys.find(&row.id)
                .is_some_and(|key| key.secret() == secret.as_bytes())
        );

        let again = AccessKeys::load(store.clone(), open()).await.expect("keys");
        let key = again.find(&row.id).expect("kept");
        assert_eq!(
            (key.secret(), &key.grant, key.expires_at),
            (secret.as_bytes(), &grant, end)
        );
        assert!(!format!("{again:?}").contains(&secret));

        again.revoke(&row.id).await.expect("revoked");
        assert!(again.find(&row.id).is_none());
        assert!(
            again.revoke(&row.id).await.is_err(),
            "it is revoked already"
        );
        let third = AccessKeys::load(store.clone(), open()).await.expect("keys");
        assert!(third.find(&row.id).is_none());
        let listed = store
            .keys(crate::store::PageRequest::default())
            .await
            .expect("list");
        assert!(listed.items[0].revoked_at.is_some() && listed.items[0].sealed.is_empty());
    }

    #[tokio::test]
    async fn a_lost_key_file_loses_the_keys_and_nothing_else() {
        let ground = tempfile::tempdir().expect("directory");
        let seal = ground.path().join("keys.seal");
        let store = store(&ground).await;
        let keys = AccessKeys::load(store.clone(), Sealer::open(&seal).expect("sealer"))
            .await
            .expect("keys");
        let (row, _) = keys
            .create("a".to_owned(), Grant::default(), None)
            .await
            .expect("made");
        std::fs::remove_file(&seal).expect("removed");
        let again = AccessKeys::load(store, Sealer::open(&seal).expect("sealer"))
            .await
            .expect("keys");
        assert!(again.find(&row.id).is_none());
        again.revoke(&row.id).await.expect("can be revoked");
    }
}
