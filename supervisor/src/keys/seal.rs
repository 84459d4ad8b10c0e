//! Secrets on disk: sealed with a key that is a file of its own beside the database, so that a copy of the database alone
//! (a backup, a support bundle) gives nobody a usable secret. Whoever can read both has the secrets, as has root.
//!
//! The file is not to be lost: keys sealed with it can then be revoked, not used.

use crate::key_file::{self, KeyFileError};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::path::Path;

/// What the file is for.
const PURPOSE: &str = "It seals the secrets of access keys; restore it from a backup, or move it away and make the keys anew";

/// Why there is no sealer.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The kernel gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// Seals and opens secrets.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    /// Opens the key file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        let bytes = key_file::open(path, PURPOSE)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes)
            .expect("a key of this algorithm has as many bytes as the file");
        Ok(Self {
            key: LessSafeKey::new(key),
            random: SystemRandom::new(),
        })
    }

    /// Seals a secret under the name that it belongs to.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        self.random
            .fill(&mut nonce)
            .map_err(|_| SealError::Random)?;
        let mut text = secret.to_vec();
        self.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(name.as_bytes()),
                &mut text,
            )
            .map_err(|_| SealError::Random)?;
        Ok([nonce.as_slice(), &text].concat())
    }

    /// The secret; `None` if it was sealed with another key, under another name, or was changed.
    #[must_use]
    pub fn open_sealed(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let secret = self
            .key
            .open_in_place(nonce, Aad::from(name.as_bytes()), &mut text)
            .ok()?;
        Some(secret.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_the_same_file_and_name_open_a_secret() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("keys.seal");
        let sealer = Sealer::open(&path).expect("made");
        let sealed = sealer.seal("AKIA", b"secret").expect("sealed");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_ne!(sealed, sealer.seal("AKIA", b"secret").expect("sealed"));
        let again = Sealer::open(&path).expect("opened");
        assert_eq!(
            again.open_sealed("AKIA", &sealed).as_deref(),
            Some(b"secret".as_slice())
        );
        assert!(
            again.open_sealed("AKIB", &sealed).is_none(),
            "another key's"
        );
        let mut changed = sealed.clone();
        changed[NONCE_LEN] ^= 1;
        assert!(again.open_sealed("AKIA", &changed).is_none());
        assert!(again.open_sealed("AKIA", &sealed[..5]).is_none());
        fs::remove_file(&path).expect("removed");
        let other = Sealer::open(&path).expect("made");
        assert!(other.open_sealed("AKIA", &sealed).is_none(), "another file");
    }
}
