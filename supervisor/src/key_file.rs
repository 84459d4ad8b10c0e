//! Files of 32 random bytes that keys are made of: beside the database and never in it, so that a copy of the database alone
//! (a backup, a support bundle) gives nobody a usable secret. Whoever can read both has the secrets, as has root.

use ring::rand::{SecureRandom, SystemRandom};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of such a file.
pub(crate) const LENGTH: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
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
    #[error("{} {fault}. {purpose}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: &'static str,
        /// What it is for, and what to do.
        purpose: &'static str,
    },
    /// The kernel gave no random bytes.
    #[error("no random bytes")]
    Random,
}

/// The bytes of the file at `path`, which is made if it is not there. `purpose` says, in a sentence, what it is for and what
/// can be done about one that is damaged.
pub(crate) fn open(path: &Path, purpose: &'static str) -> Result<[u8; LENGTH], KeyFileError> {
    let at = |verb| {
        move |source| KeyFileError::File {
            verb,
            path: path.to_owned(),
            source,
        }
    };
    let damaged = |fault| KeyFileError::Damaged {
        path: path.to_owned(),
        fault,
        purpose,
    };
    match fs::read(path) {
        Ok(bytes) => {
            let mode = fs::metadata(path).map_err(at("look at"))?.mode();
            if mode & 0o077 != 0 {
                return Err(damaged("can be read by others than its owner (chmod 600)"));
            }
            bytes
                .try_into()
                .map_err(|_| damaged("does not have 32 bytes"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut bytes = [0; LENGTH];
            SystemRandom::new()
                .fill(&mut bytes)
                .map_err(|_| KeyFileError::Random)?;
            write_whole(path, &bytes).map_err(at("create"))?;
            Ok(bytes)
        }
        Err(error) => Err(at("read")(error)),
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
    fn a_file_that_others_can_read_or_that_was_cut_is_refused() {
        let ground = tempfile::tempdir().expect("directory");
        let path = ground.path().join("some.key");
        let made = open(&path, "It is a test's.").expect("made");
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert_eq!(open(&path, "It is a test's.").expect("opened"), made);
        let refused = || {
            let error = open(&path, "It is a test's.").expect_err("open");
            error.to_string()
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        assert!(refused().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
        fs::write(&path, [1; 31]).expect("written");
        assert!(refused().ends_with("does not have 32 bytes. It is a test's."));
    }
}
