//! Noticing that files of the bundle changed: names, sizes and times, looked at twice a second.
//!
//! Looking is enough for a folder of sources and works on every file system (shared folders of virtual machines tell
//! nobody of changes); a big folder is looked at less often, so that this never takes more than a tenth of a core.

use crate::bundle::{Entry, Selection};
use crate::failure::Failure;
use crate::project::Project;
use proto::config::Language;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(500);

/// A folder being watched.
#[derive(Debug)]
pub(super) struct Watch {
    folder: PathBuf,
    language: Language,
    known: Vec<Entry>,
    pause: Duration,
}

impl Watch {
    /// Remembers how the folder is now.
    pub(super) fn begin(project: &Project) -> Result<Self, Failure> {
        let language = project.language();
        Ok(Self {
            known: Selection::of(&project.folder, language)?.entries,
            folder: project.folder.clone(),
            language,
            pause: EVERY,
        })
    }

    /// Resolves when something has changed and has come to rest: an editor or `git checkout` writes many files.
    pub(super) async fn changed(&mut self) {
        let mut moving = false;
        loop {
            tokio::time::sleep(self.pause).await;
            let started = Instant::now();
            // A file that vanishes while we look is a change on its way: look again.
            let Ok(now) = Selection::of(&self.folder, self.language) else {
                continue;
            };
            self.pause = EVERY.max(started.elapsed() * 10);
            if now.entries != self.known {
                self.known = now.entries;
                moving = true;
            } else if moving {
                return;
            }
        }
    }
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
