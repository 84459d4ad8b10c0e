//! Noticing that files of the bundle changed: names, sizes and times, looked at twice a second.
//!
//! Looking is enough for a folder of sources and works on every file system (shared folders of virtual machines tell
//! nobody of changes); a big folder is looked at less often, so that this never takes more than a tenth of a core.

use crate::bundle::{BundleError, Entry, Selection};
use crate::failure::Failure;
use crate::project::Project;
use proto::config::Language;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(500);

/// A folder being watched.
#[derive(Debug)]
pub(super) struct Watch {
    folder: PathBuf,
    language: Language,
    known: Vec<Entry>,
    /// Files that we write ourselves (`agentcore dev > dev.log`): a note about a reload is no reason for the next.
    own: Vec<(u64, u64)>,
    pause: Duration,
}

impl Watch {
    /// Remembers how the folder is now.
    pub(super) fn begin(project: &Project) -> Result<Self, Failure> {
        let language = project.language();
        let mut watch = Self {
            known: Vec::new(),
            folder: project.folder.clone(),
            language,
            own: own_output(),
            pause: EVERY,
        };
        watch.known = watch.look()?;
        Ok(watch)
    }

    fn look(&self) -> Result<Vec<Entry>, BundleError> {
        let mut entries = Selection::of(&self.folder, self.language)?.entries;
        entries.retain(|entry| {
            let id = std::fs::metadata(&entry.source).map(|meta| (meta.dev(), meta.ino()));
            !id.is_ok_and(|id| self.own.contains(&id))
        });
        Ok(entries)
    }

    /// Resolves when something has changed and has come to rest: an editor or `git checkout` writes many files.
    pub(super) async fn changed(&mut self) {
        let mut moving = false;
        loop {
            tokio::time::sleep(self.pause).await;
            let started = Instant::now();
            // A file that vanishes while we look is a change on its way: look again.
            let Ok(now) = self.look() else { continue };
            self.pause = EVERY.max(started.elapsed() * 10);
            if now != self.known {
                self.known = now;
                moving = true;
            } else if moving {
                return;
            }
        }
    }
}

/// Device and inode of what standard output and standard error are.
fn own_output() -> Vec<(u64, u64)> {
    let descriptors = ["/proc/self/fd/1", "/proc/self/fd/2"];
    let files = descriptors
        .iter()
        .filter_map(|path| std::fs::metadata(path).ok());
    files.map(|meta| (meta.dev(), meta.ino())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_changed_file_is_noticed_and_an_ignored_one_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write =
            |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("written");
        write("agentcore.toml", "name = \"a\"\nentrypoint = \"a.py\"\n");
        write("a.py", "1");
        let mut watch = Watch::begin(&Project::open(dir.path()).expect("valid")).expect("begun");
        write("a.pyc", "left out");
        let quiet = tokio::time::timeout(EVERY * 3, watch.changed()).await;
        assert!(quiet.is_err(), "an ignored file is no change");
        write("a.py", "22");
        let noticed = tokio::time::timeout(Duration::from_secs(20), watch.changed()).await;
        assert!(noticed.is_ok());
    }
}
