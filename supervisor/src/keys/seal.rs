//! Secrets on disk: sealed with a key that is a file of its own beside the database, so that a copy of the database alone
//! (a backup, a support bundle) gives nobody a usable secret. Whoever can read both has the secrets, as has root.
//!
//! The file is not to be lost: keys sealed with it can then be revoked, not used.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of the file.
const LENGTH: usize = 32;

/// Why there is no sealer.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file could not be used.
    #[error("cannot {verb} {}", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not what was written.
    #[error(
        "{} {fault}. It seals the secrets of access keys; restore it from a backup, or move it away and make the keys anew",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
    },
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
        let at = |verb| {
            move |source| SealError::File {
                verb,
                path: path.to_owned(),
                source,
            }
        };
        let damaged = |fault| SealError::Damaged {
            path: path.to_owned(),
            fault,
        };
        let random = SystemRandom::new();
        let bytes = match fs::read(path) {
            Ok(bytes) => {
                let mode = fs::metadata(path).map_err(at("look at"))?.mode();
                if mode & 0o077 != 0 {
                    return Err(damaged("can be read by others than its owner (chmod 600)"));
                }
                bytes
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut bytes = vec![0; LENGTH];
                random.fill(&mut bytes).map_err(|_| SealError::Random)?;
                write_whole(path, &bytes).map_err(at("create"))?;
                bytes
            }
            Err(error) => return Err(at("read")(error)),
        };
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes)
            .map_err(|_| damaged("does not have 32 bytes"))?;
        Ok(Self {
            key: LessSafeKey::new(key),
            random,
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

/// Beside its name first: a file of that name is always a whole one.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let _ = fs::remove_file(&fresh);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_same_file_and_name_open_a_secret() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("keys.seal");
        let sealer = Sealer::open(&path).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
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

    #[test]
    fn a_file_that_others_can_read_or_that_was_cut_is_refused() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("keys.seal");
        Sealer::open(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert!(
            Sealer::open(&path)
                .expect_err("open")
                .to_string()
                .contains("chmod 600")
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(&path, [1; 31]).expect("written");
        assert!(
            Sealer::open(&path)
                .expect_err("short")
                .to_string()
                .contains("32 bytes")
        );
    }
}
