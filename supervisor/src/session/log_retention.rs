//! How long sessions' logs are kept: as long as the store knows the session, and never more bytes in all than
//! `limits.session_logs`. Beyond that the logs of sessions that are over go, those first that nobody wrote to for longest.
//!
//! A sweep looks at the directory, not at events: whatever was missed (a crash, a disk that was full) is found by the next.

use crate::broker::Broker;
use crate::fault::chain;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Between two sweeps. In that time a session can write twice `log::FILE_BYTES`, whatever its rate.
const PAUSE: Duration = Duration::from_secs(60);

/// Removes logs that are not to be kept, now and once a minute.
pub async fn keep_swept(broker: Arc<Broker>) {
    loop {
        if let Err(error) = sweep(&broker).await {
            tracing::warn!(error, "logs of sessions that are over could not be swept");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn sweep(broker: &Broker) -> Result<(), String> {
    let directory = broker.ground.directory.join("logs");
    let found = blocking(move || look(&directory)).await?;
    let live = broker.registry.all();
    let live = live.iter().map(|session| session.id.to_string()).collect();
    let known = broker.store.session_ids().await.map_err(|e| chain(&e))?;
    let most = broker.config().limits.session_logs.0;
    let removed = blocking(move || found.finish(&live, &known, most)).await?;
    if removed > 0 {
        tracing::debug!(files = removed, "logs of sessions that are over removed");
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| chain(&e))?.map_err(|e| chain(&e))
}

/// Files of one session's log: the file, and perhaps its predecessor.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    session: String,
    bytes: u64,
    written: SystemTime,
}

/// Looks for what is there; **before** [`Sweep::finish`] is told who lives, so that a session that begins in between is not
/// taken for one that is over.
fn look(directory: &Path) -> io::Result<Sweep> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Gone since.
        let Ok(about) = entry.metadata() else {
            continue;
        };
        files.push(Kept {
            path: entry.path(),
            session: name.split('.').next().unwrap_or_default().to_owned(),
            bytes: about.len(),
            written: about.modified().unwrap_or(SystemTime::UNIX_EPOCH),
        });
    }
    Ok(Sweep { files })
}

/// The logs that were there.
#[derive(Debug)]
struct Sweep {
    files: Vec<Kept>,
}

impl Sweep {
    /// Removes what is not to be kept; says how many files went.
    fn finish(
        self,
        live: &HashSet<String>,
        known: &HashSet<String>,
        most: u64,
    ) -> io::Result<usize> {
        let doomed = self.doomed(live, known, most);
        for path in &doomed {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(doomed.len())
    }

    fn doomed(
        mut self,
        live: &HashSet<String>,
        known: &HashSet<String>,
        most: u64,
    ) -> Vec<PathBuf> {
        let mut bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        self.files.retain(|file| !live.contains(&file.session));
        self.files
            .sort_by_key(|file| (known.contains(&file.session), file.written));
        let mut doomed = Vec::new();
        for file in self.files {
            if bytes > most || !known.contains(&file.session) {
                bytes -= file.bytes;
                doomed.push(file.path);
            }
        }
        doomed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn set(names: &[&str]) -> HashSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    fn file(directory: &Path, name: &str, bytes: usize, age: u64) {
        let path = directory.join(name);
        fs::write(&path, vec![b'x'; bytes]).expect("write");
        let then = SystemTime::now() - Duration::from_secs(age);
        let file = fs::File::options().write(true).open(&path).expect("open");
        file.set_modified(then).expect("date");
    }

    fn left(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .expect("list")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn logs_go_with_their_sessions_and_the_oldest_for_room() {
        let directory = tempfile::tempdir().expect("directory");
        let at = directory.path();
        file(at, "live.log", 100, 900);
        file(at, "live.log.1", 100, 950);
        file(at, "old.log", 100, 500);
        file(at, "old.log.1", 100, 600);
        file(at, "new.log", 100, 5);
        file(at, "forgotten.log", 100, 1);
        let sweep = |most| {
            look(at)
                .expect("look")
                .finish(&set(&["live"]), &set(&["live", "old", "new"]), most)
                .expect("sweep")
        };
        assert_eq!(sweep(1 << 20), 1);
        assert_eq!(
            left(at),
            ["live.log", "live.log.1", "new.log", "old.log", "old.log.1"]
        );
        assert_eq!(sweep(400), 1);
        assert_eq!(left(at), ["live.log", "live.log.1", "new.log", "old.log"]);
        // What lives is kept whatever it takes; each has its own bound.
        assert_eq!(sweep(1), 2);
        assert_eq!(left(at), ["live.log", "live.log.1"]);
    }
}
